"""Loads training state, also into another layout: number of ranks and ZeRO stage may both differ.

DeepSpeed's own loading wants the layout of the saving run, and reads a second copy of a rank's state into memory. Here
every rank copies, parameter by parameter, its part of the float32 weights and of Adam's two moments from the files of
the ranks that have saved it. The files are mapped into memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actors.placement.process import drop_pages
from actors.training.offload import tensors_in

MOMENTS = ("exp_avg", "exp_avg_sq")
RESIDENT_BYTES = 256 << 20  # of pages of the files that were read
WEIGHT = "weight"  # the float32 one; its moments are under their own names
_RANK = re.compile(r"zero_pp_rank_(\d+)_")

Piece = Callable[[str, int, int], Tensor]  # of a flat parameter: float32 values by WEIGHT or a moment, start and stop
Segment = tuple[int, Callable[[str], Tensor]]  # elements of a parameter that lie together, and their values
State = dict[str, Tensor]


class SavedState:
    """Training state that DeepSpeed saved in a folder.

    Attributes:
        step: optimizer steps taken.
        module: state dict of what was trained; under ZeRO-3 without the weights.
        kinds: WEIGHT, and the moments unless no step was taken.

    Raises:
        FileNotFoundError: no files of DeepSpeed.
    """

    def __init__(self, folder: Path) -> None:
        shards = sorted(folder.glob("*zero_pp_rank_*_optim_states.pt"), key=rank_of)
        models = sorted(folder.glob("*model_states.pt"), key=rank_of)
        if not models:
            raise FileNotFoundError(f"DeepSpeed saved nothing in {folder}")
        self._model, self._shards = _read(models[0]), [_read(path)["optimizer_state_dict"] for path in shards]
        self.module: dict[str, Tensor] = self._model["module"]
        if not self._shards:
            states = [self._model["optimizer"]["state"]]
        elif "fp32_flat_groups" in self._shards[0]:
            states = [shard["optimizer_state_dict"]["state"] for shard in self._shards]
        else:
            states = [shard["base_optimizer_state"]["state"] for shard in self._shards]
        self._states: list[Mapping[int, State]] = states
        self._mapped = list(tensors_in([self._model, self._shards]))
        self.step = float(next((s["step"] for s in states[0].values() if "step" in s), 0.0))
        self.kinds = (WEIGHT, *(MOMENTS if any(MOMENTS[0] in s for held in states for s in held.values()) else ()))

    def parameters(self, trained: list[str]) -> Iterator[tuple[str, Piece]]:
        """Each trained parameter by name, with a function that reads a part of it.

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
        passed = 0
        for name, segments in found.items():
            yield name, functools.partial(_read_part, segments)
            passed += 4 * len(self.kinds) * sum(count for count, _ in segments)
            if passed > RESIDENT_BYTES:
                drop_pages(self._mapped)
                passed = 0

    def _whole(self, trained: list[str]) -> dict[str, list[Segment]]:
        """Stage 0: one copy of everything; Adam numbers the parameters in the model's order."""
        weights, (state,) = self.module, self._states

        def values(i: int, name: str, kind: str) -> Tensor:
            return (weights[name] if kind == WEIGHT else _moment(state, i, kind, weights[name])).flatten()

        known = [(i, name) for i, name in enumerate(trained) if name in weights]
        return {name: [(weights[name].numel(), functools.partial(values, i, name))] for i, name in known}

    def _sliced(self) -> dict[str, list[Segment]]:
        """Stages 1 and 2: every rank has a range of the parameters laid end to end, and a table of what is in it."""
        found: dict[str, list[Segment]] = {}
        for rank, shard in enumerate(self._shards):
            for group, table in enumerate(shard["param_slice_mappings"]):
                for name, address in table.items():
                    key = "single_partition_of_fp32_groups"
                    found.setdefault(name, []).append(self._segment(rank, group, key, address.start, address.numel))
        return found

    def _partitioned(self) -> dict[str, list[Segment]]:
        """Stage 3: every rank has an equal part of each parameter, the last one padded."""
        shapes = {name: shape for group in self._model["param_shapes"] for name, shape in group.items()}
        ranks = len(self._shards)
        groups = [group.numel() for group in self._shards[0]["fp32_flat_groups"]]
        found, group, start = {}, 0, 0
        for name, shape in shapes.items():
            size = -(-shape.numel() // ranks)
            if start == groups[group]:
                group, start = group + 1, 0
            counts = [max(0, min(size, shape.numel() - rank * size)) for rank in range(ranks)]
            found[name] = [self._segment(r, group, "fp32_flat_groups", start, n) for r, n in enumerate(counts)]
            start += size
        return found

    def _segment(self, rank: int, group: int, key: str, start: int, count: int) -> Segment:
        return count, lambda kind: self._flat(rank, group, key, kind).narrow(0, start, count)

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
    for flat in optimizer.fp32_partitioned_groups_flat if stage == 3 else owned:
        if len(saved.kinds) == 1:
            adam.state.pop(flat, None)  # Adam makes them at its first step
            continue
        state = adam.state[flat]
        for moment in MOMENTS:
            state.setdefault(moment, torch.zeros_like(flat))
        state["step"] = torch.tensor(saved.step, dtype=torch.float32, device=flat.device)
    write = {0: _write_whole, 3: write_partition}.get(stage, _write_slice)
    with torch.no_grad():
        for name, read in saved.parameters(list(named)):
            write(named[name], read, adam, saved.kinds)
    _read_buffers(saved, module)


def read_weights(folder: Path, module: nn.Module, trained: list[str], gathered: Callable[..., Any]) -> None:
    """Sets the parameters `trained` of a module without optimizer to the weights saved in `folder`. A collective.

    Args:
        gathered: context in which the given parameters are whole; rank `modifier_rank` may change them.

    Raises:
        FileNotFoundError, ValueError: see `SavedState`.
    """
    saved, named = SavedState(folder), dict(module.named_parameters())
    for name, read in saved.parameters(trained):
        with gathered([named[name]], modifier_rank=0), torch.no_grad():
            named[name].copy_(read(WEIGHT, 0, named[name].numel()).view_as(named[name]))
    _read_buffers(saved, module)


@torch.no_grad()
def _read_buffers(saved: SavedState, module: nn.Module) -> None:
    """Those that a model is saved with, such as the biases of an expert router."""
    for name, buffer in module.named_buffers():
        if name in saved.module:
            buffer.copy_(saved.module[name])


def _write_whole(parameter: Any, read: Piece, adam: torch.optim.Optimizer, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        target = parameter if kind == WEIGHT else adam.state[parameter][kind]
        target.copy_(read(kind, 0, parameter.numel()).view_as(parameter))


def _write_slice(parameter: Any, read: Piece, adam: torch.optim.Optimizer, kinds: tuple[str, ...]) -> None:
    """Stages 1 and 2. The parameter itself is whole on every rank, its float32 copy and moments are not."""
    parameter.copy_(read(WEIGHT, 0, parameter.numel()).view_as(parameter))
    if (part := parameter._hp_mapping) is None:  # of other ranks
        return
    here, there = part.lp_fragment_address, part.hp_fragment_address
    flat = adam.param_groups[part.param_group_index]["params"][0]
    for kind in kinds:
        target = flat.data if kind == WEIGHT else adam.state[flat][kind]
        target.narrow(0, there.start, there.numel).copy_(read(kind, here.start, here.start + here.numel))


def write_partition(parameter: Any, read: Piece, adam: Any = None, kinds: tuple[str, ...] = (WEIGHT,)) -> None:
    """Stage 3: this rank's part of a parameter, whatever its size (DeepSpeed's own call wants a multiple of the ranks).
    """
    optimizer, size, count = parameter._z3_optimizer, parameter.ds_tensor.numel(), parameter.ds_numel
    start = min(count, size * optimizer._get_param_partition_rank(parameter))
    for kind in kinds:
        rows = read(kind, start, min(count, start + size))
        own = nn.functional.pad(rows, (0, size - rows.numel()))
        optimizer.set_local_hp_param(own, parameter, None if kind == WEIGHT else kind)
        if kind == WEIGHT:
            parameter.ds_tensor.data.copy_(own.view_as(parameter.ds_tensor))
            if parameter.data.numel() == count:  # a small one that stays whole between steps
                parameter.data.copy_(read(kind, 0, count).view_as(parameter))


def _read_part(segments: list[Segment], kind: str, start: int, stop: int) -> Tensor:
    parts, begin = [torch.empty(0)], 0
    for count, values in segments:
        low, high = max(start - begin, 0), min(stop - begin, count)
        if low < high:
            parts.append(values(kind)[low:high])
        begin += count
    return torch.cat(parts) if len(parts) != 2 else parts[1]


def _moment(states: Mapping[int, State], index: int, kind: str, like: Tensor) -> Tensor:
    """Zero if the saved model has taken no step."""
    return states[index][kind] if kind in states.get(index, {}) else torch.zeros_like(like, dtype=torch.float32)


def rank_of(path: Path) -> int:
    """The rank that wrote a file of DeepSpeed's checkpoint."""
    match = _RANK.search(path.name)
    return int(match[1]) if match else 0


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
