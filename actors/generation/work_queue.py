"""Which engine gets which prompt. Plain data: no threads, no Ray; the dispatcher guards it with its lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

from actors.generation.vllm_engine import Finished
from rlcore.interfaces import Sampling
from rlcore.types import Prompt

REFILL_S = 0.05  # work that waits in an engine beyond one group, so that it does not run dry until it gets more


class Arrival(NamedTuple):
    """A finished group, and the rank of its engine."""

    prompt: Prompt
    finished: Finished
    engine: int


@dataclass(eq=False)
class Call:
    """Prompts with one sampling. `deliver` gets every finished group, and None if the call has ended: see `failure`."""

    number: int
    prompts: Sequence[Prompt]
    sampling: Sampling
    heard: float  # time at which a group of this or an earlier call finished
    deliver: Callable[[Arrival | None], None]  # must return at once
    engine: int = -1  # that has the beginning of the prompts in its cache; -1: any
    failure: Exception | None = None
    over: bool = False
    seeded: set[int] = field(default_factory=set)  # engines that got its seed
    aborts: list[Event] = field(default_factory=list)  # set when an engine has dropped its requests of this call


class Task(NamedTuple):
    """One prompt of a call. Tasks are ordered by call, then by their place in it."""

    number: int  # of the call
    place: int  # of the prompt in the call
    call: Call


@dataclass
class EngineWork:
    inbox: list[Task] = field(default_factory=list)  # assigned, and not taken yet
    under_way: dict[tuple[str, int], Task] = field(default_factory=dict)  # (submission, place) -> task
    samples: int = 0  # unfinished ones of both, as far as known
    rate: float = 0.0  # finished samples per second
    down: bool = False  # it failed, and is being restarted


class WorkQueue:
    """Prompts wait in order of their calls; an engine with free slots takes the next one.

    - A call that arrives when no prompt waits is dealt first: engine r of N gets the prompts r, r + N, ... as far as
      its slots and one waiting group go. The rest waits. So a call that fits into the engines is dealt the same way
      each time.
    - A prompt that continues what an engine has in its cache goes there if it has room, and waits for any otherwise.
    - A single engine without work gets a whole call at once.

    Args:
        slots: samples that an engine processes at the same time.
    """

    def __init__(self, engines: int, slots: int) -> None:
        self.slots, self.engines = slots, [EngineWork() for _ in range(engines)]
        self.calls: list[Call] = []
        self.waiting: deque[Task] = deque()

    def add(self, call: Call) -> None:
        self.calls.append(call)
        count = len(self.engines)
        deal = count > 1 and (not self.waiting or call.engine >= 0)
        for i in range(len(call.prompts)):
            engine, task = self.engines[call.engine if call.engine >= 0 else i % count], Task(call.number, i, call)
            if deal and self._has_room(engine):
                self._assign(engine, task)
            else:
                self.waiting.append(task)

    def quietest(self) -> int:
        """The engine with the fewest samples; -1 with a single one, or if none runs."""
        running = [rank for rank, engine in enumerate(self.engines) if not engine.down]
        return min(running, key=lambda rank: self.engines[rank].samples) if len(self.engines) > 1 and running else -1

    def take(self, rank: int) -> list[Task]:
        """The tasks that an engine should begin now; `begin` must follow."""
        engine = self.engines[rank]
        alone = len(self.engines) == 1 and not engine.under_way
        whole = self.waiting[0].call if alone and self.waiting else None
        while self.waiting and (self.waiting[0].call is whole or self._has_room(engine)):
            self._assign(engine, self.waiting.popleft())
        tasks, engine.inbox = engine.inbox, []
        return tasks

    def begin(self, rank: int, submission: str, tasks: Sequence[Task]) -> None:
        self.engines[rank].under_way.update({(submission, task.place): task for task in tasks})

    def wants_more_at(self, rank: int) -> int:
        """Unfinished samples at which the engine should get more; -1: nothing waits."""
        return self.slots + self._extra(self.engines[rank]) if self.waiting else -1

    def tasks(self) -> list[Task]:
        """All that are not finished."""
        assigned = [task for e in self.engines for task in (*e.inbox, *e.under_way.values())]
        return [*self.waiting, *assigned]

    def finish(self, rank: int, submission: str, place: int) -> Task | None:
        """The task of a finished group; None if its call is over, or the task was returned."""
        return self.engines[rank].under_way.pop((submission, place), None)

    def observe(self, rank: int, unfinished: int, seconds: float) -> None:
        """Records how many samples an engine has, `seconds` after the last time."""
        engine = self.engines[rank]
        assigned = sum(task.call.sampling.num_samples for task in engine.inbox)
        ended = max(engine.samples - assigned - unfinished, 0)
        engine.samples = assigned + (unfinished if engine.under_way else 0)  # otherwise they are being aborted
        engine.rate += (ended / max(seconds, 1e-3) - engine.rate) / 2

    def give_back(self, rank: int) -> list[str]:
        """The engine lost its work: its tasks wait again, in their order. Returns its submissions."""
        engine = self.engines[rank]
        lost = [*engine.inbox, *engine.under_way.values()]
        submissions = sorted({name for name, _ in engine.under_way})
        engine.inbox, engine.under_way, engine.samples = [], {}, 0
        self.waiting = deque(sorted([*self.waiting, *lost], key=lambda task: task[:2]))
        return submissions

    def drop(self, call: Call) -> dict[int, list[str]]:
        """Removes a call. Returns engine -> its submissions under way."""
        self.calls = [other for other in self.calls if other is not call]
        self.waiting = deque(task for task in self.waiting if task.call is not call)
        found: dict[int, list[str]] = {}
        for rank, engine in enumerate(self.engines):
            kept = [task for task in engine.inbox if task.call is not call]
            engine.samples -= (len(engine.inbox) - len(kept)) * call.sampling.num_samples
            names = {name for (name, _), task in engine.under_way.items() if task.call is call}
            engine.inbox = kept
            engine.under_way = {key: task for key, task in engine.under_way.items() if task.call is not call}
            if names:
                found[rank] = sorted(names)
            if not engine.under_way and not engine.inbox:
                engine.samples = 0
        return found

    def _assign(self, engine: EngineWork, task: Task) -> None:
        engine.inbox.append(task)
        engine.samples += task.call.sampling.num_samples

    def _has_room(self, engine: EngineWork) -> bool:
        return not engine.down and engine.samples <= self.slots + 2 * self._extra(engine)

    def _extra(self, engine: EngineWork) -> int:
        return int(engine.rate * REFILL_S)
