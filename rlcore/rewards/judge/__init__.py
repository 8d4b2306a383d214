"""Language models as judges: prompts, verdicts and scores as pure code over anything that completes prompts."""
