"""Rollout engines and models on shared GPUs: engines sleep while models work, and wake up before they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from actors.generation.rollout import RolloutWorker
from actors.placement.group import ActorDied, ActorGroup
from actors.training.worker import ModelWorker

DROPS_WEIGHTS = 2  # from this sleep level on, weights must be sent again after waking up

PARTS = ("weights", "kv_cache")  # memory tags of a sleeping engine in vLLM


class GpuSharing:
    """Coordinates engines and models on shared GPUs. Thread-safe, because models score in parallel.

    A generation runs from `generating` until its last group arrived or the caller gave up. Models work only between
    generations: a scorer that gets work during one must call `wait_for_generation` first.

    Before engines wake up, the models release memory cached by torch. For a weight sync the engines wake up without KV
    cache, to leave room for the buckets.

    A dead engine uses no memory and is skipped; its next caller restarts it.

    Args:
        level: `rollout.sleep_level`; 0: the engines stay awake and models may work at any time.
        timeout_s: deadline of one call.
        models: groups on the GPUs of the engines.
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
        self.resend: Callable[[], None] = lambda: None  # sends the last weights to the engines again

    def for_training(self) -> None:
        """Puts the engines to sleep, which frees their memory.

        Raises:
            RuntimeError: a generation is running.
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
                self._wake(*PARTS)  # vLLM treats a partly awake engine as asleep
                self._each(RolloutWorker.sleep, self._level, phase="sleep")
                self._asleep = PARTS

    def for_weights(self) -> None:
        """Allocates the engines' weight memory; its content is undefined until the caller sends weights."""
        with self._changed:
            self._wake("weights")

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Wakes the engines with their last weights, and keeps them awake until the end of the block."""
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
        """Blocks until no generation is running. It needs no deadline, because generation has its own."""
        if not self._level:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._generations)

    def _wake(self, *parts: str) -> bool:
        """Wakes the engines; True if their weights were asleep."""
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
