"""An endless, resumable stream of prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rlcore.types import Prompt


class PromptStream:
    """Every prompt once per epoch, each epoch in an order of its own; implements `interfaces.PromptSource`.

    The order depends on `seed`, the epoch and the calls of `take`, on nothing else. No prompt is twice in one `take`
    while there are enough prompts: where a take reaches over the end of an epoch, the prompts that it already has are
    passed over in the new epoch and come first in the next take. (Sample ids are made of uids, and the samples of one
    uid are one group.)

    Raises:
        ValueError: no prompts, or two with one uid.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool = True) -> None:
        if not prompts:
            raise ValueError("no prompts to take from")
        self._prompts, self._seed, self._shuffle = prompts, seed, shuffle
        self._rows = {prompt.uid: row for row, prompt in enumerate(prompts)}
        if len(self._rows) < len(prompts):
            raise ValueError("two prompts share a uid")
        self._hash = _hash(prompts)
        self._epoch, self._position = 0, 0
        self._passed_over: list[int] = []  # rows before `_position` that are still to be taken, oldest first
        self._order = self._make_order()

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return self._epoch

    def take(self, num_prompts: int, without: Collection[str] = ()) -> list[Prompt]:
        """The next prompts. If more are wanted than there are, they repeat, each as seldom as possible.

        Args:
            without: uids of prompts to pass over, as those that a step has; they come when all others are taken.
        """
        if num_prompts < 0:
            raise ValueError(f"cannot take {num_prompts} prompts")
        used = {self._rows[uid] for uid in without if uid in self._rows}
        taken: list[int] = []
        for _ in range(num_prompts):
            if len(used) == len(self._prompts):  # no others are left: first those of `without`, then all
                used = set(taken) if used > set(taken) else set()
            taken.append(self._next(used))
            used.add(taken[-1])
        return [self._prompts[row] for row in taken]

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
        """JSON-able: epoch, position in it, seed, a hash of the uids in their order."""
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
        """Continues where `state_dict` was called.

        Raises:
            ValueError: the state is of other data, another seed or another `shuffle`: the position would mean other
                prompts. The stream stays as it was.
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
        if deferred := list(state.get("deferred", ())):  # as checkpoints of version 0.1 have it
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
