"""Converts `rounds` of a config to the plan of its stages; all errors are reported together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.config.schema import Config
from rlcore.data.examples.config import ExampleKind, ExamplesConfig
from rlcore.data.sources.files import DataError, find
from rlcore.problems import Problem
from rlcore.reader import read
from rlcore.rewards.judge.config import JudgeKind
from rlcore.rewards.scorers import REWARD_MODEL, Terms
from rlcore.rounds.plan import settings
from rlcore.rounds.plan.config import BUILT_IN, Made, ScoreBy, StageConfig
from rlcore.rounds.plan.graph import Node, resolve
from rlcore.rounds.stages import STAGES

MADE_OF = {
    ExampleKind.prompts: Made.prompts,
    ExampleKind.demonstrations: Made.samples,
    ExampleKind.preferences: Made.pairs,
    ExampleKind.labelled: Made.samples,
    ExampleKind.attributes: Made.samples,
    ExampleKind.attribute_pairs: Made.pairs,
}


def plan_rounds(config: Config) -> tuple[list[Node], list[Problem]]:
    """The ordered runs of all stages, and the problems; the runs are valid only without problems."""
    rounds = config.rounds
    found = settings.check(rounds, STAGES)
    if rounds.count < 1 or not rounds.stages:
        return [], found
    stages, wrong = _stages(config)
    found += wrong
    unread = [name for name in rounds.stages if name not in stages]
    nodes, problems = resolve(stages, rounds.count, roots_of(config), unread)
    found += problems
    seen: dict[tuple[str, str], Problem] = {}
    for node in nodes:
        for problem in _of_node(config, node):
            seen.setdefault((problem.key, problem.text), problem)
    return nodes, [*found, *_source_problems(config), *seen.values()]


def roots_of(config: Config) -> dict[str, Made]:
    """Built-in inputs by name; sources with errors are skipped."""
    sources = {name: read(ExamplesConfig, raw, name)[0] for name, raw in config.rounds.sources.items()}
    known = {name: MADE_OF[source.kind] for name, source in sources.items() if source is not None}
    return {**BUILT_IN, **dict.fromkeys(config.rounds.models, Made.model), **known}


def _source_problems(config: Config) -> Iterator[Problem]:
    for name, raw in config.rounds.sources.items():
        key = f"rounds.sources.{name}"
        source, found = read(ExamplesConfig, raw, key)
        yield from found
        if source is not None and source.path:
            try:
                find(source.source, source.path, f"{key}.path", source.split)
            except DataError as error:
                text = str(error).removeprefix(f"{key}.path={source.path}: ")
                yield Problem(f"{key}.path", source.path, text, "relative paths start at the working directory")


def _stages(config: Config) -> tuple[dict[str, list[StageConfig]], list[Problem]]:
    """Stages with valid options, each with its config of every round, and the problems of the others."""
    found: dict[tuple[str, str], Problem] = {}
    stages: dict[str, list[StageConfig]] = {}
    broken: set[str] = set()
    for (_, name), raw in settings.merged(config.rounds, STAGES).items():
        key = f"{settings.STAGES_KEY}.{name}"
        options = {option: value for option, value in raw.items() if option != "kind"}
        stage, problems = read(STAGES[raw["kind"]].config, options, key)
        found |= {(problem.key, problem.text): problem for problem in problems}
        if stage is None:
            broken.add(name)
        else:
            stages.setdefault(name, []).append(stage)
    return {name: stage for name, stage in stages.items() if name not in broken}, list(found.values())


def _of_node(config: Config, node: Node) -> Iterator[Problem]:
    """Errors in the options of one run, beyond those of the reader."""
    stage, key = node.config, f"{settings.STAGES_KEY}.{node.stage}"
    weights = getattr(stage, "weights", None)
    if weights and not (all(0 <= w < math.inf for w in weights) and sum(weights) > 0):
        cure = "give numbers from 0, one of them above 0"
        yield Problem(f"{key}.weights", list(weights), "they are not valid shares", cure)
    yield from stage.stage_problems(key, node.made)
    yield from _of_run(config, node, key)


def _of_run(config: Config, node: Node, key: str) -> Iterator[Problem]:
    """Requirements of a stage on the run's config."""
    stage, by = node.config, getattr(node.config, "by", None)
    unnamed = getattr(stage, "reward_model", "") is None
    if by is ScoreBy.judge and config.reward.judge.kind is JudgeKind.none:
        text = f"stage {node.stage} asks a judge"
        yield Problem("reward.judge.kind", config.reward.judge.kind, text, "set it to engine or endpoint")
    if stage.needs_reward_model() and config.cluster.roles.reward.num_workers < 1:
        text = f"stage {node.stage} needs a reward model"
        yield Problem("cluster.roles.reward.num_workers", 0, text, "set it to 1")
    if by is ScoreBy.reward_model and unnamed:
        text, cure = "by: reward_model needs a model", "name the stage that makes it"
        yield Problem(f"{key}.reward_model", None, text, cure)
    if stage.asks_reward() and unnamed and REWARD_MODEL in Terms.of(config.reward).needed:
        text = "the run's reward uses a reward model, and this stage does not name one"
        yield Problem(f"{key}.reward_model", None, text, "name the stage that makes it, such as reward@latest")


def folder_problems(config: Config, start: Path, tokenizer: Any) -> list[Problem]:
    """Checks `rounds.models`: each is a folder with the architecture and tokenizer of the start model.

    The same engines load all of them in turn.
    """
    from actors.training.models import ModelError, check_model, load_tokenizer, other_tokenizer

    found = []
    for name, path in config.rounds.models.items():
        key, folder = f"rounds.models.{name}", Path(path).expanduser()
        if not folder.is_dir():
            found.append(Problem(key, path, "no such folder", "a Hugging Face folder of the run's architecture"))
            continue
        try:
            check_model(folder)
            other = load_tokenizer(folder, config.model.trust_remote_code)
        except ModelError as error:
            found.append(Problem(key, path, str(error), "set it to a model folder that loads"))
            continue
        if text := other_tokenizer(tokenizer, other):
            cure = "members of a committee must share the run's tokenizer, because other models train on their tokens"
            found.append(Problem(key, path, text, cure))
        if text := other_shape(start, folder):
            found.append(Problem(key, path, text, "the engines support one architecture, that of the run"))
    return found


def token_problems(nodes: Sequence[Node], tokenizer: Any) -> list[Problem]:
    """Problems of `train.ignore_tokens`, one for each stage and text."""
    from rlcore.rounds.training import token_ids

    found = {}
    for node in nodes:
        for text in getattr(getattr(node.config, "train", None), "ignore_tokens", ()):
            try:
                token_ids(tokenizer, [text])
            except ValueError as error:
                key = f"rounds.stages.{node.stage}.train.ignore_tokens"
                found[key, text] = Problem(key, text, str(error), "use a single token, for example <|im_end|>")
    return list(found.values())


def other_shape(start: Path, folder: Path) -> str:
    """Differences of a model folder's architecture from the start model's; "" if equal."""
    import transformers

    from rlcore.storage.average import BOOKKEEPING

    mine, other = (transformers.AutoConfig.from_pretrained(str(path)).to_dict() for path in (start, folder))
    skip = {*BOOKKEEPING, "_name_or_path", "name_or_path"}
    different = sorted(k for k in {*mine, *other} - skip if mine.get(k) != other.get(k))
    return f"its config.json differs in {', '.join(different[:5])}" if different else ""
