"""Runs the plan: every stage that is not done already, on actors that stay alive from one to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.loops.offline import NothingToTrainOn
from rlcore.rounds.context import RunContext, StageContext
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.stages import STAGES
from rlcore.rounds.status import why_empty
from rlcore.rounds.store.store import Artefact, ArtefactStore, key_of

CODE = "code"  # in an artefact's record of its config
STAGE_FOLDERS = "stages"  # in the run folder: curves and samples of each run of a stage, next to the artefacts


@dataclasses.dataclass(frozen=True)
class StageIndex:
    """What decides which stages are done: the plan, the artefacts, and the settings that enter their keys."""

    plan: Sequence[Node]
    store: ArtefactStore
    roots: Mapping[str, Artefact]  # what is there from the start, by name
    reads: Callable[[Node], Mapping[str, Any]]  # the part of the run's config that changes what a stage makes
    seed: int
    code: Callable[[Node], Mapping[str, str]] = lambda node: {}  # the user's Python that a stage runs: path, digest

    def inputs(self, node: Node, made: Mapping[tuple[int, str], Artefact]) -> dict[str, list[Artefact]] | None:
        """What a node reads, by field; None while one of them has not been made."""
        found: dict[str, list[Artefact]] = {}
        for field, sources in node.inputs.items():
            known = [self.roots.get(s.stage) if s.round == 0 else made.get(s.key) for s in sources]
            if any(one is None for one in known):
                return None
            found[field] = [one for one in known if one is not None]
        return found

    def key(self, node: Node, inputs: Mapping[str, Sequence[Artefact]]) -> str:
        parents = {field: [one.hash for one in found] for field, found in inputs.items()}
        seed = hash_seed(self.seed, node.round) if node.config.SEEDED else self.seed
        reads = dict(self.reads(node))
        if getattr(node.config, "weights", None):  # an entry's weight is shared by all the artefacts it leads to
            reads["entries"] = {field: [s.entry for s in sources] for field, sources in node.inputs.items()}
        if node.config.NAMED:
            reads["stage"] = node.stage  # in the uids of what it makes
        return key_of(node.config, reads, parents, seed)

    def known(self) -> tuple[dict[tuple[int, str], str], dict[tuple[int, str], Artefact]]:
        """Keys as far as they are known, and the finished artefacts among them; starts nothing."""
        keys: dict[tuple[int, str], str] = {}
        made: dict[tuple[int, str], Artefact] = {}
        for node in self.plan:
            if (inputs := self.inputs(node, made)) is not None:
                keys[node.key] = self.key(node, inputs)
                if (artefact := self.store.find(keys[node.key])) is not None:
                    made[node.key] = artefact
        return keys, made


def hash_seed(seed: int, round_: int) -> int:
    """Rounds draw other samples of equal inputs."""
    return seed * 1_000_003 + round_


def run(index: StageIndex, live: RunContext) -> dict[tuple[int, str], Artefact]:
    """Every node in turn; finished ones are skipped, partial ones resume. Returns all artefacts.

    Raises:
        Interrupted: between two stages, or in one, which then resumes from its last part or checkpoint.
    """
    made: dict[tuple[int, str], Artefact] = {}
    tracker = live.world.tracker
    for number, node in enumerate(index.plan, 1):
        live.stop.check()
        inputs = index.inputs(node, made)
        assert inputs is not None  # the plan is in an order in which each finds what it reads
        key = index.key(node, inputs)
        artefact, verb = index.store.find(key), "done before"
        if artefact is None:
            try:
                artefact, verb = one_stage(index, live, node, inputs, key), "done"
            except NothingToTrainOn as error:
                raise NothingToTrainOn(node.stage, why_empty(inputs.get("data", ()), made)) from error
            tracker.log(number, numbers(node, artefact))
        made[node.key] = artefact
        tracker.message(line(node, artefact, number, len(index.plan), verb))
        if warning := outdated(artefact, index.code(node)):
            tracker.message(warning)
    return made


def one_stage(
    index: StageIndex, live: RunContext, node: Node, inputs: Mapping[str, Sequence[Artefact]], key: str
) -> Artefact:  # fmt: skip
    draft = index.store.begin(
        key, stage=node.stage, round=node.round, kind=node.kind, made=node.made,
        config={**dataclasses.asdict(node.config), CODE: dict(index.code(node))}, parents=inputs,
    )  # fmt: skip
    if draft.reopened:
        live.world.tracker.message(f"round {node.round}, {node.stage}: resuming")
    folder = live.run_dir / STAGE_FOLDERS / f"r{node.round:02d}-{node.stage}-{key[:8]}"
    return STAGES[node.kind].run(StageContext(live, node, inputs, draft, index.seed, folder))


def outdated(artefact: Artefact, code: Mapping[str, str]) -> str:
    """What to say where the user's Python has changed since; "" where it has not. The artefact stays in use: a reward
    that is fixed in round 4 must not cost rounds 1 to 3."""
    before = artefact.config.get(CODE) or {}
    changed = [path for path, digest in code.items() if before.get(path, digest) != digest]
    if not changed:
        return ""
    return (
        f"  {', '.join(changed)} has changed since, which is in no key: this artefact is kept. To make it again, and "
        f"what depends on it, remove {artefact.folder} and start again"
    )


def numbers(node: Node, artefact: Artefact) -> dict[str, float]:
    """The report's numbers, for trackers."""
    found = {f"{node.stage}/{name}": value for name, value in flat(artefact.report).items()}
    return {**found, f"{node.stage}/seconds": artefact.seconds, "rounds/round": float(node.round)}


def flat(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """
    >>> flat({"a": {"b": 1, "": 2}, "c": "text", "d": True})
    {'a/b': 1.0, 'a/unnamed': 2.0, 'd': 1.0}
    """
    found: dict[str, float] = {}
    for name, value in ((name or "unnamed", value) for name, value in report.items()):
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = float(value)
    return found


def line(node: Node, artefact: Artefact, number: int, total: int, verb: str) -> str:
    hidden = ("eval/", "counts/dropped_", "sources_")
    shown = {k: v for k, v in flat(artefact.report).items() if not k.startswith(hidden)}
    figures = ", ".join(f"{name} {value:.4g}" for name, value in list(shown.items())[:6])
    head = f"[{number}/{total}] round {node.round} {node.stage}: {verb} in {artefact.seconds:.1f} s"
    return f"{head}; {figures}" if figures else head


def folder_of(run_dir: Path) -> Path:
    """Of the artefacts of a run."""
    return run_dir / "artefacts"
