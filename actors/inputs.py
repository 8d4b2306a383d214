"""Checks of model, data and reward before anything starts: files are read, the reward scores one row, without Ray."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from actors.config.schema import Config
from rlcore.problems import Problem, UserError
from rlcore.types import Prompt


def inspect_inputs(config: Config, wrong: Collection[str] = ()) -> list[Problem]:
    """Problems of the model folder, the data and the reward. A hub id is not resolved.

    Args:
        wrong: keys with known problems; checks that depend on them are skipped.
    """
    from actors.training.models import embedding_problem, load_tokenizer, prepare_model
    from rlcore.agents.setup import describe
    from rlcore.agents.tools import InvalidEnvironment
    from rlcore.data.sources.load import load_data

    def touched(*groups: str) -> bool:
        return any(key == group or key.startswith(group + ".") for key in wrong for group in groups)

    if touched("model"):
        return []
    found: list[Problem] = []
    with tempfile.TemporaryDirectory(prefix="rlcore-plan-") as scratch:
        try:
            model = config.model
            if model.path is not None and (model.gguf_file or not Path(model.path).expanduser().is_dir()):
                return []  # a hub id, or a file to convert first
            path = prepare_model(model, Path(scratch), config.seed)
            tokenizer = load_tokenizer(path, model.trust_remote_code)
        except UserError as error:
            return [Problem("model.path", config.model.path, str(error), "set it to a model folder that loads")]
        if touched("data"):
            return found
        try:
            tools = None
            if config.environment.fn is not None and not touched("environment"):
                tools = describe(config.environment, config.data.chat_template, os.getcwd()).schemas
            data = load_data(config.data, tokenizer, config.seed, tools)
        except InvalidEnvironment as error:
            cure = "see `rlcore keys environment`"
            return [*found, Problem("environment.fn", config.environment.fn, str(error), cure)]
        except UserError as error:
            return [*found, Problem("data", config.data.source, str(error), "see `rlcore keys data`")]
        if text := embedding_problem(path, tokenizer, [*data.train, *data.eval], model.trust_remote_code):
            found.append(Problem("model.path", config.model.path, text, "or choose another model"))
    if not touched("reward") and data.train:
        found += _reward(config, data.train[0])
    return found




def _reward(config: Config, prompt: Prompt) -> Iterator[Problem]:
    """Scores one row in a verifier process, like a run before it loads a model."""
    from actors.verifying.verifier import VerifierWorker
    from rlcore.rewards.scorers import Terms, verifier_config

    verified = Terms.of(config.reward).split(prompt).verified
    if verified is None:
        return
    worker = VerifierWorker()
    try:
        worker.start(verifier_config(config.reward), os.getcwd())
        worker.smoke(verified)
    except UserError as error:
        key, value = ("reward.fn", config.reward.fn) if config.reward.fn else ("reward.terms", prompt.rewards or "...")
        yield Problem(key, value, str(error), "fix the reward or this row")
    finally:
        worker.shutdown()
