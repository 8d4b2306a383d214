"""Which prompts each step took, so that a resumed run gives every step the prompts it had."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Any

from rlcore.interfaces import PromptSource
from rlcore.types import Prompt


class StepPrompts:
    """Takes prompts from a source for steps that overlap. Thread-safe.

    No prompt is lost or given to two steps: prompts of a step that was not trained before the run ended go to the same
    step of the resumed run, and those it does not need there, because its filters keep more, to the next take.
    """

    def __init__(self, source: PromptSource) -> None:
        self._source, self._lock = source, threading.Lock()
        self._taken: dict[int, list[Prompt]] = {}  # by steps that were not trained yet, in order
        self._waiting: dict[int, deque[Prompt]] = {}  # of `_taken`: reserved, but not handed out
        self._returned: list[Prompt] = []

    def reserve(self, step: int, num_prompts: int) -> None:
        """Sets the first prompts of a step apart: call it in the order of steps, before they run at the same time."""
        with self._lock:
            waiting = self._waiting.setdefault(step, deque())
            if (missing := num_prompts - len(waiting)) > 0:
                waiting.extend(self._more(step, missing, [p.uid for p in waiting]))

    def take(self, step: int, num_prompts: int, without: Collection[str] = ()) -> list[Prompt]:
        """The next prompts of a step; see `PromptSource.take`."""
        with self._lock:
            waiting = self._waiting.setdefault(step, deque())
            found = [waiting.popleft() for _ in range(min(num_prompts, len(waiting)))]
            if missing := num_prompts - len(found):
                found += self._more(step, missing, [*without, *(p.uid for p in found)])
            return found

    def trained(self, step: int) -> None:
        """The step is trained, and its prompts are used up, except for those that it never took."""
        with self._lock:
            self._taken.pop(step, None)
            self._returned.extend(self._waiting.pop(step, ()))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: `prompts`, the source's state; `taken`, uids by step not trained yet; `returned`, uids."""
        with self._lock:
            return {
                "prompts": self._source.state_dict(),
                "taken": {str(step): [p.uid for p in taken] for step, taken in sorted(self._taken.items())},
                "returned": [p.uid for p in self._returned],
            }

    def load_state_dict(self, prompts: dict[str, Any], taken: dict[str, list[str]], returned: list[str]) -> None:
        """Restores `state_dict`. Raises: ValueError: see `PromptStream.load_state_dict`."""
        with self._lock:
            self._source.load_state_dict(prompts)
            self._taken = {int(step): self._source.find(uids) for step, uids in taken.items()}
            self._waiting = {step: deque(found) for step, found in self._taken.items()}
            self._returned = self._source.find(returned)

    def _more(self, step: int, num_prompts: int, without: Collection[str]) -> list[Prompt]:
        usable = [place for place, prompt in enumerate(self._returned) if prompt.uid not in without][:num_prompts]
        found = [self._returned[place] for place in usable]
        self._returned = [prompt for place, prompt in enumerate(self._returned) if place not in usable]
        if missing := num_prompts - len(found):
            found += self._source.take(missing, [*without, *(p.uid for p in found)])
        self._taken.setdefault(step, []).extend(found)
        return found
