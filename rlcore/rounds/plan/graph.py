"""Resolves stages and their references to an ordered list of runs with their inputs.

Within a round a stage runs after its inputs, otherwise in the listed order. `@latest` and `@all` include the run of the
same round if it can run first: not the stage's own run, and not one that waits for the reader. If two stages read each
other's latest, the one listed later reads the run of this round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.problems import Problem, nearest
from rlcore.rounds.plan.config import Made, StageConfig
from rlcore.rounds.plan.references import Alternative, Reference, ReferenceFault, When, parse
from rlcore.rounds.plan.settings import STAGES_KEY, GraphError

__all__ = ["GraphError", "Node", "Source", "plan", "resolve"]
MAY_BE_EMPTY = ("against",)  # lists of references that may be empty
WEIGHTED = ("data", "models")  # lists with a weight per entry in the field `weights`

Stages = Mapping[str, Sequence[StageConfig]]


@dataclass(frozen=True, slots=True)
class Source:
    """The target of a reference: the run of a stage, or a built-in input (`round` 0)."""

    stage: str
    round: int
    made: Made
    entry: int = 0  # index of the reference in the field's list; `name@all` gives several parents

    @property
    def key(self) -> tuple[int, str]:
        return self.round, self.stage


@dataclass(frozen=True, slots=True)
class Node:
    """One run of a stage. `inputs`: field of its config -> parents, in the order of its references."""

    round: int
    stage: str
    config: StageConfig
    inputs: Mapping[str, list[Source]]
    made: Made

    @property
    def key(self) -> tuple[int, str]:
        return self.round, self.stage

    @property
    def kind(self) -> str:
        return self.config.KIND


def plan(stages: Stages, count: int, builtins: Mapping[str, Made]) -> list[Node]:
    """Every run of every stage, in an order that runs inputs first.

    Args:
        stages: name -> its config in each round, rounds 1 to `count`, as listed in the config.
        count: number of rounds.
        builtins: inputs that exist from the start.

    Raises:
        GraphError: with all problems, see `resolve`.
    """
    nodes, problems = resolve(stages, count, builtins)
    if problems:
        raise GraphError(problems)
    return nodes


def resolve(
    stages: Stages, count: int, builtins: Mapping[str, Made], unread: Collection[str] = ()
) -> tuple[list[Node], list[Problem]]:
    """Like `plan`, but also returns the problems; the nodes are valid only without problems.

    Args:
        unread: names of stages with invalid options; references to them are not reported as missing.
    """
    planner = _Planner(stages, count, builtins, unread)
    for number in range(1, count + 1):
        planner.add_round(number)
    return planner.nodes, list(planner.problems.values())


@dataclass(frozen=True, slots=True)
class _Read:
    """One reference of one stage in one round."""

    stage: str
    field: str
    entry: int
    reference: Reference

    @property
    def key(self) -> str:
        return f"{STAGES_KEY}.{self.stage}.{self.field}"


@dataclass
class _Planner:
    stages: Stages
    count: int
    builtins: Mapping[str, Made]
    unread: Collection[str] = ()
    nodes: list[Node] = field(default_factory=list)
    made: dict[tuple[int, str], Made | None] = field(default_factory=dict)
    problems: dict[tuple[str, str, str], Problem] = field(default_factory=dict)

    def add(self, about: str, key: str, value: Any, text: str, cure: str) -> None:
        """Keeps each problem once, for the first round, since rounds repeat their stages."""
        self.problems.setdefault((about, key, str(value)), Problem(key, value, text, cure))

    def config(self, name: str, number: int) -> StageConfig:
        return self.stages[name][number - 1]

    def runs(self, name: str, number: int) -> bool:
        if name not in self.stages or not 1 <= number <= self.count:
            return False
        only = self.config(name, number).rounds
        return not only or number in only

    def add_round(self, number: int) -> None:
        today = [name for name in self.stages if self.runs(name, number)]
        reads = [read for name in self.stages for read in self._reads(name, number) if name in today]
        picks, needs = self._pick(reads, today, number)
        for name in self._order(today, needs):
            mine = {read: picks[read] for read in reads if read.stage == name}
            self._add_node(name, number, mine)

    # ---- parsing

    def _reads(self, name: str, number: int) -> list[_Read]:
        """The well-formed references of a stage; others become problems."""
        config, found = self.config(name, number), []
        for bad in [r for r in config.rounds if not 1 <= r <= self.count]:
            cure = f"rounds are counted from 1 to {self.count} (rounds.count)"
            self.add("rounds", f"{STAGES_KEY}.{name}.rounds", bad, f"there is no round {bad}", cure)
        for part in config.CONSUMES:
            value, key = getattr(config, part), f"{STAGES_KEY}.{name}.{part}"
            several = isinstance(value, list | tuple)
            if several and not value and part not in MAY_BE_EMPTY:
                self.add(
                    "empty",
                    key,
                    value,
                    "the stage has no input",
                    "name its input, for example [" + (self._builtin_for(config, part) or "a stage") + "]",
                )
            for entry, text in enumerate(value if several else [] if value is None else [value]):
                if (reference := self._parse(key, text)) is None:
                    continue
                if reference.several and not several:
                    single = str(reference).replace("@all", "@latest")
                    self.add("all", key, text, f"`{part}` takes one artefact; this can give several", f"write {single}")
                elif self._check_names(key, text, reference):
                    found.append(_Read(name, part, entry, reference))
            weights = getattr(config, "weights", None)
            if part in WEIGHTED and weights and len(weights) != len(value):
                text = f"there are {len(weights)} weights for {len(value)} entries of `{part}`"
                self.add("weights", f"{STAGES_KEY}.{name}.weights", weights, text, "give one per entry, or none")
        return found

    def _parse(self, key: str, text: Any) -> Reference | None:
        try:
            return parse(text)
        except ReferenceFault as fault:
            self.add("grammar", key, text, fault.text, fault.cure)
            return None

    def _check_names(self, key: str, text: str, reference: Reference) -> bool:
        """True if every alternative names a stage or input of some round."""
        good = True
        for alternative in reference.alternatives:
            name = alternative.name
            if name in self.builtins and alternative.when is not When.same:
                good = False
                cure = f"write {name}"
                self.add("builtin", key, text, f"`{name}` is a built-in input and has no runs", cure)
            elif name not in self.builtins and name not in self.stages:
                good = False
                if name in self.unread:
                    continue
                known = [*self.stages, *self.builtins]
                guess = nearest(name, known)
                cure = f"did you mean {guess}?" if guess else f"there are {', '.join(known)}"
                self.add("unknown", key, text, f"no stage makes `{name}`", cure)
        return good

    # ---- resolution

    def _found(self, alternative: Alternative, reader: str, number: int, here: bool) -> list[int]:
        """Rounds of the referenced runs, 0 for built-in inputs. `here`: `@latest` and `@all` may include this round."""
        name = alternative.name
        if name in self.builtins:
            return [0]
        if alternative.when is When.same:
            return [number] if self.runs(name, number) else []
        if alternative.when is When.numbered:
            wanted = alternative.round or 0
            return [wanted] if wanted <= number and self.runs(name, wanted) else []
        before = [n for n in range(1, number) if self.runs(name, n)]
        if alternative.when is not When.previous and here and name != reader and self.runs(name, number):
            before.append(number)
        return before if alternative.when is When.all else before[-1:]

    def _choose(self, read: _Read, number: int, here: bool = True) -> tuple[Alternative, list[int]]:
        for alternative in read.reference.alternatives:
            if found := self._found(alternative, read.stage, number, here):
                return alternative, found
        return read.reference.alternatives[-1], []

    def _pick(
        self, reads: Sequence[_Read], today: Sequence[str], number: int
    ) -> tuple[dict[_Read, list[tuple[int, str]]], dict[str, dict[str, _Read]]]:
        """The targets of each reference, and for each stage the stages of this round that it waits for."""
        picks: dict[_Read, list[tuple[int, str]]] = {}
        needs: dict[str, dict[str, _Read]] = {name: {} for name in today}
        optional = []

        def settle(read: _Read, alternative: Alternative, found: list[int]) -> None:
            picks[read] = [(n, alternative.name) for n in found]
            if number in found:
                needs[read.stage].setdefault(alternative.name, read)

        for read in reads:
            alternative, found = self._choose(read, number)
            if number in found and alternative.when in (When.latest, When.all):
                optional.append((read, alternative.name))
            else:
                settle(read, alternative, found)
        place = {name: i for i, name in enumerate(today)}
        for read, name in sorted(optional, key=lambda pair: place[pair[1]] > place[pair[0].stage]):
            settle(read, *self._choose(read, number, here=not _reaches(needs, name, read.stage)))
        for read, picked in picks.items():
            if not picked:
                self._missing(read, number)
        return picks, needs

    def _order(self, today: Sequence[str], needs: Mapping[str, Mapping[str, _Read]]) -> list[str]:
        order: list[str] = []
        left = list(today)
        while left:
            ready = next((name for name in left if not set(needs[name]) & set(left)), None)
            if ready is None:
                cycle = _cycle(left, needs)
                read = needs[cycle[0]][cycle[1]]
                cure = f"let one of them read an earlier run, for example {cycle[1]}@previous"
                self.add("cycle", read.key, str(read.reference), f"a cycle: {' -> '.join(cycle)}", cure)
                return order + left
            left.remove(ready)
            order.append(ready)
        return order

    def _add_node(self, name: str, number: int, picks: Mapping[_Read, Sequence[tuple[int, str]]]) -> None:
        config = self.config(name, number)
        inputs: dict[str, list[Source]] = {part: [] for part in config.CONSUMES}
        for read, runs in picks.items():
            for key in runs:
                made = self._made(key)
                if made is not None and self._fits(read, config, key[1], made):
                    inputs[read.field].append(Source(key[1], key[0], made, read.entry))
        for part, sources in inputs.items():
            self._check_filled(f"{STAGES_KEY}.{name}.{part}", getattr(config, part), sources, number)
        made = config.PRODUCES or next((s.made for s in inputs.get("data", [])), None)
        self.made[number, name] = made
        if made is not None:
            self.nodes.append(Node(number, name, config, inputs, made))

    def _made(self, key: tuple[int, str]) -> Made | None:
        """Kind of the output; None if unknown (a stage in a cycle with the kind of its data)."""
        number, name = key
        return self.builtins[name] if number == 0 else self.made.get(key) or self.stages[name][0].PRODUCES

    # ---- checks

    def _fits(self, read: _Read, config: StageConfig, name: str, made: Made) -> bool:
        wanted = config.consumes(read.field)
        if made in wanted:
            return True
        words = " or ".join(kind.value for kind in wanted)
        makers = [n for n, configs in self.stages.items() if configs[0].PRODUCES in wanted]
        makers += [n for n, kind in self.builtins.items() if kind in wanted]
        cure = f"name one that makes {words}: {', '.join(makers)}" if makers else f"add a stage that makes {words}"
        self.add("kind", read.key, str(read.reference), f"`{name}` is {made.value}, `{read.field}` wants {words}", cure)
        return False

    def _check_filled(self, key: str, value: Any, sources: Sequence[Source], number: int) -> None:
        if len({source.made for source in sources}) > 1:
            shown = ", ".join(f"{source.stage} ({source.made.value})" for source in sources)
            self.add("mixed", key, value, f"it mixes kinds: {shown}", "make two stages of it, one for each kind")
        if not sources and isinstance(value, list | tuple) and value and all("@all" in str(v) for v in value):
            text = f"in round {number} it has not run yet"
            self.add("none", key, value, text, "add an alternative or a built-in input")

    def _missing(self, read: _Read, number: int) -> None:
        alternative = read.reference.alternatives[-1]
        name, when = alternative.name, alternative.when
        if when is When.all:
            return  # no run so far gives an empty list; `_check_filled` checks if everything is empty
        other = self._builtin_for(self.config(read.stage, number), read.field)
        instead = f"{read.reference}|{other}" if other else f"{read.reference}|another"
        rounds = [n for n in range(1, self.count + 1) if self.runs(name, n)]
        text = f"in round {number} there is no run of `{name}` before it"
        cure = f"add an alternative, for example {instead}"
        if when is When.same:
            text = f"`{name}` does not run in round {number}, only in {', '.join(map(str, rounds)) or 'none'}"
            later = not rounds or rounds[0] > number
            cure = f"write {name}@latest{f'|{other}' if other else ''}" if later else f"write {name}@latest"
        elif when is When.numbered and alternative.round is not None:
            late = alternative.round > number
            text = f"round {alternative.round} comes after round {number}" if late else f"`{name}` does not run in it"
            if alternative.round > self.count:
                text, cure = f"there is no round {alternative.round}", f"rounds.count is {self.count}"
        self.add("missing", read.key, str(read.reference), text, cure)

    def _builtin_for(self, config: StageConfig, part: str) -> str:
        return next((name for name, made in self.builtins.items() if made in config.CONSUMES[part]), "")


def _reaches(needs: Mapping[str, Iterable[str]], start: str, goal: str) -> bool:
    """True if `start` waits for `goal`, directly or indirectly."""
    seen, open_ends = set(), [start]
    while open_ends:
        name = open_ends.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            open_ends += needs.get(name, ())
    return False


def _cycle(names: Sequence[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """One cycle among stages that all wait for each other: `[a, b, a]`."""
    path = [names[0]]
    while path.count(path[-1]) < 2:
        path.append(next(name for name in needs[path[-1]] if name in names))
    return path[path.index(path[-1]) :]
