"""Language models as judges: prompts, verdicts and scores as pure code on top of a `Completer`."""
