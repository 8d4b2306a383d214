"""`rlcore rounds status`: state and dropped rows of every stage, and the gain of each round."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rlcore.rounds.plan.config import RECORDS, Made
from rlcore.rounds.plan.graph import Node
from rlcore.rounds.store.artefact import Artefact
from rlcore.rounds.store.store import ArtefactStore, HalfDone

HEADLINES = ("accuracy", "win_rate", "mean_reward")  # metrics of an evaluation report, if present
DROPPED = "dropped_"  # prefix of counts that contain a reason
REASONS_SHOWN = 3
DONE, HALF, OUTDATED, TODO = "done", "half-done", "outdated", "to do"


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of one evaluation."""

    round: int
    stage: str
    report: Mapping[str, Any]
    prompts: str = ""  # content hash of the prompts; only equal prompts are comparable
    start: bool = False  # a model from the start, the baseline of the first round


@dataclass(frozen=True, slots=True)
class Gain:
    round: int
    stage: str
    metric: str  # one of HEADLINES
    value: float
    gain: float | None  # compared with the previous round or the start; None: no baseline


@dataclass(frozen=True, slots=True)
class Line:
    """State of one run of a stage."""

    node: Node
    state: str  # DONE, HALF, OUTDATED, TODO
    artefact: Artefact | None = None  # DONE: with the current key; OUTDATED: the latest with another key
    half: HalfDone | None = None


def gains(reports: Iterable[Measured]) -> list[Gain]:
    """Headline metrics by stage, round and metric. The gain is relative to the latest earlier round of the stage with
    the same prompts.

    >>> [g.gain for g in gains([Measured(1, "e", {"accuracy": 0.5}), Measured(2, "e", {"accuracy": 0.75})])]
    [None, 0.25]
    """
    found: list[Gain] = []
    ordered = sorted(reports, key=lambda one: one.round)
    start = {(one.prompts, metric): value for one in ordered if one.start for metric, value in headlines(one.report)}
    before: dict[tuple[str, str, str], float] = {}
    for one in ordered:
        for metric, value in headlines(one.report):
            place = (one.stage, one.prompts, metric)
            last = None if one.start else before.get(place, start.get((one.prompts, metric)))
            found.append(Gain(one.round, one.stage, metric, value, None if last is None else value - last))
            before[place] = value
    return found


