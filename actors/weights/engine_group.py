"""Parallel calls to several rollout engines under one deadline."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rlcore.problems import UserError

ABORT_TIMEOUT_S = 30.0


class WeightSyncError(UserError, RuntimeError):
    """The weight sync failed for some engines. `failed` maps positions of engines to errors.

    Engines not in `failed` have the new version. If a group broke (`nccl`, `gloo`), the surviving engines are not in
    `failed` either, but refuse to sample until the weights are sent again to the whole group.
    """

    def __init__(self, version: int, failed: Mapping[int, str]) -> None:
        self.version, self.failed = version, dict(failed)
        errors = "; ".join(f"rollout[{i}]: {text}" for i, text in sorted(self.failed.items()))
        super().__init__(f"weight sync to version {version} failed: {errors}")

    def __reduce__(self) -> tuple[Any, ...]:
        return WeightSyncError, (self.version, self.failed)


class EngineGroup:
    """Calls a method on several engines in parallel under one deadline; records failed engines and skips them
    afterwards.
    """

    def __init__(self, engines: Mapping[int, Any], deadline_s: float) -> None:
        self.engines = dict(engines)
        self.failed: dict[int, str] = {}
        self.lost: set[int] = set()  # failed engines that died or did not answer
        self.ends_at = time.monotonic() + deadline_s
        self.deadline_s = deadline_s

    @property
    def alive(self) -> list[int]:
        return [i for i in self.engines if i not in self.failed]

    @property
    def seconds_left(self) -> float:
        return max(self.ends_at - time.monotonic(), 0.001)

    def start(self, method: str, *args: Any) -> dict[Any, int]:
        return self.start_each(method, dict.fromkeys(self.alive, args))

    def start_each(self, method: str, args: Mapping[int, tuple[Any, ...]]) -> dict[Any, int]:
        return {getattr(self.engines[i], method).remote(*own): i for i, own in args.items()}

    def wait(self, calls: Mapping[Any, int], phase: str) -> dict[int, Any]:
        """Answers by engine; failed and late engines are recorded in `failed`."""
        import ray

        refs = list(calls)
        done, late = ray.wait(refs, num_returns=len(refs), timeout=self.seconds_left) if refs else ([], [])
        answers = {}
        for ref in done:
            try:
                answers[calls[ref]] = ray.get(ref)
            except ray.exceptions.RayError as error:
                self._note(calls[ref], phase, error)
        for ref in late:
            self.lost.add(calls[ref])
            self.failed.setdefault(calls[ref], f"{phase}: no answer within the deadline of {self.deadline_s:g} s")
        return answers

    def _note(self, engine: int, phase: str, error: Any) -> None:
        import ray

        if isinstance(error, ray.exceptions.RayActorError):
            self.lost.add(engine)
        cause = getattr(error, "cause", None) or error
        self.failed.setdefault(engine, f"{phase}: {type(cause).__name__}: {cause}")

    def has_failed(self, calls: Mapping[Any, int], phase: str) -> bool:
        """True if one of the calls has already failed; does not block."""
        import ray

        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0) if calls else ([], [])
        for ref in done:
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                self._note(calls[ref], phase, error)
        return any(i in self.failed for i in calls.values())

    def call(self, method: str, *args: Any) -> dict[int, Any]:
        return self.wait(self.start(method, *args), method)

    def abort(self, ranks: Iterable[int]) -> None:
        """Aborts the update on a best-effort basis: an engine that cannot abort is stopped by its deadline."""
        import ray

        refs = [self.engines[i].abort_update.remote() for i in ranks]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=ABORT_TIMEOUT_S)
