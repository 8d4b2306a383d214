"""Reward models without a process group: what loads, what it computes, on several architectures."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    Qwen2Config,
    RobertaConfig,
)

from actors.config.schema import DType, ModelConfig
from actors.training.reward_model import RewardFolder, RewardModelWorker, RewardScorer
from rlcore.types import RewardScale

V, WIDTH, PAD = 41, 32, 3
COMMON: dict[str, Any] = {"vocab_size": V, "hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2}
COMMON |= {"intermediate_size": 48, "max_position_embeddings": 40, "initializer_range": 0.2, "pad_token_id": PAD}
DECODERS = {
    "qwen2": Qwen2Config(**COMMON, num_key_value_heads=1),
    "qwen2 tied": Qwen2Config(**COMMON, num_key_value_heads=1, tie_word_embeddings=True),
    "llama": LlamaConfig(**COMMON, num_key_value_heads=1),
    "gpt2": GPT2Config(
        vocab_size=V, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, initializer_range=0.2, pad_token_id=PAD
    ),
}
ENCODERS = {
    "bert": BertConfig(**COMMON),
    "roberta": RobertaConfig(**COMMON),
    "deberta": DebertaV2Config(**COMMON, type_vocab_size=0),
    "modernbert": ModernBertConfig(**COMMON, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
}
CONFIGS = DECODERS | ENCODERS
LENGTHS = torch.tensor([5, 9, 2, 7])
TOKENS = torch.randint(4, V, (4, 9), generator=torch.Generator().manual_seed(1))  # no special token among them
MODEL = ModelConfig()


def classifier(path: Path, name: str, outputs: int = 2, **more: Any) -> str:
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict() | {"num_labels": outputs} | more)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    return str(path)


def causal(path: Path, name: str, **more: Any) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict() | more)).save_pretrained(
        path
    )
    return str(path)


def alone(path: str) -> torch.Tensor:
    """Every row by itself, without padding, from the model as Hugging Face loads it."""
    hf = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.cat([hf(input_ids=TOKENS[i : i + 1, :n]).logits for i, n in enumerate(LENGTHS.tolist())])


def scorer_of(path: str, attributes: tuple[str, ...] | None = None, model: ModelConfig = MODEL) -> RewardScorer:
    return RewardScorer(RewardFolder.inspect(path, model, attributes).load(model))


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_of_any_sequence_classification_model_are_its_own(name: str, tmp_path: Path) -> None:
    path = classifier(tmp_path, name)
    model = scorer_of(path)
    model.check(False, torch.device("cpu"))
    with torch.no_grad():
        got = model(TOKENS, LENGTHS)
        rubbish = torch.where(torch.arange(9) < LENGTHS[:, None], TOKENS, (TOKENS + 1) % V)
        again = model(rubbish, LENGTHS)
    assert got.dtype == torch.float32
    assert got.std() > 1e-2
    torch.testing.assert_close(got, alone(path), rtol=0, atol=1e-5)
    torch.testing.assert_close(again, got, rtol=0, atol=1e-6)  # what stands in the padding does not matter


@pytest.mark.parametrize("name", DECODERS)
def test_a_causal_model_gets_a_new_head_that_says_zero_and_learns_at_once(name: str, tmp_path: Path) -> None:
    model = scorer_of(causal(tmp_path, name), ("reward", "truth", "length"))
    scores = model(TOKENS, LENGTHS)
    assert scores.shape == (4, 3)
    assert not scores.any()
    (scores - 1).square().sum().backward()
    head = model.hf.score
    assert head.weight.grad.abs().max() > 0.01
    with torch.no_grad():
        head.weight -= 0.01 * head.weight.grad
    (model(TOKENS, LENGTHS) - 1).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [n for n, _ in model.named_parameters() if "lm_head" in n]


@pytest.mark.parametrize("name", DECODERS)
def test_the_body_of_a_causal_model_is_kept(name: str, tmp_path: Path) -> None:
    path = causal(tmp_path, name)
    model = scorer_of(path)
    hidden = AutoModelForCausalLM.from_pretrained(path).base_model
    with torch.no_grad():
        model.hf.score.weight.normal_()
        states = [hidden(input_ids=TOKENS[i : i + 1, :n]).last_hidden_state[0, -1] for i, n in enumerate(LENGTHS)]
        wanted = torch.stack(states) @ model.hf.score.weight.T
        torch.testing.assert_close(model(TOKENS, LENGTHS), wanted, rtol=1e-4, atol=1e-4)


def test_names_of_the_outputs(tmp_path: Path) -> None:
    one, two, named, base = (tmp_path / name for name in ("one", "two", "named", "base"))
    inspect = RewardFolder.inspect
    assert inspect(classifier(one, "llama", 1), MODEL).scale.attributes == ("reward",)
    assert inspect(classifier(two, "llama"), MODEL).scale.attributes == ("LABEL_0", "LABEL_1")
    labels = {"id2label": {0: "good", 1: "long"}, "label2id": {"good": 0, "long": 1}}
    assert inspect(classifier(named, "llama", **labels), MODEL).scale == RewardScale(("good", "long"), (1.0, 0.0))
    assert inspect(str(named), MODEL, ("a", "b")).scale.attributes == ("a", "b")
    assert inspect(causal(base, "llama"), MODEL).scale.attributes == ("reward",)
    saved = RewardScale(("x", "y"), (0.5, 2.0), mean=3.0, std=4.0)
    saved.write(named)
    assert inspect(str(named), MODEL).scale == saved
    loaded = inspect(str(named), MODEL).load(MODEL)
    assert loaded.config.id2label == {0: "x", 1: "y"}


def test_folders_that_cannot_be_a_reward_model(tmp_path: Path) -> None:
    two, tagger, nothing = (tmp_path / name for name in ("two", "tagger", "nothing"))
    with pytest.raises(ValueError, match=r"2 outputs \(LABEL_0, LABEL_1\), attributes are reward: name as many"):
        RewardFolder.inspect(classifier(two, "qwen2"), MODEL, ("reward",))
    RewardScale(("x",), (1.0,)).write(two)
    with pytest.raises(ValueError, match=r"reward_model\.json names \('x',\), the head has 2"):
        RewardFolder.inspect(str(two), MODEL)
    (two / RewardScale.FILE).write_text("{")
    with pytest.raises(ValueError, match="does not describe a reward model"):
        RewardFolder.inspect(str(two), MODEL)
    AutoModelForTokenClassification.from_config(CONFIGS["bert"]).save_pretrained(tagger)
    with pytest.raises(ValueError, match="holds a BertForTokenClassification: a reward model starts from"):
        RewardFolder.inspect(str(tagger), MODEL)
    nothing.mkdir()
    with pytest.raises((OSError, ValueError)):
        RewardFolder.inspect(str(nothing), MODEL)


def test_a_classification_folder_without_its_head_is_refused(tmp_path: Path) -> None:
    path = causal(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ValueError, match=r"lacks score\.weight"):
        RewardFolder.inspect(path, MODEL, ("a", "b")).load(MODEL)


def test_padding_with_the_end_token_is_warned_about(tmp_path: Path, caplog: Any) -> None:
    path = causal(tmp_path / "same", "llama", pad_token_id=None, eos_token_id=2)
    with caplog.at_level(logging.WARNING, logger="actors.training.reward_model"):
        model = scorer_of(path)
    assert "pads with its end token 2" in caplog.text
    assert model.hf.config.pad_token_id == 2
    model.hf.save_pretrained(tmp_path / "given")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="actors.training.reward_model"):
        scorer_of(str(tmp_path / "given"))  # with a head of its own
    assert "given pads with its end token 2" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="actors.training.reward_model"):
        scorer_of(causal(tmp_path / "apart", "llama", eos_token_id=2))
    assert "pads with" not in caplog.text


def test_a_last_token_that_is_the_padding_token_is_passed_over_as_hugging_face_does(tmp_path: Path) -> None:
    path = classifier(tmp_path, "qwen2")
    tokens = TOKENS.clone()
    tokens[1, 8] = PAD
    with torch.no_grad():
        got = scorer_of(path)(tokens, LENGTHS)[1]
        hf = AutoModelForSequenceClassification.from_pretrained(path).eval()
        torch.testing.assert_close(got, hf(input_ids=tokens[1:2]).logits[0], rtol=0, atol=1e-5)


def test_half_precision_weights_do_not_round_the_scores(tmp_path: Path) -> None:
    model = ModelConfig(dtype=DType.bfloat16)
    scorer = scorer_of(classifier(tmp_path, "llama"), model=model)
    assert {p.dtype for p in scorer.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        scores = scorer(TOKENS, LENGTHS)
    assert scores.dtype == torch.float32
    assert (scores != scores.bfloat16().float()).float().mean() > 0.8


def test_dropout_is_off_or_refused(tmp_path: Path) -> None:
    path = classifier(tmp_path, "bert")  # dropout 0.1
    model = scorer_of(path)
    assert torch.equal(model(TOKENS, LENGTHS), model(TOKENS, LENGTHS))
    with pytest.raises(ValueError, match=r"without dropout.*hidden_dropout_prob"):
        scorer_of(path, model=ModelConfig(gradient_checkpointing=True))


def test_a_model_with_scores_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = scorer_of(classifier(tmp_path, "llama"))
    model.num_outputs = 5
    with pytest.raises(ValueError, match=r"scores of shape \(3, 2\), wanted \(3, 5\)"):
        model.check(False, torch.device("cpu"))


def test_a_worker_that_was_not_started_says_so() -> None:
    for call in (
        RewardModelWorker().describe,
        RewardModelWorker().scale,
        lambda: RewardModelWorker().initialize("x"),
        lambda: RewardModelWorker().save("x"),
    ):
        with pytest.raises(RuntimeError, match="not started"):
            call()
