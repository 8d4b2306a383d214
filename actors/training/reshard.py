"""Loads training state into another layout: number of ranks and ZeRO stage may both differ.

DeepSpeed's own loading wants the layout of the saving run. Here every rank reads, parameter by parameter, its part of
the float32 weights and of Adam's two moments from the files of all ranks of the checkpoint. The files are mapped into
memory, so that a rank holds one whole parameter at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"  # the float32 one; its moments are under their own names
_RANK = re.compile(r"zero_pp_rank_(\d+)_")

Piece = Callable[[str], Tensor]  # float32 values by WEIGHT or a moment
State = dict[str, Tensor]


class SavedState:
    """Training state that DeepSpeed saved in a folder.

    Attributes:
        step: optimizer steps taken.

    Raises:
        FileNotFoundError: no files of DeepSpeed.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("*zero_pp_rank_*_optim_states.pt"), key=_rank)
        models = sorted(folder.glob("*model_states.pt"), key=lambda path: _rank(path) if "zero_pp" in path.name else 0)
        if not models:
            raise FileNotFoundError(f"DeepSpeed saved nothing in {folder}")
        self._model, self._shards = _read(models[0]), [_read(path)["optimizer_state_dict"] for path in shards]
        if not self._shards:
            states = [self._model["optimizer"]["state"]]
        elif "fp32_flat_groups" in self._shards[0]:
            states = [shard["optimizer_state_dict"]["state"] for shard in self._shards]
        else:
            states = [shard["base_optimizer_state"]["state"] for shard in self._shards]
        self._states: list[Mapping[int, State]] = states
        self.step = float(next((s["step"] for s in states[0].values() if "step" in s), 0.0))

    def parameters(self, trained: list[str]) -> Iterator[tuple[str, Piece]]:
        """Each trained parameter by name, with a function that reads it, flat.

        Args:
            trained: names of the model's trained parameters, in the model's order.

        Raises:
            ValueError: these are not the parameters that were saved.
        """
        if not self._shards:
            found = self._whole(trained)
        elif "fp32_flat_groups" in self._shards[0]:
            found = self._partitioned()
        else:
            found = self._sliced()
        if set(found) != set(trained):
            wrong = sorted(set(found) ^ set(trained))
            raise ValueError(f"the checkpoint holds other trained parameters than the model: {', '.join(wrong[:5])}")
        yield from found.items()

    def _whole(self, trained: list[str]) -> dict[str, Piece]:
        """Stage 0: one copy of everything; Adam numbers the parameters in the model's order."""
        weights, (state,) = self._model["module"], self._states

        def piece(i: int, name: str) -> Piece:
            return lambda kind: (weights[name] if kind == WEIGHT else _moment(state, i, kind, weights[name])).flatten()

        return {name: piece(i, name) for i, name in enumerate(trained) if name in weights}

    def _sliced(self) -> dict[str, Piece]:
        """Stages 1 and 2: every rank has a range of the parameters laid end to end, and a table of what is in it."""
        places: dict[str, list[tuple[int, int, int, int]]] = {}
        for rank, shard in enumerate(self._shards):
            for group, table in enumerate(shard["param_slice_mappings"]):
                for name, address in table.items():
                    places.setdefault(name, []).append((rank, group, address.start, address.numel))

        def piece(name: str) -> Piece:
            def read(kind: str) -> Tensor:
                return torch.cat([
                    self._flat(rank, group, "single_partition_of_fp32_groups", kind).narrow(0, start, count)
                    for rank, group, start, count in places[name]
                ])  # fmt: skip

            return read

        return {name: piece(name) for name in places}

    def _partitioned(self) -> dict[str, Piece]:
        """Stage 3: every rank has an equal part of each parameter, the last one padded."""
        shapes = {name: shape for group in self._model["param_shapes"] for name, shape in group.items()}
        ranks = len(self._shards)
        sizes = [-(-shape.numel() // ranks) for shape in shapes.values()]
        starts = dict(zip(shapes, accumulate(sizes, initial=0), strict=False))
        groups = [group.numel() for group in self._shards[0]["fp32_flat_groups"]]
        begins = list(accumulate(groups, initial=0))

        def piece(name: str) -> Piece:
            count, start = shapes[name].numel(), starts[name]
            group = next(g for g in range(len(groups)) if begins[g] <= start < begins[g + 1])
            size = -(-count // ranks)

            def read(kind: str) -> Tensor:
                flats = [self._flat(rank, group, "fp32_flat_groups", kind) for rank in range(ranks)]
                return torch.cat([flat.narrow(0, start - begins[group], size) for flat in flats])[:count]

            return read

        return {name: piece(name) for name in shapes}

    def _flat(self, rank: int, group: int, key: str, kind: str) -> Tensor:
        weights: Tensor = self._shards[rank][key][group]
        return weights if kind == WEIGHT else _moment(self._states[rank], group, kind, weights)


def restore(folder: Path, module: nn.Module, optimizer: Any, adam: torch.optim.Optimizer, stage: int) -> None:
    """Writes this rank's part of the state saved in `folder` into a DeepSpeed engine.

    Args:
        module: what DeepSpeed trains.
        optimizer: DeepSpeed's optimizer around `adam`; below ZeRO-1 it is not used.

    Raises:
        FileNotFoundError, ValueError: see `SavedState`.
    """
    saved = SavedState(folder)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    owned = [p for group in adam.param_groups for p in group["params"]]
    for flat in optimizer.fp32_partitioned_groups_flat if stage == 3 else owned:  # Adam makes moments at its first step
        state = adam.state[flat]
        for moment in MOMENTS:
            state.setdefault(moment, torch.zeros_like(flat))
        state["step"] = torch.tensor(saved.step, dtype=torch.float32, device=flat.device)
    write = {0: _write_whole, 3: _write_partition}.get(stage, _write_slice)
    with torch.no_grad():
        for name, read in saved.parameters(list(named)):
            write(named[name], read, adam)


def read_weights(folder: Path, module: nn.Module, trained: list[str], gathered: Callable[..., Any]) -> None:
    """Sets the parameters `trained` of a module without optimizer to the weights saved in `folder`. A collective.

    Args:
        gathered: context in which the given parameters are whole; rank `modifier_rank` may change them.

    Raises:
        FileNotFoundError, ValueError: see `SavedState`.
    """
    named = dict(module.named_parameters())
    for name, read in SavedState(folder).parameters(trained):
        with gathered([named[name]], modifier_rank=0), torch.no_grad():
            named[name].copy_(read(WEIGHT).view_as(named[name]))


def _write_whole(parameter: Any, read: Piece, adam: torch.optim.Optimizer) -> None:
    parameter.copy_(read(WEIGHT).view_as(parameter))
    for moment in MOMENTS:
        adam.state[parameter][moment].copy_(read(moment).view_as(parameter))


def _write_slice(parameter: Any, read: Piece, adam: torch.optim.Optimizer) -> None:
    """Stages 1 and 2. The parameter itself is whole on every rank, its float32 copy and moments are not."""
    parameter.copy_(read(WEIGHT).view_as(parameter))
    if (part := parameter._hp_mapping) is None:  # of other ranks
        return
    here, there = part.lp_fragment_address, part.hp_fragment_address
    flat = adam.param_groups[part.param_group_index]["params"][0]
    targets = {WEIGHT: flat.data, **{moment: adam.state[flat][moment] for moment in MOMENTS}}
    for kind, target in targets.items():
        target.narrow(0, there.start, there.numel).copy_(read(kind).narrow(0, here.start, here.numel))


def _write_partition(parameter: Any, read: Piece, adam: torch.optim.Optimizer) -> None:
    """Stage 3."""
    optimizer, size = parameter._z3_optimizer, parameter.ds_tensor.numel()
    start = size * optimizer._get_param_partition_rank(parameter)
    for kind in (WEIGHT, *MOMENTS):
        whole = read(kind)
        own = torch.zeros(size, dtype=whole.dtype)
        rows = whole[start : start + size]
        own[: rows.numel()] = rows
        optimizer.set_local_hp_param(own, parameter, None if kind == WEIGHT else kind)
        if kind == WEIGHT:
            parameter.ds_tensor.data.copy_(own.view_as(parameter.ds_tensor))
            if parameter.data.numel() == whole.numel():  # a small one that stays whole between steps
                parameter.data.copy_(whole.view_as(parameter))


def _moment(states: Mapping[int, State], index: int, kind: str, like: Tensor) -> Tensor:
    """Zero if the saved model has taken no step."""
    return states[index][kind] if kind in states.get(index, {}) else torch.zeros_like(like, dtype=torch.float32)


def _rank(path: Path) -> int:
    match = _RANK.search(path.name)
    return int(match[1]) if match else 0


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
