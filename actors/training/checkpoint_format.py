"""Converts the tensors of a module to its checkpoint format, which vLLM's loaders read.

transformers 5 changes some weights when it reads a folder (the experts of a layer are stacked, names are changed) and
changes them back in `save_pretrained`. This module does the same for parts of the weights, so that a bucket of the
weight sync needs only its own tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor, nn

from actors.training import lora

T = TypeVar("T")
Gather = Callable[[Sequence[Tensor]], AbstractContextManager[Any]]  # gathers parameters while it is open


def buckets(hf: nn.Module, max_bytes: int, gather: Gather) -> Iterator[list[tuple[str, Tensor]]]:
    """Every weight with the name and shape that `save_pretrained` writes, in module order.

    A tied weight is listed under each of its names; adapters are merged into their weights. A bucket has at most
    `max_bytes`; a larger tensor has its own bucket.
    """
    for part in parts(hf, max_bytes, gather):
        items = to_checkpoint(hf, part)
        yield from cut(items, lambda item: item[1].numel() * item[1].element_size(), max_bytes)
        del part, items  # or they would stay in memory while the next part is gathered


def parts(hf: nn.Module, max_bytes: int, gather: Gather) -> Iterator[dict[str, Tensor]]:
    """Every weight by each of its names in the module, then the buffers that are saved with it.

    Weights that are converted together are in the same bucket, independent of size.
    """
    known = lora.weights(hf)
    groups = [[known[i] for i in unit] for unit in units(hf, [weight.names[0] for weight in known])]
    for part in cut(groups, lambda group: sum(weight.num_bytes for weight in group), max_bytes):
        weights = [weight for group in part for weight in group]
        with gather([p for weight in weights for p in weight.parameters]):
            yield {name: value for weight in weights for value in [weight.value()] for name in weight.names}
    saved = hf.state_dict().keys()
    if buffers := {name: buffer.detach() for name, buffer in hf.named_buffers() if name in saved}:
        yield buffers


def restore_conversions(hf: nn.Module) -> None:
    """Makes a model read from stacked experts be written in the checkpoint format too.

    transformers writes the format it has read; vLLM supports only the checkpoint format.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter

    used: Any = getattr(hf, "_weight_conversions", None)
    if used is None or any(isinstance(c, WeightConverter) for c in used):
        return
    known: list[Any] = get_model_conversion_mapping(hf, add_legacy=False)
    if any(isinstance(c, WeightConverter) for c in known):
        prefixes = [c for c in used if isinstance(c, PrefixChange)]
        hf._weight_conversions = [c for c in known if not isinstance(c, PrefixChange)] + prefixes  # type: ignore[assignment]


def units(hf: nn.Module, names: Sequence[str]) -> list[list[int]]:
    """Groups of positions in `names` that must be converted together, ordered by first member; most have one member."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    back = [c.reverse_transform() for c in reversed(_conversions(hf))]
    renamings = [c for c in back if isinstance(c, WeightRenaming)]
    converters = [c for c in back if isinstance(c, WeightConverter)]
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        renamed, pattern = rename_source_key(name, renamings, converters, reverse=True)
        found.setdefault(renamed if pattern is not None else f"alone {i}", []).append(i)
    return list(found.values())


def to_checkpoint(hf: nn.Module, tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """The tensors under the names of the checkpoint format, in its shapes; views of the given ones where possible.

    Args:
        tensors: by their names in the module; all members of each of their `units`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    if not _conversions(hf):
        return tensors.items()
    restored: dict[str, Tensor] = revert_weight_conversion(hf, dict(tensors))
    return restored.items()


def _conversions(hf: nn.Module) -> list[Any]:
    """The conversions that `revert_weight_conversion` reverts: those used in reading, otherwise all known ones."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    used: Any = getattr(hf, "_weight_conversions", None)
    if used is None:
        known: list[Any] = get_model_conversion_mapping(hf, add_legacy=False)
        used = [c for c in known if not isinstance(c, PrefixChange)]
    return list(used)


def cut(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Lists of consecutive items of at most `limit` in total; a larger item is alone."""
    part: list[T] = []
    total = 0
    for item in items:
        if part and total + size(item) > limit:
            yield part
            part, total = [], 0
        part.append(item)
        total += size(item)
    if part:
        yield part
