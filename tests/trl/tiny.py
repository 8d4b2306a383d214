"""What both sides are given: a tiny Qwen2, a character tokenizer, and TRL's batches in rlcore's layout.

The model runs in float64, so that TRL's left padding and ours on the right round alike; TRL's log-probs, losses and
statistics are float32 all the same.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlcore.ops.logprobs import token_logprobs_and_entropy
from rlcore.types import TrainBatch

with warnings.catch_warnings():  # it warns of the installed vLLM's version, which it is not given here
    warnings.simplefilter("ignore")
    _environment = dict(os.environ)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl import (  # noqa: F401
        DPOConfig,
        DPOTrainer,
        GRPOConfig,
        GRPOTrainer,
        KTOConfig,
        KTOTrainer,
        RewardConfig,
        RewardTrainer,
        RLOOConfig,
        RLOOTrainer,
        SFTConfig,
        SFTTrainer,
    )
    from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: F401

    os.environ.clear()  # what accelerate sets at import is not for the tests that follow
    os.environ.update(_environment)

PAD, EOS, FIRST = 0, 1, 2
LETTERS = "abcdefgh "
VOCABULARY = FIRST + len(LETTERS)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": PAD, "<eos>": EOS} | {letter: FIRST + i for i, letter in enumerate(LETTERS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def config() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )


def build(folder: Path, architecture: type[PreTrainedModel] = Qwen2ForCausalLM, **settings: Any) -> PreTrainedModel:
    """A model that knows its folder: TRL loads the reference from there."""
    torch.manual_seed(0)
    shape = config()
    shape.update(settings)
    model = architecture(shape)
    perturb(model, 0.3, seed=1)  # away from the near-uniform start
    model.save_pretrained(folder)
    return architecture.from_pretrained(folder)


@torch.no_grad()
def perturb(model: torch.nn.Module, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(scale * noise.to(parameter.dtype))


def quiet(folder: Path, **settings: Any) -> dict[str, Any]:
    """Arguments that every trainer here has in common."""
    plain = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}  # the models have no dropout
    return plain | {"output_dir": str(folder / "out"), "report_to": [], "disable_tqdm": True} | settings


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    assert largest > 1e-3
    for name, gradient in theirs.items():
        difference = float((ours[name] - gradient).abs().max())
        assert difference <= 1e-6 * max(1.0, largest), f"{name}: {difference}, the largest gradient is {largest}"


def train_batch(inputs: Mapping[str, Tensor], **arrays: Tensor) -> TrainBatch:
    """TRL's [b, left-padded prompt] and [b, completion] as rows padded on the right; `arrays` are [b, completion]."""
    prompt_mask, completion_mask = inputs["prompt_mask"].bool(), inputs["completion_mask"].bool()
    loss_mask = completion_mask & inputs["tool_mask"].bool() if "tool_mask" in inputs else completion_mask
    starts = prompt_mask.sum(1).tolist()
    lengths = [start + int(mask.sum()) for start, mask in zip(starts, completion_mask, strict=True)]
    shape = (len(starts), max(lengths))
    rows: dict[str, Any] = {name: np.zeros(shape, np.float32) for name in arrays}
    rows |= {"tokens": np.zeros(shape, np.int32), "loss_mask": np.zeros(shape, np.bool_)}
    for i, (start, end) in enumerate(zip(starts, lengths, strict=True)):
        rows["tokens"][i, :start] = inputs["prompt_ids"][i][prompt_mask[i]]
        for name, array in {"tokens": inputs["completion_ids"], "loss_mask": loss_mask, **arrays}.items():
            rows[name][i, start:end] = array[i, : end - start]
    return TrainBatch.from_padded(lengths=lengths, sample_ids=[str(i) for i in range(len(starts))], **rows)


def forward(model: torch.nn.Module, batch: TrainBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """[b, t] log-probs and entropies by rlcore's ops, from the model's plain logits."""
    tokens = torch.tensor(batch.padded("tokens"), dtype=torch.int64)
    logits = model(input_ids=tokens, use_cache=False).logits
    return token_logprobs_and_entropy(logits, tokens, temperature)
