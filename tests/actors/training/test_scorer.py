"""The scorer on real, tiny models of many architectures, without DeepSpeed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from actors.config.schema import LoraConfig
from actors.training import lora
from actors.training.scorer import CausalScorer, Scorer, pack, real
from rlcore.ops import logprobs as ops

V, H = 61, 32
SIZES = {
    "vocab_size": V, "hidden_size": H, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": V, "n_embd": H, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2}
TOKENS = torch.randint(0, V, (4, 9), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([5, 9, 1, 7])
CPU = torch.device("cpu")
# class name, config beside SIZES, whether its logits are what its output layer returns
MODELS = [
    ("Qwen2", {}, True),
    ("Qwen2", {"tie_word_embeddings": True}, True),
    ("Llama", {}, True),
    ("GPT2LMHead", GPT2, True),
    ("Gemma2", {"head_dim": 16, "final_logit_softcapping": 30.0}, False),
    ("Granite", {"logits_scaling": 8.0}, False),
    ("Cohere", {"logit_scale": 0.25}, False),
]


def build(name: str, attention: str = "sdpa", **config: Any) -> nn.Module:
    family = name.removesuffix("LMHead")
    shape = getattr(transformers, f"{family}Config")(**(config if family == "GPT2" else SIZES | config))
    shape._attn_implementation = attention
    torch.manual_seed(0)
    suffix = "Model" if family == "GPT2" else "ForCausalLM"
    return getattr(transformers, f"{name}{suffix}")(shape).eval()  # type: ignore[no-any-return]


def made(hf: nn.Module, packing: bool = False) -> CausalScorer:
    scorer = CausalScorer(hf)
    scorer.check(packing, CPU)
    return scorer


def expected(hf: nn.Module, temperature: float, first: int = 1) -> Tensor:
    """Every row alone, from the model's own logits."""
    out = torch.zeros(2, *TOKENS.shape)
    for i, n in enumerate(LENGTHS.tolist()):
        row = TOKENS[i : i + 1, :n]
        values = torch.stack(ops.token_logprobs_and_entropy(hf(row).logits, row, temperature))
        out[:, i, first:n] = values[:, 0, first:]
    return out


@pytest.mark.parametrize(("name", "config", "chunked"), MODELS)
def test_the_way_is_chosen_by_what_the_model_does(name: str, config: Any, chunked: bool, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="actors.training.scorer"):
        assert made(build(name, **config)).chunked == chunked
    assert ("does more than its output layer" in caplog.text) != chunked


@pytest.mark.parametrize(("name", "config", "chunked"), MODELS)
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("chunk", [2 * V, 1 << 24])
def test_scores_and_gradients_are_those_of_rows_alone(
    monkeypatch: Any, name: str, config: Any, chunked: bool, packing: bool, attention: str, chunk: int
) -> None:
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", chunk)
    hf = build(name, attention, **config)
    scorer = made(hf, packing)
    wanted = expected(hf, 0.7, first=3)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    (wanted * weights).sum().backward()
    gradient = {n: p.grad for n, p in hf.named_parameters()}
    hf.zero_grad(set_to_none=True)
    got = scorer(TOKENS, LENGTHS, 0.7, 3, True, packing)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    (got * weights).sum().backward()
    for n, p in hf.named_parameters():
        scale = float(gradient[n].abs().max())
        assert float((p.grad - gradient[n]).abs().max()) <= 1e-4 * scale + 1e-7, n
    with torch.no_grad():
        alone = scorer(TOKENS, LENGTHS, 0.7, 3, False, packing)
    assert alone.shape == TOKENS.shape
    torch.testing.assert_close(alone, wanted[0], rtol=1e-4, atol=1e-5)


def test_without_lengths_every_token_is_real() -> None:
    hf = build("Qwen2")
    got = made(hf)(TOKENS, None, 1.0, 1, True)
    torch.testing.assert_close(got, torch.stack(ops.token_logprobs_and_entropy(hf(TOKENS).logits, TOKENS)))


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma2"])  # chunked, and with a soft cap after the output layer
def test_a_float32_head_rounds_no_logits(monkeypatch: Any, kind: str) -> None:
    """Against float64 logits of the same bfloat16 hidden states and weights."""
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", 3 * V)
    errors, gradients = {}, {}
    for exact in (False, True):
        hf = build(kind, **({"head_dim": 8} if kind == "Gemma2" else {})).bfloat16()
        scorer = CausalScorer(hf, exact)
        scorer.check(False, CPU)
        with torch.no_grad():
            hf.lm_head.weight.mul_(8)  # logits near 20, where neighbours in bfloat16 are .125 apart
            logits = scorer.hidden_states(TOKENS).double() @ hf.lm_head.weight.double().T
            cap = getattr(hf.config, "final_logit_softcapping", None)
            wanted = ops.token_logprobs(cap * torch.tanh(logits / cap) if cap else logits, TOKENS)
        found = scorer(TOKENS)
        found.sum().backward()
        errors[exact] = float((found - wanted).abs().max())
        gradients[exact] = hf.lm_head.weight.grad
    assert errors[True] < 1e-5 < 1e-3 < errors[False]
    assert gradients[True].dtype is torch.bfloat16
    torch.testing.assert_close(gradients[True].float(), gradients[False].float(), rtol=0.1, atol=0.1)


def test_a_float32_head_must_be_a_plain_layer() -> None:
    hf = build("Qwen2")
    lora.add_adapters(hf, LoraConfig(rank=2, targets=["lm_head"]), 0)
    with pytest.raises(ValueError, match=r"model\.float32_head=true needs a linear output layer.*model\.lora\.targets"):
        CausalScorer(hf, True)


