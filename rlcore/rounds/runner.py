"""Runs the plan: all stages that are not finished, on shared actors."""

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

CODE = "code"  # key in the config record of an artefact
STAGE_FOLDERS = "stages"  # folder in the run folder for curves and samples of each run of a stage


@dataclasses.dataclass(frozen=True)
class StageIndex:
    """The plan, the artefacts, and the settings in their keys, which determine the finished stages."""

    plan: Sequence[Node]
    store: ArtefactStore
    roots: Mapping[str, Artefact]  # built-in inputs by name
    reads: Callable[[Node], Mapping[str, Any]]  # the part of the run's config that affects the output of a stage
    seed: int
    code: Callable[[Node], Mapping[str, str]] = lambda node: {}  # Python of the user that a stage runs: path -> digest

    def inputs(self, node: Node, made: Mapping[tuple[int, str], Artefact]) -> dict[str, list[Artefact]] | None:
        """Inputs of a node by field; None if one is missing."""
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
        if getattr(node.config, "weights", None):  # artefacts of one entry share its weight
            reads["entries"] = {field: [s.entry for s in sources] for field, sources in node.inputs.items()}
        if node.config.NAMED:
            reads["stage"] = node.stage  # part of the uids in its output
        return key_of(node.config, reads, parents, seed)

    def known(self) -> tuple[dict[tuple[int, str], str], dict[tuple[int, str], Artefact]]:
        """Known keys and finished artefacts. Starts no actor."""
        keys: dict[tuple[int, str], str] = {}
        made: dict[tuple[int, str], Artefact] = {}
        for node in self.plan:
            if (inputs := self.inputs(node, made)) is not None:
                keys[node.key] = self.key(node, inputs)
                if (artefact := self.store.find(keys[node.key])) is not None:
                    made[node.key] = artefact
        return keys, made


def hash_seed(seed: int, round_: int) -> int:
    """Makes keys of seeded stages differ between rounds."""
    return seed * 1_000_003 + round_


def run(index: StageIndex, live: RunContext) -> dict[tuple[int, str], Artefact]:
    """Runs every node in order; skips finished ones and resumes partial ones. Returns all artefacts.

    Raises:
        Interrupted: between two stages or inside one; a restart resumes from the last part or checkpoint.
    """
    made: dict[tuple[int, str], Artefact] = {}
    tracker = live.world.tracker
    for number, node in enumerate(index.plan, 1):
        live.stop.check()
        inputs = index.inputs(node, made)
        assert inputs is not None  # the plan orders inputs first
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
    """A warning if the Python of the user has changed since; "" otherwise. The artefact stays valid: a reward fixed in
    round 4 must not invalidate rounds 1 to 3.
    """
    before = artefact.config.get(CODE) or {}
    changed = [path for path, digest in code.items() if before.get(path, digest) != digest]
    if not changed:
        return ""
    return (
        f"  {', '.join(changed)} has changed since. Code is not part of the key, so this artefact is kept. To rebuild "
        f"it and its dependants, remove {artefact.folder} and start again"
    )


def numbers(node: Node, artefact: Artefact) -> dict[str, float]:
    """Numbers of a report, for trackers."""
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
    """Summary of the artefacts of a run."""
    return run_dir / "artefacts"
