"""Renders and tokenises drafts: splits the rendered text into prompt and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlcore.data.examples.config import ExampleKind, ExamplesConfig
from rlcore.data.sources.conversations import Messages, Said, answer_places
from rlcore.data.sources.problem import BrokenRow
from rlcore.data.sources.readers import DataError
from rlcore.data.sources.render import PromptRenderer
from rlcore.data.sources.rows import Row
from rlcore.data.tokenizer import Tokenizer, encode

_MARK = "Zq7xW3"  # placeholder answer, to find the text that the template writes after an answer


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered prompt with its answers. `spans` are the character ranges of the answers, [start, end)."""

    prompt: str
    text: str  # prompt and answers; ends with the last span
    spans: tuple[tuple[int, int], ...]
    ended: bool  # the text has an end token after the answer

    @property
    def cuts(self) -> list[int]:
        """Positions that no token may span, without the end of the text."""
        return sorted({place for span in self.spans for place in span} - {len(self.text)})


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...] | None
    text: str
    cut: bool  # tokenised part by part, because in the whole text a token spans a border


class Renderer:
    """Renders and tokenises under one config and tokenizer.

    With a chat template the answer is the text that the template adds to the prompt, up to and including the token that
    ends the turn. Text after that token (the line break of ChatML) is not part of the answer. If the template ends
    turns without a special token, and without chat template, the tokenizer's eos is appended.

    Raises:
        DataError: see `PromptRenderer`; a chat template that omits text answers.
    """

    def __init__(
        self, config: ExamplesConfig, tokenizer: Tokenizer, key: str = "examples",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self._tokenizer = tokenizer
        self.prompts = PromptRenderer(config, tokenizer, key, tools or (), keep_messages=tools is not None)
        self._specials = special_texts(tokenizer)
        self._eos_text = str(getattr(tokenizer, "eos_token", None) or "")
        self._tail, self.end_text = self._probe() if config.chat_template and _has_answers(config) else ("", "")
        self._ends = tuple({text for text in (self._eos_text, self.end_text.strip()) if text})

    def _probe(self) -> tuple[str, str]:
        """The text that the template writes after the last answer, and its part up to the first special token."""
        try:
            messages: Messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
            text = self.prompts.apply(self.prompts.with_system(messages), False)
        except BrokenRow:  # it may reject only this probe: rows are checked one by one
            return "", ""
        if _MARK not in text:
            raise DataError("the chat template omits answers that are text; use another template")
        tail = text.rpartition(_MARK)[2]
        found = [(tail.index(text), text) for text in self._specials if text in tail]
        if not found:
            return tail, ""
        place, text = min(found, key=lambda one: (one[0], -len(one[1])))
        return tail, tail[: place + len(text)]

    def render(self, row: Row, answer: Said) -> Rendered:
        """Renders the prompt of a row with an answer.

        Raises:
            BrokenRow: an empty answer, messages without chat template, or a template that rejects the conversation or
                does not continue the prompt with the answer.
        """
        head = self.prompts.prompt(row.prompt, row.tools)
        if self.prompts.chat:
            said: Messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
            return self._conversation(head, row, [self._unended(m) for m in said])
        if not isinstance(answer, str):
            raise BrokenRow("the answer is a list of messages, which needs chat_template=true")
        text = head + self._without_end(answer)
        return Rendered(head, text, ((len(head), len(text)),), ended=False)

    def _conversation(self, prompt: str, row: Row, answer: Messages) -> Rendered:
        before, places = self.prompts.messages(row.prompt), answer_places(answer)
        whole, spans, ended = self.prompts.apply([*before, *answer], False, row.tools), [], False
        for place in places:
            history, last = [*before, *answer[:place]], place == len(answer) - 1
            head = prompt if place == 0 else self.prompts.apply(history, True, row.tools)
            through = whole if last else self.prompts.apply([*history, answer[place]], False, row.tools)
            _check_continues(head, through)
            end, ended = self._end(through)
            if end <= len(head):
                raise BrokenRow("the chat template adds nothing for the answer")
            if through[:end] != whole[:end]:
                raise BrokenRow(
                    f"the chat template rewrites turn {place} when others follow: {_apart(through[:end], whole)}; use "
                    "turns=last or turns=each"
                )
            spans.append((len(head), end))
        return Rendered(prompt, whole[: spans[-1][1]], tuple(spans), ended)

    def _end(self, text: str) -> tuple[int, bool]:
        """End position of the last answer of a conversation, and whether a special token ends it."""
        if self.end_text and text.endswith(self._tail):
            return len(text) - len(self._tail) + len(self.end_text), True
        shown = text.rstrip()
        if self._specials and shown.endswith(self._specials):
            return len(shown), True
        return len(text), False

    def _unended(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["role"] != "assistant" or not message["content"]:
            return message
        return message | {"content": self._without_end(message["content"])}

    def _without_end(self, answer: str) -> str:
        """Appends the end token exactly once, also if the text already ends with it."""
        while self._ends and answer.rstrip().endswith(self._ends):
            shown = answer.rstrip()
            answer = shown.removesuffix(next(end for end in self._ends if shown.endswith(end)))
        if not answer.strip():
            raise BrokenRow("the answer has only an end token")
        return answer

    def answers(self, rendered: Sequence[Rendered]) -> list[Answer]:
        """Tokens of every answer, without the prompt."""
        if not self.prompts.chat:
            ids = encode(self._tokenizer, [r.text[len(r.prompt) :] for r in rendered], special=False)
            pairs = zip(rendered, ids, strict=True)
            return [Answer(self._ended(i), None, r.text[len(r.prompt) :], False) for r, i in pairs]
        texts = [r.text[:cut] for r in rendered for cut in (*r.cuts, len(r.text))]
        ids_of = iter(encode(self._tokenizer, texts, special=False))
        return [self._answer(r, [next(ids_of) for _ in (*r.cuts, 0)]) for r in rendered]

    def _answer(self, rendered: Rendered, prefixes: list[tuple[int, ...]]) -> Answer:
        """`prefixes`: token ids of the text up to each cut, and of the whole text."""
        ids = prefixes[-1]
        cut = any(ids[: len(prefix)] != prefix for prefix in prefixes)
        if cut:
            borders = [0, *rendered.cuts, len(rendered.text)]
            parts = [rendered.text[a:b] for a, b in pairwise(borders)]
            pieces = encode(self._tokenizer, parts, special=False)
            ids = tuple(token for piece in pieces for token in piece)
            lengths = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
        else:
            lengths = [len(prefix) for prefix in prefixes]
        at = dict(zip((*rendered.cuts, len(rendered.text)), lengths, strict=True))
        start = at[len(rendered.prompt)]
        mask = [False] * (len(ids) - start)
        for first, end in rendered.spans:
            mask[at[first] - start : at[end] - start] = [True] * (at[end] - at[first])
        response = ids[start:] if rendered.ended else self._ended(ids[start:])
        mask += [True] * (len(response) - len(mask))
        return Answer(response, None if all(mask) else tuple(mask), self._plain(rendered), cut)

    def _ended(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        eos = self._tokenizer.eos_token_id
        return ids if eos is None or (ids and ids[-1] == eos) else (*ids, int(eos))

    def _plain(self, rendered: Rendered) -> str:
        """The answer without special tokens, as decoding would return it."""
        text = rendered.text[len(rendered.prompt) :]
        for special in self._specials:
            text = text.replace(special, "")
        return text


def _has_answers(config: ExamplesConfig) -> bool:
    return config.kind is not ExampleKind.prompts


def special_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Texts of the special tokens, longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {str(token) for token in added if getattr(token, "special", False)}
    found |= {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    return tuple(sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text)))


def _check_continues(head: str, text: str) -> None:
    if not text.startswith(head):
        raise BrokenRow(
            f"the chat template does not continue the prompt with the answer, so the tokens of the answer are unknown: "
            f"{_apart(head, text)}; use a template that does"
        )


def _apart(one: str, other: str) -> str:
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"after {one[max(0, place - 20) : place]!r} one has {one[place : place + 20]!r}, the other " + repr(
        other[place : place + 20]
    )
