"""What a launch refuses by a model folder's config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.commands.plan import plan
from actors.config.compose import compose
from actors.config.rules_model import model_problems

LLAMA = {
    "model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 1024, "vocab_size": 260, "num_hidden_layers": 2, "intermediate_size": 192,
}  # fmt: skip


def problems(folder: Path, *overrides: str, device: str = "cpu", **values: Any) -> dict[str, str]:
    """Key -> text and cure, of a folder that holds only this config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | values))
    composed = compose(["model=hf", f"model.path={folder}", "data=jsonl", "data.train=x.jsonl", *overrides])
    return {p.key: f"{p.text}; {p.cure}" for p in model_problems(composed, device)}


def test_a_model_that_fits_has_no_problem(tmp_path):
    assert problems(tmp_path) == {}


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"max_position_embeddings": 512}, 480),
        ({"max_position_embeddings": None, "n_positions": 256}, 224),
        ({"max_position_embeddings": 128, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 480),
    ],
)
def test_a_context_shorter_than_prompt_and_response(tmp_path, values, left):
    """The defaults: prompts of up to 512 tokens and responses of 32."""
    found = problems(tmp_path, "rollout.max_new_tokens=32", "data.max_prompt_tokens=512", **values)
    assert f"set it to {left} or less" in found["data.max_prompt_tokens"]
    assert problems(tmp_path, "rollout.max_new_tokens=32", f"data.max_prompt_tokens={left}", **values) == {}


def test_a_context_shorter_than_the_one_asked_for(tmp_path):
    found = problems(tmp_path, "rollout.max_model_len=2048")
    assert "set it to 1024 or less" in found["rollout.max_model_len"]


def test_head_widths_without_a_kernel_on_the_cpu(tmp_path):
    assert "width 16" in problems(tmp_path, num_attention_heads=8)["model.path"]
    assert "width 48" in problems(tmp_path, head_dim=48)["model.path"]
    assert problems(tmp_path, num_attention_heads=8, device="gpu") == {}
    assert problems(tmp_path, text_config={"head_dim": 24})["model.path"].count("width 24") == 1
    assert problems(tmp_path, head_dim=48, kv_lora_rank=32) == {}, "latent attention has kernels of its own"


def test_heads_over_the_processes_of_an_engine(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    found = problems(tmp_path, "rollout.tensor_parallel_size=3")
    assert "the model of model.path has 4" in found["rollout.tensor_parallel_size"]
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert "at most 2" in problems(tmp_path, "rollout.tensor_parallel_size=4")["rollout.tensor_parallel_size"]


@pytest.mark.parametrize(
    ("attention", "device", "expected"),
    [
        ("spda", "cpu", "did you mean sdpa?"),
        ("flash_attention_2", "cpu", "needs a GPU"),
        ("flash_attention_2", "gpu", "flash_attn is not installed"),
    ],
)
def test_attention(tmp_path, attention, device, expected):
    assert expected in problems(tmp_path, f"model.attention={attention}", device=device)["model.attention"]


def test_folders_without_a_usable_config(tmp_path):
    composed = compose(["model=hf", f"model.path={tmp_path}", "data=jsonl", "data.train=x.jsonl"])
    assert [p.text for p in model_problems(composed, "cpu")] == ["it has no config.json"]
    (tmp_path / "model.gguf").touch()
    assert "set model.gguf_file=model.gguf" in next(iter(model_problems(composed, "cpu"))).text
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in next(iter(model_problems(composed, "cpu"))).text
    (tmp_path / "config.json").write_text("[]")
    assert "not an object" in next(iter(model_problems(composed, "cpu"))).text


def test_warm_up_longer_than_the_run_is_a_warning(tmp_path):
    found = problems(tmp_path, "trainer.steps=5", "trainer.learning_rate.warmup_steps=10")
    assert "never reached" in found["trainer.learning_rate.warmup_steps"]


def test_plan_is_not_ok_with_such_a_model(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"head_dim": 16}))
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    found = plan(compose(["model=hf", f"model.path={tmp_path}", "data=jsonl", f"data.train={data}"]))
    assert not found.ok
    assert "width 16" in found.text
