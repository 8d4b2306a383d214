"""Memory of the roles on a GPU, for models of known size, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen2Config

from actors.commands.plan import plan
from actors.config.compose import compose
from actors.config.rules import problems
from actors.placement.memory import GIB, engine_share, free_share, model_shape, reserved_bytes, trainer_bytes
from rlcore.ops.logprobs import CHUNK_ELEMENTS

# parameters of Qwen2.5: embedding, (attention with its biases, MLP, two norms) a layer, norm, output head where untied
SIZES = {
    "1.5B": ({"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                  "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}, 1_543_714_304),
    "7B": ({"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}, 7_615_616_512),
}  # fmt: skip


def given(folder: Path, size: str) -> list[str]:
    Qwen2Config(**SIZES[size][0], max_position_embeddings=32768).save_pretrained(folder)
    (folder / "prompts.jsonl").write_text('{"prompt": "1 + 1", "reference": "2"}\n')
    return [f"model.path={folder}", f"data.train={folder / 'prompts.jsonl'}"]


@pytest.mark.parametrize(("size", "name", "ranks"), [("1.5B", "gpu_1", 1), ("7B", "gpu_8_colocated", 8)])
def test_what_policy_and_engine_hold_on_one_gpu(tmp_path: Path, size: str, name: str, ranks: int) -> None:
    config = compose([f"+experiment={name}", *given(tmp_path, size)])
    shape, parameters = model_shape(config.model), SIZES[size][1]
    assert shape.parameters == parameters
    # bfloat16 weights, float32 gradients, masters and two moments: 2 + 4 + 4 + 8 bytes a parameter, over the ranks
    held = 18 * parameters / ranks
    logits = 2 * 2 * (CHUNK_ELEMENTS // shape.vocabulary) * shape.vocabulary
    assert sum(trainer_bytes(config, shape).values()) == pytest.approx(held + logits)
    # beside them a CUDA context of 1.5 GiB, and three buckets of 256 MiB
    reserved = held + logits + 2.25 * GIB
    assert reserved_bytes(config, shape) == pytest.approx(reserved)
    share = engine_share(config, shape, 80 * GIB)
    assert share == pytest.approx(0.94 * (80 * GIB - 1.5 * GIB - reserved) / (80 * GIB), abs=1e-3)
    assert share * 80 * GIB > 2 * parameters + GIB  # the engine's own weights, and room for a KV cache
    assert "KV cache: " + f"{share:g} of a made-up GPU of 80 GiB" in plan(config).text.replace("\n", " ")


def test_seven_billion_parameters_do_not_fit_beside_an_engine_on_one_gpu(tmp_path: Path) -> None:
    config = compose(["+experiment=gpu_1", *given(tmp_path, "7B")])
    assert reserved_bytes(config, model_shape(config.model)) > 80 * GIB
    assert engine_share(config, model_shape(config.model), 80 * GIB) == 0


def test_an_engine_alone_takes_the_usual_share() -> None:
    assert free_share(0.0, 80 * GIB, turns=False) == 0.92
    config = compose(["cluster=gpu8", "rollout.gpu_memory_utilization=0.5"])
    assert engine_share(config, model_shape(config.model), 80 * GIB) == 0.5


@pytest.mark.parametrize("name", ["gpu_1", "gpu_8_colocated", "gpu_8_split", "gpu_64"])
def test_experiments_on_gpus_set_everything(tmp_path: Path, name: str) -> None:
    config = compose([f"+experiment={name}", *given(tmp_path, "7B")])
    assert not problems(config)
    assert config.cluster.device.value == "cuda"
    assert not config.rollout.enforce_eager
    assert config.model.dtype.value == "bfloat16"
    assert config.model.gradient_checkpointing
    assert config.rollout.max_new_tokens >= 1024
    assert config.trainer.parity.mean_tolerance == 0.05
    assert "Weight sync: " + ("ipc" if name in ("gpu_1", "gpu_8_colocated") else "nccl") in plan(config).text
