"""Averages Hugging Face model folders tensor by tensor: model soups, and Llama 3's averages over checkpoints.

Source: weights of models tuned from one start (Wortsman et al. 2022, arXiv 2203.05482; Llama 3, arXiv 2407.21783,
section 4.1.5). Only safetensors are read and written; one tensor of each folder is in memory at a time, never a model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rlcore.storage.durable import new_folder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# not copied: weights of one model in other formats, and records about the first model
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.gguf")
NOT_COPIED = (*_WEIGHT_FILES, "*.float32", "rlcore_origin.json")
# keys of config.json that may differ within one architecture
BOOKKEEPING = ("transformers_version", "torch_dtype", "dtype", "use_cache")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def average(folders: Sequence[str | Path], directory: str | Path, weights: Sequence[float] | None = None) -> None:
    """Writes the weighted mean of the models in `folders` to a new folder.

    Each folder holds `model.safetensors` or shards with their index. Sums are in float32 (float64 for float64 tensors)
    as a running mean `m += w_k / (w_1 + ... + w_k) (x_k - m)`, which leaves equal tensors unchanged. The
    result has the first folder's dtypes, in one file; equal input gives equal bytes. Integer tensors must be equal. All
    other files (config, tokenizer, chat template, ...) are copied from the first folder. A tied head that only some
    folders contain is dropped if it equals its embedding.

    Args:
        directory: must not exist, or be empty; it is written atomically.
        weights: per folder, not negative; they are divided by their sum. None: equal.

    Raises:
        ValueError: no folders, invalid weights, folders of different architecture or vocabulary, quantized
            models, a tensor that is missing, of another shape, or not finite: folder and tensor are named.
        FileNotFoundError: a folder without safetensors, or an index that names a file that is not there.
        FileExistsError: `directory` is not empty.
    """
    shares = _shares(folders, weights)
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not empty: choose a new folder for the average")
    with ExitStack() as stack:
        # folders with weight 0 are skipped, but the first one still provides dtypes and other files
        models = [stack.enter_context(_Folder(Path(path))) for path in folders]
        _check_alike(models)
        names = _common_names(models)
        with new_folder(target) as folder:
            _copy_companions(models[0].path, folder)
            _write(folder / WEIGHTS, models, names, shares)


class _Folder:
    """A model folder with open, memory-mapped safetensors; tensors are read on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = _json(path / "config.json")
        self._stack = ExitStack()
        self._holder: dict[str, Any] = {}  # tensor name -> open file

    def __enter__(self) -> _Folder:
        files = self._files()
        if lost := [file for file in files if not file.is_file()]:
            raise FileNotFoundError(f"{lost[0]} is missing, though {self.path / INDEX} names it")
        with ExitStack() as stack:
            for file, named in files.items():
                handle = stack.enter_context(safe_open(file, framework="pt"))
                inside = set(handle.keys())
                if named is not None and not named <= inside:
                    name = min(named - inside)
                    raise ValueError(f"{file} holds no tensor {name!r}, though {self.path / INDEX} says so")
                self._holder |= dict.fromkeys(inside if named is None else named, handle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _files(self) -> dict[Path, set[str] | None]:
        """Each file and its relevant tensors; None: all."""
        if (self.path / WEIGHTS).is_file():
            return {self.path / WEIGHTS: None}
        if not (self.path / INDEX).is_file():
            raise FileNotFoundError(f"{self.path} holds neither {WEIGHTS} nor {INDEX}: save the model as safetensors")
        files: dict[Path, set[str] | None] = {}
        for name, file in _json(self.path / INDEX)["weight_map"].items():
            named = files.setdefault(self.path / file, set())
            assert named is not None
            named.add(name)
        return files

    @property
    def names(self) -> set[str]:
        return set(self._holder)

    @property
    def is_tied(self) -> bool:
        text = self.config.get("text_config") or {}
        return bool(self.config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))

    def shape(self, name: str) -> list[int]:
        return list(self._holder[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._holder[name].get_tensor(name)
        return tensor


def _shares(folders: Sequence[str | Path], weights: Sequence[float] | None) -> list[float]:
    if isinstance(folders, str | Path) or not folders:
        raise ValueError(f"folders={folders!r}: an average needs a list of at least one model folder")
    weights = [1.0] * len(folders) if weights is None else list(weights)
    if len(weights) != len(folders):
        raise ValueError(f"{len(folders)} folders and {len(weights)} weights: one each")
    for folder, weight in zip(folders, weights, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{folder} has the weight {weight}: finite and not negative")
    if not sum(weights):
        raise ValueError("all weights are 0")
    return weights


def _check_alike(models: Sequence[_Folder]) -> None:
    first = models[0]
    vocabulary = _vocabulary(first.path)
    for model in models:
        if model.config.get("quantization_config"):
            raise ValueError(f"{model.path} is quantized: quantized weights cannot be averaged")
        for key in sorted(first.config.keys() & model.config.keys()):
            if key.startswith("_") or key.endswith("_token_id") or key in BOOKKEEPING:
                continue
            mine, theirs = first.config[key], model.config[key]
            if _plain(mine) != _plain(theirs):
                raise ValueError(
                    f"{first.path} and {model.path} are of different architecture: config.json has {key}={mine!r} and "
                    f"{theirs!r}"
                )
        other = _vocabulary(model.path)
        if vocabulary is not None and other is not None and other != vocabulary:
            raise ValueError(f"{first.path} and {model.path} have different vocabularies: see their tokenizer.json")


def _plain(value: Any) -> Any:
    """A nested config (text_config of a multimodal model) without metadata keys."""
    return {k: _plain(v) for k, v in value.items() if k not in BOOKKEEPING} if isinstance(value, dict) else value


def _common_names(models: Sequence[_Folder]) -> list[str]:
    common = set.intersection(*(model.names for model in models))
    for model in models:
        for name in sorted(model.names - common):
            if not (model.is_tied and _is_copy(model, name, common)):
                without = next(other for other in models if name not in other.names)
                raise ValueError(f"{without.path} has no tensor {name!r}, {model.path} has one")
    if not common:
        raise ValueError(f"{models[0].path} holds no tensors")
    for model in models[1:]:
        for name in sorted(common):
            if model.shape(name) != models[0].shape(name):
                raise ValueError(
                    f"{name!r} has the shape {models[0].shape(name)} in {models[0].path} and {model.shape(name)} in "
                    f"{model.path}"
                )
    return sorted(common)


def _is_copy(model: _Folder, name: str, common: set[str]) -> bool:
    shape, tensor = model.shape(name), model.tensor(name)
    return any(model.shape(n) == shape and torch.equal(model.tensor(n), tensor) for n in sorted(common))


def _mean(name: str, models: Sequence[_Folder], shares: Sequence[float]) -> Tensor:
    """The averaged tensor in the first folder's dtype."""
    first = models[0].tensor(name)
    if not first.is_floating_point():
        for model in models[1:]:
            other = model.tensor(name)
            if other.dtype != first.dtype or not torch.equal(other, first):
                raise ValueError(f"{name!r} is {first.dtype}, and differs between {models[0].path} and {model.path}")
        return first
    mean, so_far = None, 0.0
    for model, share in zip(models, shares, strict=True):
        if not share:
            continue
        tensor = model.tensor(name)
        if not tensor.is_floating_point():
            raise ValueError(f"{name!r} is {first.dtype} in {models[0].path} and {tensor.dtype} in {model.path}")
        # a copy, because writing to mapped pages would keep them in memory
        tensor = tensor.to(torch.promote_types(first.dtype, torch.float32), copy=True)
        if not tensor.isfinite().all():
            raise ValueError(f"{name!r} of {model.path} holds values that are not finite")
        so_far += share
        mean = tensor if mean is None else mean.add_(tensor.sub_(mean), alpha=share / so_far)
    assert mean is not None
    return mean.to(first.dtype)


def _write(file: Path, models: Sequence[_Folder], names: Sequence[str], shares: Sequence[float]) -> None:
    """Writes a safetensors file one tensor at a time: header length (8 bytes), JSON header, values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    dtypes = {name: models[0].tensor(name).dtype for name in names}  # mapped: reads no values
    for name in names:
        if dtypes[name] not in DTYPES:
            raise ValueError(f"{name!r} of {models[0].path} is {dtypes[name]}: such tensors are not averaged")
    names = sorted(names, key=lambda name: (-dtypes[name].itemsize, name))  # keeps tensors aligned to their item size
    for name in names:
        shape = models[0].shape(name)
        size = math.prod(shape) * dtypes[name].itemsize
        header[name] = {"dtype": DTYPES[dtypes[name]], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            stream.write(_mean(name, models, shares).contiguous().view(-1).view(torch.uint8).numpy().data)


def _copy_companions(source: Path, target: Path) -> None:
    for file in _companions(source):
        shutil.copyfile(file, target / file.name)


def _companions(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(".") and not any(file.match(p) for p in NOT_COPIED):
            yield file


def _vocabulary(folder: Path) -> Any:
    """Text of each token id; None without a usable tokenizer.json."""
    file = folder / "tokenizer.json"
    return _json(file).get("model", {}).get("vocab") if file.is_file() else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: {file.parent} is not a Hugging Face model folder")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object")
    return content
