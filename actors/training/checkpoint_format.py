"""From the tensors of a module to those of its checkpoint format, which is what vLLM's loaders read.

transformers 5 changes some weights when it reads a folder (the experts of a layer are stacked, names are changed) and
changes them back in `save_pretrained`. The same is done here for a part of the weights at a time, so that a bucket of
the weight sync needs no more than its own tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor, nn

from actors.training import lora

T = TypeVar("T")
Gather = Callable[[Sequence[Tensor]], AbstractContextManager[Any]]  # makes parameters whole as long as it is open


def buckets(hf: nn.Module, max_bytes: int, gather: Gather) -> Iterator[list[tuple[str, Tensor]]]:
    """Every weight under the name and in the shape that `save_pretrained` writes, in the order of the module.

    A tied weight comes under each of its names; adapters come merged into the weights they adapt. A bucket holds at
    most `max_bytes`; a larger tensor comes alone.
    """
    for part in parts(hf, max_bytes, gather):
        yield from _cut(to_checkpoint(hf, part), lambda item: item[1].numel() * item[1].element_size(), max_bytes)


def parts(hf: nn.Module, max_bytes: int, gather: Gather) -> Iterator[dict[str, Tensor]]:
    """Every weight by each of its names in the module, then the buffers that are saved with it.

    What is converted together comes together, however large.
    """
    known = lora.weights(hf)
    groups = [[known[i] for i in unit] for unit in units(hf, [weight.names[0] for weight in known])]
    for part in _cut(groups, lambda group: sum(weight.num_bytes for weight in group), max_bytes):
        weights = [weight for group in part for weight in group]
        with gather([p for weight in weights for p in weight.parameters]):
            yield {name: value for weight in weights for value in [weight.value()] for name in weight.names}
    saved = hf.state_dict().keys()
    if buffers := {name: buffer.detach() for name, buffer in hf.named_buffers() if name in saved}:
        yield buffers


def restore_conversions(hf: nn.Module) -> None:
    """Makes a model that was read from stacked experts be written in the checkpoint format all the same.

    transformers writes what it has read; vLLM knows the checkpoint format alone.
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
    """Positions in `names` that have to be converted together, in the order of their first member; most are alone."""
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
    """Those that `revert_weight_conversion` takes back: the ones used in reading, else the ones that are known."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    used: Any = getattr(hf, "_weight_conversions", None)
    if used is None:
        known: list[Any] = get_model_conversion_mapping(hf, add_legacy=False)
        used = [c for c in known if not isinstance(c, PrefixChange)]
    return list(used)


def _cut(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Lists of consecutive items of at most `limit` together; a larger item comes alone."""
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
