"""A byte-level BPE tokenizer with merges and special tokens, and a model that answers by a function."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlcore.interfaces import Sampling
from rlcore.types import Group, Prompt, Trajectory

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
]  # fmt: skip
CORPUS = [
    'The answer is 42. Let me see: <tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n\n',
    "assistant\nuser\nsystem\ntool\n<tool_response>\n12 + 34 = 46\n</tool_response>\n<think>so it is</think>\n",
] * 20


@pytest.fixture(scope="session")
def plain_tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=420, **options)
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=[s for s in SPECIAL if s not in ("<|im_end|>", "<|endoftext|>")],
    )  # fmt: skip


@pytest.fixture(params=["qwen", "llama", "smollm"])
def tokenizer(request, plain_tokenizer):
    return with_template(plain_tokenizer, request.param)


def with_template(tokenizer, name: str):
    end = "<|eot_id|>" if name == "llama" else "<|im_end|>"
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=end, pad_token="<|endoftext|>",
        additional_special_tokens=[s for s in SPECIAL if s not in (end, "<|endoftext|>")],
    )  # fmt: skip
    copy.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return copy


class ScriptedEngine:
    """A `TurnEngine` whose model is a function from the text of the context to the text of the turn.

    Text without an end token is cut off by the length limit.
    """

    def __init__(self, tokenizer, answer: Callable[[str], str]) -> None:
        self.tokenizer, self.answer = tokenizer, answer
        self.seen: list[tuple[tuple[int, ...], list[int]]] = []  # contexts and turns

    def generating(self):
        return nullcontext()

    def metrics(self):
        return {}

    def submit(self, prompt: Prompt, sampling: Sampling, engine: int = -1) -> Future[Group]:
        future: Future[Group] = Future()
        try:
            future.set_result(Group(prompt, [self._turn(prompt, sampling)]))
        except Exception as error:
            future.set_exception(error)
        return future

    def _turn(self, prompt: Prompt, sampling: Sampling) -> Trajectory:
        text = self.tokenizer.decode(list(prompt.token_ids), skip_special_tokens=False)
        ids = self.tokenizer(self.answer(text) + self.tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        cut = len(ids) > sampling.max_new_tokens
        ids = ids[: sampling.max_new_tokens]
        self.seen.append((prompt.token_ids, ids))
        context = np.array(prompt.token_ids, dtype=np.int32)
        tokens = np.concatenate([context, np.array(ids, dtype=np.int32)])
        mask = np.arange(tokens.size) >= context.size
        logprobs, versions = np.where(mask, np.float32(-0.25), np.float32(0)), np.where(mask, 3, -1).astype(np.int32)
        return Trajectory(
            prompt.uid, f"{prompt.uid}#{sampling.step}.0", tokens, mask, logprobs, versions, context.size,
            "length" if cut else "stop", "", engine=0, begun_version=3,
        )  # fmt: skip