def headlines(report: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = ((name, report.get(name)) for name in HEADLINES)
    return [(name, float(v)) for name, v in found if isinstance(v, int | float) and not isinstance(v, bool)]


def dropped(report: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> number of records, largest first, from counts named `dropped_<reason>` in the report or its `counts`,
    and from its list `drops` with `reason` and `dropped`.
    """
    counts: dict[str, int] = {}
    for part in (report, report.get("counts")):
        if isinstance(part, Mapping):
            named = {k.removeprefix(DROPPED): v for k, v in part.items() if k.startswith(DROPPED)}
            counts |= {reason: v for reason, v in named.items() if isinstance(v, int) and v > 0}
    for drop in report.get("drops") or ():
        counts[drop["reason"]] = counts.get(drop["reason"], 0) + drop["dropped"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def why_empty(artefacts: Iterable[Artefact], known: Mapping[tuple[int, str], Artefact]) -> str:
    """Names the stage that dropped all rows of the artefacts; "" if none did. `known`: artefacts by round and stage."""
    for one in artefacts:
        if one.num_rows:
            continue
        if counts := dropped(one.report):
            total, threshold = sum(counts.values()), (one.config.get("select") or {}).get("threshold")
            limit = "" if threshold is None else f" {threshold}"
            shown = (
                f"{count:,} of {total:,} {reason.replace('_', ' ')}{limit * (reason == 'below_threshold')}"
                for reason, count in counts.items()
            )
            return f"stage {one.stage} of round {one.round} dropped all of its rows: {', '.join(shown)}"
        parents = (known[p.round, p.stage] for p in one.parents if (p.round, p.stage) in known)
        if text := why_empty(parents, known):
            return text
    return ""


def final_model(lines: Iterable[Line]) -> Artefact | None:
    """The model of the last stage that makes one; None if it has not run."""
    models = [line for line in lines if line.node.made is Made.model]
    return models[-1].artefact if models and models[-1].state == DONE else None


def survey(plan: Sequence[Node], keys: Mapping[tuple[int, str], str], store: ArtefactStore) -> list[Line]:
    """State of each node. `keys`: (round, stage) -> key of the nodes with finished parents."""
    halves = {half.key: half for half in store.half_done()}
    newest: dict[tuple[int, str], Artefact] = {}
    for one in reversed(store.artefacts()):
        newest[one.round, one.stage] = one
    lines = []
    for node in plan:
        key = keys.get(node.key)
        artefact = store.find(key) if key else None
        half = halves.get(key) if key else None
        other = newest.get(node.key)
        if artefact is not None:
            lines.append(Line(node, DONE, artefact))
        elif half is not None:
            lines.append(Line(node, HALF, half=half))
        elif other is not None and other.key != key:
            lines.append(Line(node, OUTDATED, other))
        else:
            lines.append(Line(node, TODO))
    return lines


def render(plan: Sequence[Node], keys: Mapping[tuple[int, str], str], store: ArtefactStore, width: int = 120) -> str:
    """The tree of rounds and stages, then a table of gain and seconds per round; plain text.

    Args:
        plan: from `graph.plan`.
        keys: (round, stage) -> key of the nodes with finished parents; other nodes have no key yet.
        store: may be read-only.
        width: characters per line.
    """
    lines = survey(plan, keys, store)
    won = gains(measured(lines))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    console.print(_tree(lines, won))
    table = _table(lines, won)
    if table.row_count:
        console.print()
        console.print(table)
    current = {line.artefact.folder for line in lines if line.artefact and line.state == DONE}
    others = [one for one in store.artefacts() if one.round > 0 and one.folder not in current]
    for text in [f"Artefacts with other settings: {len(others)}."] * bool(others) + store.warnings:
        console.print(Text(text))
    model = final_model(lines)
    return out.getvalue() + (f"\nmodel  {model.path}\n" if model is not None else "")


def measured(lines: Iterable[Line]) -> list[Measured]:
    """The finished evaluations."""
    found = []
    for line in lines:
        one = line.artefact
        if line.state == DONE and line.node.made is Made.report and one is not None:
            models = [parent for parent in one.parents if parent.field == "model"]
            prompts = "".join(parent.hash for parent in one.parents if parent.field == "prompts")
            start = bool(models) and all(parent.round == 0 for parent in models)
            found.append(Measured(line.node.round, line.node.stage, one.report, prompts, start))
    return found


def _tree(lines: Sequence[Line], won: Sequence[Gain]) -> Tree:
    ready = sum(line.state == DONE for line in lines)
    tree = Tree(Text(f"{ready} of {len(lines)} stages done"))
    names = max((len(line.node.stage) for line in lines), default=0)
    branches: dict[int, Tree] = {}
    for line in lines:
        node = line.node
        if node.round not in branches:
            branches[node.round] = tree.add(Text(f"round {node.round}"))
        mine = [gain for gain in won if (gain.round, gain.stage) == node.key]
        head = f"{node.stage:<{names}}  {node.kind:<16}  {line.state:<9}"
        text = f"{head}  {_size(line):>12}  {_time(line):>9}  {_notes(line, mine)}".rstrip()
        branches[node.round].add(Text(text, no_wrap=True, overflow="ellipsis"))
    return tree


def _size(line: Line) -> str:
    one = line.artefact
    if line.half is not None:
        parts, steps = line.half.parts, line.half.steps
        return f"{parts:,} part{'s' * (parts > 1)}" if parts else f"step {steps:,}" if steps else "begun"
    if one is None or line.state != DONE:
        return ""
    if one.made in RECORDS:
        return f"{one.num_rows:,} rows"
    return _bytes(one.num_bytes) if one.num_bytes else ""


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _time(line: Line) -> str:
    known = line.half if line.half is not None else line.artefact if line.state == DONE else None
    return "" if known is None else f"{known.seconds:,.1f} s"


def _notes(line: Line, won: Sequence[Gain]) -> str:
    one, notes = line.artefact, [f"{gain.metric} {_value(gain)}" for gain in won]
    if line.state == OUTDATED:
        return "made with other settings or inputs"
    if one is None:
        return ""
    if (one.round, one.stage) != line.node.key:
        notes.append(f"the same as {one.name}")
    if counts := dropped(one.report):
        shown = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items()]
        rest = sum(list(counts.values())[REASONS_SHOWN:])
        notes.append("dropped " + ", ".join([*shown[:REASONS_SHOWN], *([f"{rest:,} for others"] if rest else [])]))
    return "; ".join(notes)


def _value(gain: Gain) -> str:
    return f"{gain.value:.4g}" + (f" ({gain.gain:+.4f})" if gain.gain is not None else "")


def _table(lines: Sequence[Line], won: Sequence[Gain]) -> Table:
    table = Table("round", "stage", "metric", "value", "gain", "seconds", box=None, pad_edge=False)
    for column in table.columns[3:]:
        column.justify = "right"
    spent: dict[int, float] = {}
    counted = set()
    for line in lines:  # artefacts shared by two rounds count once
        known = line.half if line.half is not None else line.artefact if line.state == DONE else None
        if known is not None and known.folder not in counted:
            counted.add(known.folder)
            spent[known.round] = spent.get(known.round, 0.0) + known.seconds
    for number in sorted({line.node.round for line in lines}):
        mine: list[Gain | None] = [gain for gain in won if gain.round == number]
        for i, gain in enumerate(mine or [None] * (number in spent)):
            seconds = f"{spent.get(number, 0.0):,.1f}" if i == 0 else ""
            if gain is None:
                table.add_row(str(number), "", "", "", "", seconds)
            else:
                change = "" if gain.gain is None else f"{gain.gain:+.4f}"
                table.add_row(str(number), gain.stage, gain.metric, f"{gain.value:.4f}", change, seconds)
    return table
