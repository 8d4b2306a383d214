"""An endless, resumable stream of prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlcore.types import Prompt


class PromptStream:
    """Yields every prompt once per epoch, each epoch in a new order; implements `interfaces.PromptSource`.

    The order depends only on `seed`, the epoch and the calls of `take`. No prompt occurs twice in one `take` if there
    are enough prompts: at the end of an epoch, prompts that the take already has are postponed to the next take.
    (Sample ids contain uids, and samples of one uid form one group.)

    Raises:
        ValueError: no prompts, or duplicate uids.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool = True) -> None:
        if not prompts:
            raise ValueError("there are no prompts")
        self._prompts, self._seed, self._shuffle = prompts, seed, shuffle
        self._rows = {prompt.uid: row for row, prompt in enumerate(prompts)}
        if len(self._rows) < len(prompts):
            raise ValueError("two prompts share a uid")
        self._hash = _hash(prompts)
        self._epoch, self._position = 0, 0
        self._passed_over: list[int] = []  # postponed rows before `_position`, oldest first
        self._order = self._make_order()

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return self._epoch

    def take(self, num_prompts: int, without: Collection[str] = ()) -> list[Prompt]:
        """The next `num` prompts. If there are fewer, they repeat as evenly as possible.

        Args:
            without: uids of prompts to postpone, for example those already in the step; they are used if no others are
                left.
        """
        if num_prompts < 0:
            raise ValueError(f"cannot take {num_prompts} prompts")
        used = {self._rows[uid] for uid in without if uid in self._rows}
        taken: list[int] = []
        for _ in range(num_prompts):
            if len(used) == len(self._prompts):  # no others are left: use those of `without`, then all
                used = set(taken) if used > set(taken) else set()
            taken.append(self._next(used))
            used.add(taken[-1])
        return [self._prompts[row] for row in taken]

    def find(self, uids: Sequence[str]) -> list[Prompt]:
        """The prompts of these uids, wherever the stream is. Raises: KeyError: unknown uid."""
        return [self._prompts[self._rows[uid]] for uid in uids]

    def _next(self, used: set[int]) -> int:
        for place, row in enumerate(self._passed_over):
            if row not in used:
                return self._passed_over.pop(place)
        while True:
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._make_order()
            row = self._order[self._position]
            self._position += 1
            if row not in used:
                return row
            self._passed_over.append(row)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: epoch, position, seed, and a hash of the ordered uids."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "passed_over": list(self._passed_over),
            "seed": self._seed,
            "shuffle": self._shuffle,
            "num_prompts": len(self._prompts),
            "uids": self._hash,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state of `state_dict`.

        Raises:
            ValueError: the state has other data, another seed or another `shuffle`, so its position is meaningless. The
                stream is not modified.
        """
        if state["uids"] != self._hash:
            raise ValueError(
                f"the training data changed: the checkpoint's position is in {state['num_prompts']} prompts, now there "
                f"are {len(self._prompts)}, with other uids or in another order. Restore the data (and data.*, seed), "
                "or start a new run"
            )
        for key, mine in (("seed", self._seed), ("shuffle", self._shuffle)):
            if state[key] != mine:
                raise ValueError(f"the checkpoint's prompts were taken with {key}={state[key]}, now it is {mine}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._passed_over = list(state.get("passed_over", ()))
        if deferred := list(state.get("deferred", ())):  # format of checkpoints of version 0.1
            served = max(0, self._position - int(state["deferred_at"]))
            self._passed_over = deferred[served:]
            self._position = max(self._position, int(state["deferred_at"]) + len(deferred))
        self._order = self._make_order()

    def _make_order(self) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._prompts)))
        order: list[int] = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._prompts)).tolist()
        return order


def _hash(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        uid = prompt.uid.encode()
        digest.update(len(uid).to_bytes(4, "little") + uid)
    return digest.hexdigest()
