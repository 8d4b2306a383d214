"""Storages that leave and return, without DeepSpeed; with it in tests/integration/test_training.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from actors.config.schema import Offload
from actors.training import offload
from actors.training.offload import Held, HostMemory, ModelMemory


def test_views_return_with_their_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "CHUNK_BYTES", 7)  # several pieces, the last one shorter
    flat = torch.arange(10.0)
    view, kept, memory = flat[2:5].view(3, 1), flat.clone(), HostMemory()
    gradient = torch.ones(3)
    memory.take([flat.untyped_storage()])
    memory.take([flat.untyped_storage(), view.untyped_storage()])  # already away
    memory.take([gradient.untyped_storage()], keep=False)
    assert memory
    assert flat.untyped_storage().nbytes() == gradient.untyped_storage().nbytes() == 0
    memory.give_back()
    assert torch.equal(flat, kept)
    assert torch.equal(view.flatten(), kept[2:5])
    assert torch.equal(gradient, torch.zeros(3))
    view.zero_()
    assert flat[3] == 0
    assert not memory


def bytes_of(*tensors: torch.Tensor) -> list[int]:
    return [tensor.untyped_storage().nbytes() for tensor in tensors]


@pytest.mark.parametrize(
    ("setting", "held", "left"),
    [
        (Offload.none, Held.NOTHING, [8, 24, 8]),
        (Offload.optimizer, Held.NOTHING, [8, 0, 0]),
        (Offload.optimizer, Held.ALL, [8, 24, 8]),
        (Offload.all, Held.WEIGHTS, [8, 0, 0]),
        (Offload.all, Held.NOTHING, [0, 0, 0]),
    ],
)
def test_what_each_setting_moves(setting: Offload, held: Held, left: list[int]) -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    state, gradient = torch.ones(6), torch.ones(2)
    adam = SimpleNamespace(state={0: {"exp_avg": state, "step": 3}}, param_groups=[{"params": [module.weight]}])
    deepspeed = SimpleNamespace(optimizer=adam, groups=[[module.weight]], fp32_groups_gradients_flat=gradient)
    memory = ModelMemory(setting, module, torch.device("cpu"))
    memory.release(held, deepspeed)
    assert bytes_of(module.weight, state, gradient) == left
    memory.need(Held.WEIGHTS)
    assert bytes_of(module.weight) == [8]
    assert bytes_of(state) == left[1:2]
    memory.need(Held.ALL)
    assert state.tolist() == [1.0] * 6
    assert gradient.tolist() == [1.0 if left[2] else 0.0] * 2
