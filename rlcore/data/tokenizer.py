"""What the data needs of a tokenizer; every Hugging Face tokenizer fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    @property
    def eos_token_id(self) -> Any: ...  # int | None

    @property
    def chat_template(self) -> Any: ...  # a Jinja template, or None

    def __call__(self, text: Any, *, add_special_tokens: bool = True) -> Mapping[str, Any]:
        """Of a list of strings: a mapping whose "input_ids" is a list of lists of ids."""
        ...

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool, **options: Any
    ) -> Any: ...


def encode(tokenizer: Tokenizer, texts: Sequence[str], special: bool, chunk: int = 8192) -> list[tuple[int, ...]]:
    """Token ids of every text, in batches: one call per text is an order of magnitude slower.

    Args:
        special: add what the tokenizer puts in front of a text (a start token). What some put behind it is taken off
            again: a prompt that ends in an end-of-text token has nothing to go on with.
    """
    cut = 0
    if special and texts:
        (empty,) = tokenizer([""], add_special_tokens=True)["input_ids"]
        cut = int(bool(empty) and empty[-1] == tokenizer.eos_token_id and empty[-1] != tokenizer_start(tokenizer))
    out: list[tuple[int, ...]] = []
    for start in range(0, len(texts), chunk):
        ids = tokenizer(list(texts[start : start + chunk]), add_special_tokens=special)["input_ids"]
        out.extend(tuple(row[: len(row) - cut]) for row in ids)
    return out


def tokenizer_start(tokenizer: Tokenizer) -> int | None:
    """The start token; some tokenizers (GPT-2's kin) use one token as start and end."""
    return getattr(tokenizer, "bos_token_id", None)
