"""Rollout engines and models on shared GPUs: the order in which they give their memory to each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from actors.generation.rollout import RolloutWorker
from actors.placement.group import ActorDied, ActorGroup
from actors.training.offload import Held
from actors.training.worker import ModelWorker

DROPS_WEIGHTS = 2  # from this sleep level on, weights must be sent again after waking up

WEIGHTS, KV_CACHE = PARTS = ("weights", "kv_cache")  # memory tags of a sleeping engine in vLLM


class GpuSharing:
    """Coordinates engines and models on shared GPUs. Thread-safe, because models score in parallel.

    A step, with the memory on a GPU:

    1. `generating`: models release their memory (`engine.offload`), then the engines wake. At sleep level 2 the engines
       wake without KV cache first, the sender's weights return and are sent, and leave again.
    2. `for_training`: engines sleep. Models bring their memory back themselves when they are called: weights for
       log-probs, values and scores; everything for updates and checkpoints.
    3. `for_weights`: models release all but the sender's weights, then the engines wake without KV cache, which leaves
       room for the buckets.

    A generation runs from `generating` until its last group arrived or the caller gave up. Models work only between
    generations: a scorer that gets work during one must call `wait_for_generation` first.

    A dead engine uses no memory and is skipped; its next caller restarts it. If that is during a generation, the sender
    brings its weights back next to the awake engines.

    Args:
        level: `rollout.sleep_level`; 0: the engines stay awake and models may work at any time.
        timeout_s: deadline of one call.
        models: groups on the GPUs of the engines.
        offloads: true if models move memory to the host (`engine.offload`).
    """

    def __init__(
        self,
        rollout: ActorGroup[RolloutWorker],
        level: int,
        timeout_s: float,
        models: Sequence[ActorGroup[Any]] = (),
        offloads: bool = False,
    ) -> None:
        self._rollout, self._level, self._timeout_s, self._models = rollout, level, timeout_s, models
        self._offloads, self._asleep = offloads, set[str]()
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
            self._sleep()

    def for_state(self) -> None:
        """Before a model reads or replaces its whole state, such as for a checkpoint, which may be in host memory."""
        if self._offloads:
            self.for_training()

    def for_weights(self, sender: ActorGroup[Any] | None = None) -> None:
        """Allocates the engines' weight memory; its content is undefined until `sender` has sent weights."""
        with self._changed:
            if self._offloads and self._level and KV_CACHE not in self._asleep and not self._generations:
                self._sleep()
            self._wake([WEIGHTS], sender)

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Wakes the engines with their last weights, and keeps them awake until the end of the block."""
        with self._changed:
            self._generations += 1
        try:
            with self._changed:
                if self._level >= DROPS_WEIGHTS and WEIGHTS in self._asleep:
                    self.resend()
                self._wake(PARTS)
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

    def _sleep(self) -> None:
        if self._asleep != set(PARTS):
            self._wake(PARTS)  # vLLM treats a partly awake engine as asleep
            self._each(RolloutWorker.sleep, self._level, phase="sleep")
            self._asleep = set(PARTS)

    def _wake(self, parts: Sequence[str], sender: ActorGroup[Any] | None = None) -> None:
        if not (wanted := [part for part in parts if part in self._asleep]):
            return
        for group in self._models:
            held = Held.WEIGHTS if group is sender else Held.NOTHING
            group.broadcast(ModelWorker.release, held, timeout_s=self._timeout_s, phase="release memory")
        self._each(RolloutWorker.wake, wanted, phase="wake")
        self._asleep -= set(wanted)

    def _each(self, method: Callable[..., Any], *args: Any, phase: str) -> None:
        calls = [
            self._rollout.submit_one(rank, method, *args, timeout_s=self._timeout_s, phase=phase)
            for rank in range(len(self._rollout))
        ]
        for call in calls:
            with suppress(ActorDied):
                call.result()
