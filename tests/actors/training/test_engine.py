"""The parts of the engine and its workers that need no process group."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.config.schema import DType, EngineConfig, ModelConfig, OptimizerConfig
from actors.placement import process
from actors.training.engine import deepspeed_config, zero_stage
from actors.training.model_folder import copy_companions, load_model
from actors.training.worker import PolicyWorker, ReferenceWorker, first_column, padding_row
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.objective import Outputs, TensorBatch
from rlcore.types import TrainBatch


def batch(mask: list[list[int]]) -> TrainBatch:
    loss_mask = np.array(mask, dtype=np.bool_)
    return TrainBatch.from_padded(
        tokens=np.ones(loss_mask.shape, dtype=np.int32),
        lengths=np.full(len(mask), loss_mask.shape[1], dtype=np.int32),
        loss_mask=loss_mask,
        sample_ids=["s"] * len(mask),
    )


@pytest.mark.parametrize(
    ("mask", "column"),
    [
        ([[0, 0, 0, 1, 1], [0, 0, 1, 0, 0]], 2),
        ([[0, 1], [0, 0]], 1),
        ([[1, 1, 1]], 1),  # column 0 has no context: its log-prob is 0 whatever the logits
        ([[0, 0, 0, 0]], 3),  # nothing is trained: the last column alone
    ],
)
def test_first_column(mask: list[list[int]], column: int) -> None:
    assert first_column(batch(mask)) == column


def test_padding_row_adds_nothing_to_a_loss_and_keeps_the_gradient_path() -> None:
    like = batch([[0, 1]]).with_arrays(old_logprobs=np.ones(2, np.float32), advantages=np.ones(2, np.float32))
    row = padding_row(like)
    assert row.sample_ids == [""]
    assert row.num_loss_tokens == 0
    present = {name for name in TrainBatch.ARRAYS if getattr(row, name) is not None}
    assert present == {"old_logprobs", "advantages"}
    logprobs = torch.randn(1, 2, requires_grad=True)
    goal = PolicyGradientObjective(AlgorithmConfig(), 1.0, 8)
    loss, metrics = goal.loss(Outputs(logprobs), TensorBatch.from_train_batch(row), 5.0)
    loss.backward()
    assert loss.item() == 0.0
    assert logprobs.grad is not None
    assert not logprobs.grad.any()
    assert metrics == {}


@pytest.mark.parametrize(
    ("wanted", "dtype", "runs"),
    [(0, DType.float32, 0), (0, DType.bfloat16, 1), (2, DType.bfloat16, 2), (3, DType.float32, 3)],
)
def test_stage_that_runs(wanted: int, dtype: DType, runs: int) -> None:
    model, engine = ModelConfig(dtype=dtype), EngineConfig(zero_stage=wanted)
    assert zero_stage(model, engine) == runs
    assert deepspeed_config(model, engine)["zero_optimization"]["stage"] == runs


def test_deepspeed_config_merges_extra_deeply_and_last() -> None:
    engine = EngineConfig(
        zero_stage=2,
        offload_optimizer=True,
        optimizer=OptimizerConfig(max_grad_norm=0.3),
        extra={"zero_optimization": {"reduce_bucket_size": 7}, "steps_per_print": 3},
    )
    config = deepspeed_config(ModelConfig(dtype=DType.bfloat16), engine)
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"], zero["offload_optimizer"]["device"]) == (2, 7, "cpu")
    assert (config["steps_per_print"], config["gradient_clipping"]) == (3, 0.3)
    assert config["bf16"]["enabled"]
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "offload_optimizer" not in deepspeed_config(ModelConfig(), engine, trainable=False)["zero_optimization"]
    assert engine.extra == {"zero_optimization": {"reduce_bucket_size": 7}, "steps_per_print": 3}  # not written to


def test_stage_zero_is_clipped_once() -> None:
    """By the engine's own step; DeepSpeed would do it a second time."""
    assert deepspeed_config(ModelConfig(), EngineConfig(zero_stage=0))["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (EngineConfig(zero_stage=4), "zero_stage=4"),
        (EngineConfig(zero_stage=0, offload_optimizer=True), "offload_optimizer=true needs"),
    ],
)
def test_impossible_configurations(engine: EngineConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepspeed_config(ModelConfig(), engine)


def llama(path: Path, dropout: float) -> str:
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        attention_dropout=dropout,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)


def test_a_model_with_dropout_is_repeatable_or_refused(tmp_path: Path) -> None:
    path = llama(tmp_path, 0.5)
    model = load_model(path, ModelConfig(path=path))
    tokens = torch.arange(10)[None]
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    with pytest.raises(ValueError, match=r"without dropout.*attention_dropout': 0\.5"):
        load_model(path, ModelConfig(path=path, gradient_checkpointing=True))


def test_load_model_in_the_dtype_of_the_config(tmp_path: Path) -> None:
    path = llama(tmp_path, 0.0)
    model = load_model(path, ModelConfig(path=path, dtype=DType.bfloat16, gradient_checkpointing=True))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.training  # Hugging Face checkpoints in training mode alone


def test_companions_are_copied_byte_for_byte_and_weights_are_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    carried = ("tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja", "generation_config.json")
    for name in (*carried, "config.json", "model.safetensors", "pytorch_model.bin"):
        (source / name).write_bytes(name.encode() + b"\x00\xff")
    copy_companions(str(source), target)
    assert sorted(f.name for f in target.iterdir()) == sorted(carried)
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in carried)


@pytest.mark.parametrize("worker", [PolicyWorker, ReferenceWorker])
def test_a_worker_that_was_not_started_says_so(worker: type[PolicyWorker] | type[ReferenceWorker]) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        worker().numbers(batch([[0, 1]]), [[0]], 1.0)
    with pytest.raises(RuntimeError, match="not started"):
        worker().describe()


def test_send_weights_before_connect() -> None:
    with pytest.raises(RuntimeError, match="before connect"):
        PolicyWorker().send_weights(0)


def test_random_states_round_trip() -> None:
    process.prepare(torch.get_num_threads(), seed=7)
    states = process.random_states()
    first = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    process.set_random_states(states)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == first
    process.prepare(torch.get_num_threads(), seed=7)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == first


def test_no_other_process_can_take_the_port_before_the_start() -> None:
    """Rank 0 names a port and other ranks learn of it later; in between it is taken, and answers them."""
    worker = PolicyWorker()
    host, port = worker.address()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, port))
    peer = torch.distributed.TCPStore(host, port, None, False)
    peer.set("key", "value")
    assert worker._store is not None
    assert worker._store.get("key") == b"value"
