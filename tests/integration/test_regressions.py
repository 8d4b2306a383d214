"""Real trainings of two steps for inputs that stopped other trainers, from their public bug reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.families import VOCABULARY, build
from tests.integration.test_model_families import ONE_RANK, two_steps

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4


def test_stop_strings_with_a_vocabulary_wider_than_the_tokenizer(tmp_path: Path) -> None:
    """Stop strings need decoded text, and the model samples ids that the tokenizer does not have."""
    build("llama", tmp_path / "model", vocab_size=VOCABULARY + 60)
    options = ("rollout.stop=[e,a]", "tracking.samples_every=1", "rollout.max_new_tokens=12")
    found = two_steps(tmp_path, tmp_path / "model", ONE_RANK, *options)
    assert max(found[step]["rollout/logprob_diff_max"] for step in (1, 2)) < TOLERANCE
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert samples
    assert not any(letter in sample["response"][:-1] for sample in samples for letter in "ea")


def test_adapters_on_the_transposed_layers_of_gpt2(tmp_path: Path) -> None:
    build("gpt2", tmp_path / "model")
    found = two_steps(tmp_path, tmp_path / "model", ONE_RANK, "model.lora.rank=4")
    assert max(found[step]["rollout/logprob_diff_max"] for step in (1, 2)) < TOLERANCE
    assert found[1]["actor/grad_norm"] > 0


def test_ppo_on_opt(tmp_path: Path) -> None:
    """The hidden states of OPT may be narrower than its layers; the value head reads them."""
    build("opt", tmp_path / "model", word_embed_proj_dim=64)
    found = two_steps(tmp_path, tmp_path / "model", "algorithm=ppo", "cluster=laptop_critic", ONE_RANK)
    assert max(found[step]["rollout/logprob_diff_max"] for step in (1, 2)) < TOLERANCE
    assert found[1]["critic/grad_norm"] > 0
