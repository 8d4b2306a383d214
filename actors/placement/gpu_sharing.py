"""Rollout engines and models on the same GPUs: engines sleep while models work, and wake before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from actors.generation.rollout import RolloutWorker
from actors.placement.group import ActorDied, ActorGroup
from actors.training.worker import ModelWorker

DROPS_WEIGHTS = 2  # the sleep level from which an engine has to be sent its weights again

PARTS = ("weights", "kv_cache")  # of a sleeping engine; vLLM's names


class GpuSharing:
    """The turns of engines and models. May be used from several threads, as models that score side by side do.

    A generation is under way from `generating` until its last group arrived or the caller gave up. Models work between
    generations only: a scorer that is fed during one first calls `wait_for_generation`.

    Before an engine wakes, the models give back the memory that torch only caches. For a weight sync the engines wake
    without their KV cache: the buckets of the sync find room in its place.

    An engine that died holds no memory: it is skipped here, and restarted by whoever calls it next.

    Args:
        level: `rollout.sleep_level`; 0: the engines stay awake and models may work at any time.
        timeout_s: of one call.
        models: the groups on the engines' GPUs.
    """

    def __init__(
        self,
        rollout: ActorGroup[RolloutWorker],
        level: int,
        timeout_s: float,
        models: Sequence[ActorGroup[Any]] = (),
    ) -> None:
        self._rollout, self._level, self._timeout_s, self._models = rollout, level, timeout_s, models
        self._asleep: tuple[str, ...] = ()
        self._generations, self._changed = 0, threading.Condition()
        self.resend: Callable[[], None] = lambda: None  # sends the engines the weights that they held last

    def for_training(self) -> None:
        """Frees the engines' memory.

        Raises:
            RuntimeError: a generation is under way.
        """
        if not self._level:
            return
        with self._changed:
            if self._generations:
                raise RuntimeError(
                    "a model that shares the engines' GPUs was called while rollout engines generate: read every group "
                    "first (rollout.sleep_level)"
                )
            if self._asleep != PARTS:
                self._wake(*PARTS)  # vLLM takes an engine that is half awake for asleep
                self._each(RolloutWorker.sleep, self._level, phase="sleep")
                self._asleep = PARTS

    def for_weights(self) -> None:
        """Makes room for the engines' weights; they may be without any until the caller has sent some."""
        with self._changed:
            self._wake("weights")

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Wakes the engines, with the weights they held last, and keeps them awake until the end of the block."""
        with self._changed:
            self._generations += 1
            had_none = self._wake(*PARTS)
        try:
            if had_none and self._level >= DROPS_WEIGHTS:
                self.resend()
            yield
        finally:
            with self._changed:
                self._generations -= 1
                self._changed.notify_all()

    def wait_for_generation(self) -> None:
        """Blocks until no generation is under way. A generation has deadlines of its own, hence none here."""
        if not self._level:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._generations)

    def _wake(self, *parts: str) -> bool:
        """True if the weights were asleep."""
        if not (wanted := [part for part in parts if part in self._asleep]):
            return False
        for group in self._models:
            group.broadcast(ModelWorker.release, timeout_s=self._timeout_s, phase="release memory")
        self._each(RolloutWorker.wake, wanted, phase="wake")
        self._asleep = tuple(part for part in self._asleep if part not in wanted)
        return "weights" in wanted

    def _each(self, method: Callable[..., Any], *args: Any, phase: str) -> None:
        calls = [
            self._rollout.submit_one(rank, method, *args, timeout_s=self._timeout_s, phase=phase)
            for rank in range(len(self._rollout))
        ]
        for call in calls:
            with suppress(ActorDied):
                call.result()
