"""Interface of tokenizers; every Hugging Face tokenizer implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    @property
    def eos_token_id(self) -> Any: ...  # int | None

    @property
    def chat_template(self) -> Any: ...  # a Jinja template, or None

    def __call__(self, text: Any, *, add_special_tokens: bool = True) -> Mapping[str, Any]:
        """Returns a mapping with "input_ids", a list of lists of ids, for a list of strings."""
        ...

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool, **options: Any
    ) -> Any: ...


def encode(tokenizer: Tokenizer, texts: Sequence[str], special: bool, chunk: int = 8192) -> list[tuple[int, ...]]:
    """Token ids of every text, in batches; one call per text would be an order of magnitude slower.

    Args:
        special: adds the start token of the tokenizer. End tokens are removed, because a prompt that ends with an
            end-of-text token cannot be continued.
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
    """The start token, or None; some tokenizers (such as GPT-2's) use one token for both start and end."""
    return getattr(tokenizer, "bos_token_id", None)
