"""The value model without a process group: what it computes, on every kind of architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from actors.training.critic import CriticWorker, ValueScorer, body_of

VOCABULARY, WIDTH = 23, 32
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": 2}
COMMON |= {"num_hidden_layers": 2, "max_position_embeddings": 32, "initializer_range": 0.2}
ROPE = COMMON | {"intermediate_size": 48, "num_key_value_heads": 1}
CONFIGS = {
    "qwen2": Qwen2Config(**ROPE),
    "qwen2 tied": Qwen2Config(**ROPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**ROPE, head_dim=16),
    "llama": LlamaConfig(**ROPE),
    "gpt_neox": GPTNeoXConfig(**COMMON, intermediate_size=48),
    "opt": OPTConfig(**COMMON, ffn_dim=48, word_embed_proj_dim=24, dropout=0.0),  # its output is narrower than its body
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, initializer_range=0.2),
}
TOKENS = torch.randint(0, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))


def causal(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype).eval()


def random_head(width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {"weight": torch.randn(1, width, generator=generator), "bias": torch.randn(1, generator=generator)}


def scorer(name: str, dtype: torch.dtype = torch.float32) -> ValueScorer:
    body, width = body_of(causal(name, dtype))
    made = ValueScorer(body, width)
    made.head.load_state_dict(random_head(width))
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_value_of_the_context_before_each_token_is_the_head_on_what_the_output_layer_saw(name: str) -> None:
    model, seen = causal(name), []
    model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(TOKENS)
        head = random_head(seen[0].shape[-1])
        wanted = seen[0] @ head["weight"][0] + head["bias"]
        got = scorer(name)(TOKENS)
    assert got.dtype == torch.float32
    assert (got[:, 0] == 0).all()
    torch.testing.assert_close(got[:, 1:], wanted[:, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_neither_padding_nor_later_tokens_change_a_value(name: str) -> None:
    model = scorer(name)
    with torch.no_grad():
        short = model(TOKENS[:, :6])
        other = TOKENS.clone()
        other[:, 5:] = (other[:, 5:] + 1) % VOCABULARY
        longer = model(other)
    torch.testing.assert_close(longer[:, :6], short, rtol=1e-4, atol=1e-4)  # entry 5 is about tokens 0 to 4
    assert (longer[:, 6:] - model(TOKENS)[:, 6:]).abs().min() > 1e-3


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_packed_rows_have_the_values_of_rows_alone(name: str) -> None:
    model, lengths = scorer(name), torch.tensor([9, 4, 6])
    real = torch.arange(9) < lengths[:, None]
    with torch.no_grad():
        alone, packed = model(TOKENS), model(TOKENS, lengths, packed=True)
    torch.testing.assert_close(packed[real], alone[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_head_says_zero_and_learns_at_once(name: str) -> None:
    body, width = body_of(causal(name))
    model = ValueScorer(body, width)
    values = model(TOKENS)
    assert (values == 0).all()
    (values[:, 1:] - 1).square().sum().backward()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().max() > 0.1
    assert model.head.bias.grad is not None
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter -= 0.01 * parameter.grad
    (model(TOKENS)[:, 1:] - 1).square().sum().backward()
    assert not [n for n, p in body.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_output_layer_is_gone_and_the_tied_embedding_is_not() -> None:
    for name in ("qwen2", "qwen2 tied"):
        parameters = dict(scorer(name).named_parameters())
        assert not [n for n in parameters if "lm_head" in n]
        assert sum(p.shape == (VOCABULARY, WIDTH) for p in parameters.values()) == 1


def test_half_precision_weights_do_not_round_the_values() -> None:
    model = scorer("llama", torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        values = model(TOKENS)[:, 1:]
    assert values.dtype == torch.float32
    assert (values != values.bfloat16().float()).float().mean() > 0.9


def test_a_class_without_a_body_of_its_own_is_refused() -> None:
    class Whole(nn.Module):
        def get_output_embeddings(self) -> nn.Module:
            return nn.Linear(4, 4)

    with pytest.raises(ValueError, match="Whole has no separate body"):
        body_of(Whole())


def test_a_worker_that_was_not_started_says_so() -> None:
    for method in (CriticWorker().describe, lambda: CriticWorker().save("x"), lambda: CriticWorker().initialize("x")):
        with pytest.raises(RuntimeError, match="not started"):
            method()
