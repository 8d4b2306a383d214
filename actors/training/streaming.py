"""Reads and writes model folders in pieces: a process that shards or moves a model never holds the whole of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

SHARD_BYTES = 1 << 30  # of a written file; a process holds so much in host memory
Place = Callable[[str, nn.Parameter], None]


@contextmanager
def streamed(place: Place) -> Iterator[None]:
    """While open, transformers' `from_pretrained` calls `place(name, parameter)` right after it has read a parameter.

    `place` may change the parameter's data: keep a part of it, move it, drop it. transformers reads and converts the
    weights in turn (experts that it stacks at once), so one parameter is whole at a time. safetensors are read without
    mapping the files, whose pages would count as resident.

    Not passed to `place` are weights that are tied, which transformers compares after reading, and those that the
    folder lacks, which it initialises: they are whole in the model that `from_pretrained` returns.
    """
    from transformers import PreTrainedModel

    plain = PreTrainedModel._load_pretrained_model

    def load(model: Any, state_dict: Any, files: Any, *args: Any, **options: Any) -> Any:
        if state_dict is None and files and all(str(file).endswith(".safetensors") for file in files):
            opened: list[Any] = [safe_open(file, framework="pt", backend="pread") for file in files]
            state_dict = {name: file.get_slice(name) for file in opened for name in file.keys()}  # noqa: SIM118
        tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
        prefixes = {module: prefix + "." * bool(prefix) for prefix, module in model.named_modules()}

        def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            if parameter is not None and module in prefixes and (full := prefixes[module] + name) not in tied:
                place(full, parameter)

        hook = register_module_parameter_registration_hook(registered)
        try:
            return plain(model, state_dict, files, *args, **options)
        finally:
            hook.remove()

    sequential = mock.patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1")  # threads would read ahead without limit
    with sequential, mock.patch.object(PreTrainedModel, "_load_pretrained_model", staticmethod(load)):
        yield


class Shards:
    """Safetensors files of at most `SHARD_BYTES`; a larger tensor has its own file.

    An error of writing is raised by `close` alone: the other ranks gather weights with this one until then. One file is
    `stem.suffix`; several are `stem-00001-of-00002.suffix`, as transformers names them, and `close` can
    write their index.
    """

    def __init__(self, folder: Path, stem: str, suffix: str) -> None:
        self.folder, self.stem, self.suffix = folder, stem, suffix
        self._held: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._files: list[list[str]] = []
        self._error: Exception | None = None

    def add(self, name: str, tensor: Tensor) -> None:
        """Copies the tensor; the caller may free it."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._bytes + size > SHARD_BYTES:
            self._write()
        self._held[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self._bytes, self._total = self._bytes + size, self._total + size

    def _write(self) -> None:
        self._files.append(list(self._held))
        try:
            if self._error is None:
                save_file(self._held, self._path(len(self._files)), {"format": "pt"})
        except (OSError, SafetensorError) as error:
            self._error = error
        self._held, self._bytes = {}, 0

    def _path(self, number: int, of: int | None = None) -> Path:
        total = "" if of is None else f"-of-{of:05d}"
        return self.folder / f"{self.stem}{'' if of == 1 else f'-{number:05d}{total}'}{self.suffix}"

    def close(self, index: bool = False) -> None:
        """Writes what is left and gives the files their names; `index`: also `stem.suffix.index.json`, of several."""
        if self._held or not self._files:
            self._write()
        if self._error is not None:
            raise self._error
        count = len(self._files)
        for number in range(1, count + 1):
            self._path(number).rename(self._path(number, count))
        if index and count > 1:
            places = {name: self._path(i, count).name for i, names in enumerate(self._files, 1) for name in names}
            content = {"metadata": {"total_size": self._total}, "weight_map": places}
            file = self.folder / f"{self.stem}{self.suffix}.index.json"
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
