"""The weight-transfer engine inside vLLM, registered by entry point so that vLLM's worker processes find it too.

One class for all transports and for vLLM 0.26 to 0.33, which have the same engine-side API; vLLM's trainer side differs
between them and is not used. vLLM repacks weights after loading, so the first tensor of an update is loaded after
`begin_reload` and the last before `finalize_layerwise_reload`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from actors.generation.vllm_model import begin_reload, lost_layers, parameter_names
from actors.weights.collective import CollectiveInbox
from actors.weights.host import HostInbox
from actors.weights.ipc import IpcInbox, synchronize
from actors.weights.records import views

BACKEND = "rlcore"  # name in vLLM; `InitInfo` selects the transport


class Inbox(Protocol):
    """The engine side of a transport."""

    def receive(self, info: Any) -> Callable[[], torch.Tensor]:
        """Starts to receive a bucket; the returned function gives the flat buffer. vLLM may keep views of it."""
        ...

    def close(self) -> None: ...


@dataclass
class InitInfo:
    """How to connect to the trainer. All fields except `transport` are for groups (`nccl`, `gloo`)."""

    transport: str = "host"
    address: str = ""
    port: int = 0
    size: int = 0  # size of the group
    offset: int = 0  # rank of this engine's first worker
    limit_s: float = 0.0


@dataclass
class UpdateInfo:
    """One bucket. `last`: no more buckets follow, so every weight of the model must have arrived."""

    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    num_bytes: int = 0
    buffer: Any = None  # host: uint8 numpy array
    handles: dict[str, Any] = field(default_factory=dict)  # ipc: GPU UUID -> handle
    last: bool = False
    staged: bool = False  # keep it until the last bucket; the model is in use meanwhile
    seconds: float = 0.0  # seconds until the deadline of the update


class Receiver:
    """Implements vLLM's `WeightTransferEngine` without its base class, which would import vLLM."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    device: torch.device
    model: Any
    model_config: Any
    vllm_config: Any
    parse_update_info: Callable[[dict[str, Any]], UpdateInfo]
    _inbox: Inbox | None = None
    _open = False  # between vLLM's initialize_layerwise_reload and its finalize

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        self.shutdown()
        if init_info.transport == "host":
            self._inbox = HostInbox()
        elif init_info.transport == "ipc":
            self._inbox = IpcInbox(self.device)
        else:
            self._inbox = CollectiveInbox(init_info, self.vllm_config.parallel_config.rank, self.device)

    def start_weight_update(self) -> None:
        self.finish_weight_update()  # an aborted update left partly filled layers
        self._loaded: set[str] = set()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # vLLM's version waits for the device after each bucket, also for staged ones
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if update_info.names:
            if self._inbox is None:
                raise RuntimeError("received a weight bucket before the transport was initialised")
            self._waiting.append((update_info, self._inbox.receive(update_info)))
        if update_info.staged and not update_info.last:
            return
        while self._waiting:
            info, arrived = self._waiting.pop(0)
            self._load(info, arrived())
        if update_info.last:
            self._check_complete()
        synchronize(self.device)

    def _load(self, info: UpdateInfo, flat: torch.Tensor) -> None:
        if not self._open:
            begin_reload(self.model)
            self._open = True
        loaded = self.model.load_weights(views(flat, vars(info)))
        self._loaded.update(info.names if loaded is None else loaded)

    def _check_complete(self) -> None:
        # vLLM only logs layers without new weights; with dummy weights it would sample from noise
        if getattr(self.model_config, "quantization", None) is not None:
            return
        expected = parameter_names(self.model)
        missing = sorted(min(names) for names in expected if not names & self._loaded)
        if missing:
            raise ValueError(f"the update lacks {len(missing)} weights of the model: {', '.join(missing[:8])}")
        if lost := lost_layers(self.model, self._loaded):
            raise ValueError(
                f"vLLM cannot load {type(self.model).__name__} again: its load_weights bypasses the weight loaders of "
                f"{len(lost)} layers: {', '.join(lost[:8])}"
            )

    def finish_weight_update(self) -> None:
        self._waiting: list[tuple[UpdateInfo, Callable[[], torch.Tensor]]] = []
        if self._open:
            from vllm.model_executor.model_loader import reload

            self._open = False
            reload.finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self._inbox is not None:
            self._inbox.close()
            self._inbox = None

    @staticmethod
    def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
        """Abstract only in vLLM 0.26; the trainer side is `actors.weights.sender.Sender`."""
        raise NotImplementedError


@functools.cache
def engine_class() -> type:
    from vllm.distributed.weight_transfer.base import WeightTransferEngine

    return type("BucketEngine", (Receiver, WeightTransferEngine), {})


def register() -> None:
    """Registers the backend in vLLM. Entry point `vllm.general_plugins`; safe to call again."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, engine_class())
