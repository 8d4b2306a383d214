"""Adapters without DeepSpeed: which layers get them, what they start as, and the merged weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from actors.config.schema import LoraConfig
from actors.training import lora
from actors.training.scorer import CausalScorer
from tests.actors.training.test_scorer import CPU, GPT2, LENGTHS, TOKENS, build

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def adapted(name: str = "Qwen2", seed: int = 0, model: dict[str, Any] | None = None, **config: Any) -> nn.Module:
    hf = build(name, **(model or {}))
    lora.add_adapters(hf, LoraConfig(**({"rank": 3, "alpha": 6.0} | config)), seed)
    return hf


def perturb(hf: nn.Module) -> None:
    """What training does: both factors move."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if ".lora_" in name:
                p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p.dtype))


@pytest.mark.parametrize("tied", [False, True])
def test_targets(tied: bool) -> None:
    hf = build("Qwen2", tie_word_embeddings=tied)
    everything = lora.target_layers(hf, [])
    assert {n.rsplit(".", 1)[-1] for n in everything} == LINEAR
    assert len(everything) == 2 * len(LINEAR)
    assert lora.target_layers(hf, ["v_proj", "layers.1.mlp.up_proj"]) == [
        "model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.up_proj"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no linear layer is called proj; there are down_proj, gate_proj"):
        lora.target_layers(hf, ["q_proj", "proj"])
    if tied:
        with pytest.raises(ValueError, match="tied"):
            lora.target_layers(hf, ["lm_head"])
    else:
        assert lora.target_layers(hf, ["lm_head"]) == ["lm_head"]


@pytest.mark.parametrize(("config", "message"), [({"rank": 0}, "rank=0"), ({"dropout": 1.0}, "dropout=1.0")])
def test_impossible_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(**config)


def test_only_adapters_train_and_start_as_nothing() -> None:
    plain, hf = build("Qwen2"), adapted()
    trained = {n: p for n, p in hf.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * len(LINEAR)
    assert all(".lora_" in n for n in trained)
    assert all((n.endswith("lora_A.default.weight")) == bool(p.any()) for n, p in trained.items())
    assert torch.equal(plain(TOKENS).logits, hf(TOKENS).logits)
    assert not hf.training
    again, other = adapted(seed=0), adapted(seed=1)
    assert all(torch.equal(p, dict(again.named_parameters())[n]) for n, p in trained.items())
    assert any(not torch.equal(p, dict(other.named_parameters())[n]) for n, p in trained.items())


def test_the_random_state_is_left_alone() -> None:
    build("Qwen2")
    first = torch.rand(1)
    adapted()
    assert torch.equal(first, torch.rand(1))


@pytest.mark.parametrize(
    ("name", "config", "targets"),
    [
        ("Qwen2", {}, []),
        ("Qwen2", {"tie_word_embeddings": True}, ["q_proj", "down_proj"]),
        ("Qwen2", {}, ["lm_head", "o_proj"]),
        ("GPT2LMHead", GPT2, []),  # its layers store [in, out]
    ],
)
def test_merged_weights_are_those_of_a_plain_model(name: str, config: Any, targets: list[str]) -> None:
    plain, hf = build(name, **config), adapted(name, model=config, targets=targets)
    perturb(hf)
    found = lora.weights(hf)
    merged = {n: w.value() for w in found for n in w.names}
    original = dict(plain.named_parameters(remove_duplicate=False))
    assert merged.keys() == original.keys()
    changed = {n for n in merged if not torch.equal(merged[n], original[n])}
    assert changed == {f"{n}.weight" for n in lora.target_layers(plain, targets)}
    assert [w.num_bytes for w in found] == [sum(4 * original[n].numel() for n in w.names) for w in found]
    plain.load_state_dict(merged, strict=False)
    torch.testing.assert_close(plain(TOKENS).logits, hf(TOKENS).logits, rtol=1e-4, atol=1e-5)
    assert (build(name, **config)(TOKENS).logits - hf(TOKENS).logits).abs().max() > 0.01


def test_by_hand() -> None:
    w, a, b = torch.ones(2, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    assert lora.Weight(["x"], w, a, b, 0.5).value().tolist() == [[2.5, 4.0], [3.0, 5.0]]
    assert lora.Weight(["x"], w, a, b, 0.5, transposed=True).value().tolist() == [[2.5, 3.0], [4.0, 5.0]]
    assert lora.Weight(["x"], w.bfloat16(), a.bfloat16(), b.bfloat16(), 0.5).value().dtype == torch.bfloat16
    assert w.tolist() == [[1, 1], [1, 1]]


def test_without_adapters_weights_are_the_parameters_themselves() -> None:
    hf = build("Qwen2", tie_word_embeddings=True)
    assert lora.adapted_layers(hf) == []
    found = {n: w for w in lora.weights(hf) for n in w.names}
    assert list(found) != []
    for n, p in hf.named_parameters(remove_duplicate=False):
        assert found[n].value().data_ptr() == p.data_ptr()
    assert found["lm_head.weight"] is found["model.embed_tokens.weight"]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("targets", [[], ["lm_head", "v_proj"]])
def test_the_scorer_runs_adapters_in_chunks(monkeypatch: Any, packing: bool, targets: list[str]) -> None:
    from rlcore.ops import logprobs as ops

    hf = adapted(targets=targets)
    perturb(hf)
    plain = build("Qwen2")
    plain.load_state_dict({n: w.value() for w in lora.weights(hf) for n in w.names}, strict=False)
    scorer, reference = CausalScorer(hf), CausalScorer(plain)
    scorer.check(packing, CPU)
    assert scorer.chunked
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", 200)
    got = scorer(TOKENS, LENGTHS, 1.0, 1, True, packing)
    torch.testing.assert_close(got, reference(TOKENS, LENGTHS, 1.0, 1, True), rtol=1e-4, atol=1e-5)
    got.sum().backward()
    assert all((p.grad is not None) == (".lora_" in n) for n, p in hf.named_parameters())


def test_dropouts() -> None:
    assert lora.dropouts(adapted()) == []
    found = lora.dropouts(adapted(dropout=0.3))
    assert [d.p for d in found] == [0.3] * 2 * len(LINEAR)