@pytest.mark.parametrize("packing", [False, True])
def test_gradient_checkpointing_changes_nothing(monkeypatch: Any, packing: bool) -> None:
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", 3 * V)
    hf = build("Qwen2", tie_word_embeddings=True)
    scorer, gradients = made(hf, packing), []
    for on in (False, True):
        if on:
            hf.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
            hf.train()
        scorer(TOKENS, LENGTHS, 1.0, 1, True, packing).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in hf.named_parameters() if p.grad is not None})
        hf.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    for n, g in gradients[0].items():
        torch.testing.assert_close(gradients[1][n], g, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Mamba", "OPT"])
def test_packing_is_refused_where_rows_do_not_stay_apart(kind: str) -> None:
    """A state-space model carries its state over the border; OPT ignores positions that are given to it."""
    more = {"ffn_dim": 48, "word_embed_proj_dim": H} if kind == "OPT" else {}
    hf = build(kind, "eager", **more)
    made(hf)
    with pytest.raises(ValueError, match=rf"engine\.packing=true does not work with {kind}ForCausalLM.*eager"):
        made(hf, packing=True)


def test_a_refused_check_leaves_the_scorer_usable() -> None:
    scorer = CausalScorer(build("Mamba", "eager"))
    with pytest.raises(ValueError, match="packing"):
        scorer.check(True, CPU)
    assert scorer(TOKENS).shape == TOKENS.shape


def test_the_model_s_own_forward_still_works() -> None:
    plain, wrapped = build("Qwen2"), build("Qwen2")
    made(wrapped)
    assert torch.equal(plain(TOKENS).logits, wrapped(TOKENS).logits)
    assert list(plain.state_dict()) == list(wrapped.state_dict())


def test_padding_and_what_is_not_wanted_cost_no_logits() -> None:
    hf, seen = build("Qwen2"), []
    scorer = made(hf)
    plain = hf.lm_head.forward.plain  # type: ignore[union-attr]
    hf.lm_head.forward.plain = lambda x: seen.append(x.shape[0]) or plain(x)  # type: ignore[union-attr]
    scorer(TOKENS, LENGTHS, 1.0, 4)
    assert seen == [1 + 5 + 0 + 3]  # columns 4 and up of rows of 5, 9, 1 and 7 tokens


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: Any) -> None:
    """Forward and backward, in bfloat16: every tensor made on the way is watched."""
    monkeypatch.setattr(ops, "CHUNK_ELEMENTS", 4 * 1024)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, tuple | list) else [out]
            largest = max([largest, *(x.numel() for x in tensors if isinstance(x, Tensor))])
            return out

    hf = build("Qwen2", vocab_size=1024, hidden_size=8, intermediate_size=8).bfloat16()
    scorer, tokens = made(hf), torch.randint(0, 1024, (4, 32))
    with Watch():
        scorer(tokens, None, 1.0, 1, True).sum().backward()
    assert 1024 * 8 <= largest < 3 * 1024 * 8  # weights, and chunks of 4 * 1024; all logits: 4 * 32 * 1024


def test_pack_fills_blocks_as_long_as_the_longest_row() -> None:
    tokens = torch.tensor([[5, 6, 0], [7, 0, 0], [8, 9, 4]])
    lengths = torch.tensor([2, 1, 3])
    found = pack(tokens, lengths)
    assert found is not None
    assert found.inputs["input_ids"].tolist() == [[8, 9, 4], [5, 6, 7]]
    assert found.inputs["position_ids"].tolist() == [[0, 1, 2], [0, 1, 0]]
    assert found.unpack(found.inputs["input_ids"].flatten(), 0).view(3, 3).tolist() == tokens.tolist()
    assert real(tokens, lengths).sum(1).tolist() == [2, 1, 3]


def test_pack_is_one_sequence_where_the_kernel_knows_the_rows() -> None:
    tokens = torch.tensor([[5, 6, 0], [7, 0, 0], [8, 9, 4]])
    found = pack(tokens, torch.tensor([2, 1, 3]), varlen=True)
    assert found is not None
    assert found.inputs["input_ids"].tolist() == [[8, 9, 4, 5, 6, 7]]
    assert found.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert found.unpack(found.inputs["input_ids"].flatten(), 0).view(3, 3).tolist() == tokens.tolist()


def test_rows_of_one_length_are_left_as_they_are() -> None:
    assert pack(torch.ones(5, 4, dtype=torch.int64), torch.full((5,), 4)) is None


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_packing_never_costs_more_than_padding(sizes: list[int]) -> None:
    """Tokens of the dense layers and squared lengths of attention: both at most those of the padded batch."""
    lengths = torch.tensor(sizes)
    tokens = torch.randint(1, V, (len(sizes), max(sizes)), generator=torch.Generator().manual_seed(0))
    tokens = tokens * real(tokens, lengths)
    found = pack(tokens, lengths)
    if found is None:
        return
    blocks, width = found.inputs["input_ids"].shape
    assert width == max(sizes)
    assert sum(sizes) <= blocks * width < tokens.numel()
    assert torch.equal(found.unpack(found.inputs["input_ids"].flatten(), 0).view(tokens.shape), tokens)
    starts = found.inputs["position_ids"][found.inputs["input_ids"] > 0] == 0
    assert int(starts.sum()) == len(sizes)


def test_hidden_states_of_a_body_without_output_layer() -> None:
    causal = build("Llama")
    body = Scorer(causal.model)  # type: ignore[arg-type]
    body.check(True, CPU)
    alone, packed = body.hidden_states(TOKENS), body.hidden_states(TOKENS, LENGTHS, packed=True)
    mask = real(TOKENS, LENGTHS)
    torch.testing.assert_close(packed[mask], alone[mask], rtol=1e-4, atol=1e-5)
    assert not packed[~mask].any()
