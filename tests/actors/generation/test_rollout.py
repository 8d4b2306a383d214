"""The parts of rollout and weight sync that need no vLLM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.config.schema import RolloutConfig, WeightSyncBackend
from actors.generation.rollout import Request, RolloutWorker
from actors.generation.vllm_engine import label_versions
from actors.generation.vllm_model import parameter_names
from actors.generation.vllm_settings import engine_arguments
from actors.weights.records import ALIGNMENT, pack, unpack
from actors.weights.sender import WeightSyncError, choose_backend, make_sender
from rlcore.interfaces import Sampling

BUCKET = [
    ("a.weight", torch.randn(3, 5)),
    ("scale", torch.tensor(2.5)),
    ("empty", torch.empty(0, 4)),
    ("transposed", torch.randn(4, 6).T),
    ("ids", torch.arange(7)),
    ("half", torch.randn(9).to(torch.bfloat16)),
]


def test_a_bucket_survives_the_wire() -> None:
    payload = pack(BUCKET)
    assert payload["buffer"].dtype == np.uint8
    assert all(offset % ALIGNMENT == 0 for offset in payload["offsets"])
    for (name, sent), (other, got) in zip(BUCKET, unpack(payload), strict=True):
        assert (name, sent.dtype, sent.shape) == (other, got.dtype, got.shape)
        assert torch.equal(sent, got)


def test_packing_casts_floats_only() -> None:
    got = dict(unpack(pack(BUCKET, torch.bfloat16)))
    assert got["ids"].dtype is torch.int64
    assert got["a.weight"].dtype is torch.bfloat16
    assert torch.equal(got["a.weight"], BUCKET[0][1].to(torch.bfloat16))
    assert pack(BUCKET[:1], torch.bfloat16)["buffer"].nbytes <= pack(BUCKET[:1])["buffer"].nbytes


def test_unpacked_tensors_view_a_read_only_buffer(recwarn: pytest.WarningsRecorder) -> None:
    payload = pack(BUCKET[:1])
    payload["buffer"].setflags(write=False)  # as Ray hands it over
    (_, tensor), *_ = unpack(payload)
    assert tensor.data_ptr() == payload["buffer"].ctypes.data
    assert not recwarn.list


def test_a_tied_weight_travels_once_under_both_names() -> None:
    weight = torch.randn(8, 4)
    payload = pack([("embed", weight), ("other", torch.randn(3)), ("head", weight)], torch.bfloat16)
    assert payload["num_bytes"] == 64 + 64
    (_, embed), _, (_, head) = unpack(payload)
    assert torch.equal(embed, weight.to(torch.bfloat16))
    assert embed.data_ptr() == head.data_ptr()


def test_an_empty_bucket_can_be_packed() -> None:
    assert unpack(pack([])) == []


@pytest.mark.parametrize(
    ("wanted", "device", "colocated", "backend"),
    [
        ("auto", "cpu", False, "host"),
        ("auto", "cpu", True, "host"),
        ("auto", "cuda", True, "ipc"),
        ("auto", "cuda", False, "nccl"),
        ("host", "cuda", True, "host"),
        ("ipc", "cuda", True, "ipc"),
        ("nccl", "cuda", False, "nccl"),
        ("gloo", "cpu", False, "gloo"),
    ],
)
def test_choice_of_backend(wanted: str, device: str, colocated: bool, backend: str) -> None:
    assert choose_backend(RolloutConfig(weight_sync=WeightSyncBackend(wanted)), device, colocated) == backend


@pytest.mark.parametrize(
    ("wanted", "device", "colocated"),
    [
        ("nccl", "cpu", False),
        ("ipc", "cpu", True),
        ("ipc", "cuda", False),
        ("nccl", "cuda", True),
        ("gloo", "cuda", False),
    ],
)
def test_impossible_backends_are_refused(wanted: str, device: str, colocated: bool) -> None:
    with pytest.raises(ValueError, match=f"rollout.weight_sync={wanted}"):
        choose_backend(RolloutConfig(weight_sync=WeightSyncBackend(wanted)), device, colocated)


def test_versions_change_where_the_weights_did() -> None:
    assert label_versions(5, 3, []).tolist() == [3] * 5
    assert label_versions(5, 3, [(2, 4), (4, 6)]).tolist() == [3, 3, 4, 4, 6]
    assert label_versions(2, 3, [(0, 4)]).tolist() == [4, 4]  # it was still in the queue
    assert label_versions(2, 3, [(2, 4)]).tolist() == [3, 3]  # it had ended, its group had not
    assert label_versions(3, 3, [(1, 4), (1, 5)]).dtype == np.int32


class Source:
    def __init__(self, *buckets: list[tuple[str, torch.Tensor]]) -> None:
        self._buckets = buckets

    def buckets(self, max_bytes: int):
        yield from self._buckets


def test_unknown_backends_have_no_sender() -> None:
    with pytest.raises(ValueError, match="'smoke'"):
        make_sender("smoke", Source(), rank=0, dtype=torch.float32, bucket_bytes=1, deadline_s=1)


def test_a_rank_that_is_not_zero_only_joins_the_collective() -> None:
    seen = []

    class Counting(Source):
        def buckets(self, max_bytes: int):
            seen.append(max_bytes)
            yield [("a", torch.empty(0))]

    sender = make_sender("host", Counting(), rank=1, dtype=torch.float32, bucket_bytes=123, deadline_s=1)
    sender.connect([object()])  # a handle it must not call
    assert sender.send(4) == {"bytes": 0.0, "seconds": 0.0, "pause_s": 0.0, "buckets": 0.0}
    assert seen == [123]


def test_sending_to_nobody_is_an_error() -> None:
    sender = make_sender("host", Source(), rank=0, dtype=torch.float32, bucket_bytes=1, deadline_s=1)
    with pytest.raises(RuntimeError, match="before connect"):
        sender.send(0)


def test_sync_errors_keep_their_engines_across_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(WeightSyncError(7, {1: "gone"})))
    assert (error.version, error.failed) == (7, {1: "gone"})
    assert "version 7" in str(error)
    assert "rollout[1]: gone" in str(error)


def test_engine_arguments_on_each_device() -> None:
    config = RolloutConfig(sleep_level=1, extra={"max_num_batched_tokens": 512})
    cpu = engine_arguments("m", config, "cpu", "float32", 64, 0)
    assert cpu["enforce_eager"]
    assert cpu["hf_overrides"] == {"tie_word_embeddings": False}
    assert cpu["kv_cache_memory_bytes"] == 2**30
    gpu = engine_arguments("m", config, "cuda", "bfloat16", 64, 0)
    assert gpu["enable_sleep_mode"]
    assert not gpu["enforce_eager"]
    assert "hf_overrides" not in gpu
    assert cpu["max_num_batched_tokens"] == gpu["max_num_batched_tokens"] == 512


def test_a_float32_head_is_asked_of_an_engine_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def overrides(device: str) -> object:
        return engine_arguments("m", RolloutConfig(), device, "bfloat16", 64, 0, True)["hf_overrides"]

    assert overrides("cpu") == {"tie_word_embeddings": False, "head_dtype": "float32"}
    assert overrides("cuda") == {"head_dtype": "float32"}
    monkeypatch.delattr("vllm.model_executor.layers.logits_processor.LogitsProcessor._apply_head")
    with pytest.raises(ValueError, match=r"model\.float32_head=true: vLLM .* model's dtype only"):
        overrides("cpu")


def test_a_worker_that_was_not_started_says_so() -> None:
    worker = RolloutWorker()
    for call in (
        lambda: worker.submit("c", [Request(0, "a", (1,))], Sampling(1, 1)),
        lambda: worker.collect(0.1),
        worker.version,
        worker.idle,
    ):
        with pytest.raises(RuntimeError, match="not running"):
            call()
    worker.shutdown()


def test_a_module_held_twice_has_each_of_its_names() -> None:
    model = torch.nn.Module()
    model.expert, model.runner = torch.nn.Linear(2, 2, bias=False), torch.nn.Module()
    model.runner.shared = model.expert
    assert parameter_names(model) == [{"expert.weight", "runner.shared.weight"}]
