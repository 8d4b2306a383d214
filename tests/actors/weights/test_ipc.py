"""The bucket buffers of the IPC transport; CUDA's handles are replaced by the tensors themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.weights import ipc
from actors.weights.records import views

HERE, ELSEWHERE = "GPU-here", "GPU-elsewhere"


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "export", lambda flat: flat)
    monkeypatch.setattr(ipc, "imported", lambda handle, device: handle)
    monkeypatch.setattr(ipc, "gpu_uuid", lambda device: HERE)


def receive(payload: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    flat = ipc.IpcInbox(torch.device("cpu")).receive(SimpleNamespace(**payload))()
    return views(flat, payload)


def test_a_tensor_larger_than_the_buffer_makes_it_grow() -> None:
    link = ipc.IpcLink(torch.bfloat16, bucket_bytes=128, device="cpu")
    sizes = []
    for rows in (4, 1000, 4, 4):
        weight = torch.randn(rows, 8)
        ((_, got),) = receive(link.meet(link.pack([("w", weight)])))
        assert torch.equal(got, weight.to(torch.bfloat16))
        sizes.append([0 if slot is None else slot.numel() for slot in link.slots])
    assert sizes[-1] == [16000, 128]
    link.close()
    assert link.slots == [None, None]


def test_what_was_received_outlives_the_buffers() -> None:
    """vLLM keeps a tensor until its whole layer has come, and the buffer is filled again after two buckets."""
    link = ipc.IpcLink(torch.float32, bucket_bytes=128, device="cpu")
    first = torch.randn(4, 4)
    ((_, kept),) = receive(link.pack([("first", first)]))
    for i in range(4):
        receive(link.pack([(f"w{i}", torch.randn(4, 4))]))
    assert torch.equal(kept, first)


def test_an_engine_on_a_gpu_without_a_policy_rank_says_so() -> None:
    payload = ipc.IpcLink(torch.float32, 128, "cpu").pack([("w", torch.ones(2))])
    payload["handles"] = {ELSEWHERE: payload["handles"][HERE]}
    with pytest.raises(ValueError, match=r"no policy rank lives on this engine's GPU GPU-here.*weight_sync=nccl"):
        receive(payload)
