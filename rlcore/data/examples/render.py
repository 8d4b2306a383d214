"""Drafts to tokens: which part of the rendered text is the prompt, which the model's own words, where each ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rlcore.data.examples.config import ExamplesConfig
from rlcore.data.sources.conversations import Said, answer_places
from rlcore.data.sources.readers import DataError
from rlcore.data.sources.rows import Messages, _Wrong
from rlcore.data.tokenizer import Tokenizer, encode

_MARK = "Zq7xW3"  # stands for an answer where the template's own words after one are looked for


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt and one answer as text. `spans` are the characters the model says, [start, end)."""

    prompt: str
    text: str  # prompt and answer; ends where the last span does
    spans: tuple[tuple[int, int], ...]
    ended: bool  # the text has an end token after the answer

    @property
    def cuts(self) -> list[int]:
        """Where tokens must not reach over, the text's end left out."""
        return sorted({place for span in self.spans for place in span} - {len(self.text)})


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...] | None
    text: str
    cut: bool  # tokenised part by part: in the whole text a token reaches over a border


class Renderer:
    """Renders and tokenises under one config and tokenizer.

    With a chat template the answer is exactly what the template adds to the prompt, up to and with the token that ends
    the turn: what the template writes behind the last one (ChatML's line break) no model has to say. Where the
    template ends turns with no special token, and without chat template, the tokenizer's eos is appended.

    Raises:
        DataError: a chat template that leaves text answers out.
    """

    def __init__(self, config: ExamplesConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._specials = special_texts(tokenizer)
        self._eos_text = str(getattr(tokenizer, "eos_token", None) or "")
        self._tail, self.end_text = self._probe() if config.chat_template else ("", "")
        self._ends = tuple({text for text in (self._eos_text, self.end_text.strip()) if text})

    def _probe(self) -> tuple[str, str]:
        """What the template writes after a last answer, and the part of it up to its first special token."""
        try:
            messages = self._with_system([{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}])
            text = self._apply(messages, False)
        except _Wrong:  # it may refuse this one alone: every row is told by itself
            return "", ""
        if _MARK not in text:
            raise DataError("the chat template leaves out an answer that is text; give the tokenizer another template")
        tail = text.rpartition(_MARK)[2]
        found = [(tail.index(text), text) for text in self._specials if text in tail]
        if not found:
            return tail, ""
        place, text = min(found, key=lambda one: (one[0], -len(one[1])))
        return tail, tail[: place + len(text)]

    def messages(self, prompt: Said) -> Messages:
        """The prompt as messages: prompt template on the last user message, system prompt first."""
        template = self._config.prompt_template
        messages: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        for place in reversed(range(len(messages))):
            if messages[place]["role"] == "user":
                content = template.replace("{prompt}", messages[place]["content"])
                messages[place] = messages[place] | {"content": content}
                break
        return self._with_system(messages)

    def _with_system(self, messages: Messages) -> Messages:
        if self._config.system_prompt is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": self._config.system_prompt}, *messages]

    def prompt(self, prompt: Said) -> str:
        """Raises _Wrong for messages without chat template and for what the template refuses."""
        if self._config.chat_template:
            return self._apply(self.messages(prompt), True)
        if not isinstance(prompt, str):
            raise _Wrong("it is a list of messages, which needs chat_template=true")
        return self._config.prompt_template.replace("{prompt}", prompt)

    def render(self, prompt: Said, answer: Said) -> Rendered:
        """A prompt with its answer.

        Raises:
            _Wrong: an empty answer, messages without chat template, or a template that refuses the conversation or
                does not continue the prompt with the answer.
        """
        head = self.prompt(prompt)
        if self._config.chat_template:
            said: Messages = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
            return self._conversation(head, self.messages(prompt), [self._unended(m) for m in said])
        if not isinstance(answer, str):
            raise _Wrong("the answer is a list of messages, which needs chat_template=true")
        text = head + self._without_end(answer)
        return Rendered(head, text, ((len(head), len(text)),), ended=False)

    def _conversation(self, prompt: str, before: Messages, answer: Messages) -> Rendered:
        places = answer_places(answer)
        whole, spans, ended = self._apply([*before, *answer], False), [], False
        for place in places:
            history, last = [*before, *answer[:place]], place == len(answer) - 1
            head = prompt if place == 0 else self._apply(history, True)
            through = whole if last else self._apply([*history, answer[place]], False)
            _check_continues(head, through)
            end, ended = self._end(through)
            if end <= len(head):
                raise _Wrong("the chat template adds nothing for the answer")
            if through[:end] != whole[:end]:
                raise _Wrong(
                    f"the chat template rewrites turn {place} when others follow: {_apart(through[:end], whole)}; use "
                    "turns=last or turns=each"
                )
            spans.append((len(head), end))
        return Rendered(prompt, whole[: spans[-1][1]], tuple(spans), ended)

    def _end(self, text: str) -> tuple[int, bool]:
        """Where the last answer of a conversation ends, and whether a special token ends it."""
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
        """The end token stands in some files' text: it is put there again, once."""
        while self._ends and answer.rstrip().endswith(self._ends):
            shown = answer.rstrip()
            answer = shown.removesuffix(next(end for end in self._ends if shown.endswith(end)))
        if not answer.strip():
            raise _Wrong("the answer is empty but for its end token")
        return answer

    def _apply(self, messages: Messages, ask: bool) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        except Exception as error:  # a template is a program of the model's author: it raises what it likes
            raise _Wrong(f"the chat template refuses it: {error}") from error

    def prompt_ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        # a chat template writes the start token itself
        return encode(self._tokenizer, prompts, special=not self._config.chat_template)

    def answers(self, rendered: Sequence[Rendered]) -> list[Answer]:
        """Tokens of every answer, the prompt's left out."""
        if not self._config.chat_template:
            ids = encode(self._tokenizer, [r.text[len(r.prompt) :] for r in rendered], special=False)
            pairs = zip(rendered, ids, strict=True)
            return [Answer(self._ended(i), None, r.text[len(r.prompt) :], False) for r, i in pairs]
        texts = [r.text[:cut] for r in rendered for cut in (*r.cuts, len(r.text))]
        ids_of = iter(encode(self._tokenizer, texts, special=False))
        return [self._answer(r, [next(ids_of) for _ in (*r.cuts, 0)]) for r in rendered]

    def _answer(self, rendered: Rendered, prefixes: list[tuple[int, ...]]) -> Answer:
        """`prefixes`: token ids of the text up to each cut, and of all of it."""
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
        """The answer without special tokens, as decoding would give it."""
        text = rendered.text[len(rendered.prompt) :]
        for special in self._specials:
            text = text.replace(special, "")
        return text


def special_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The special tokens as text, longest first."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {str(token) for token in added if getattr(token, "special", False)}
    found |= {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
    return tuple(sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text)))


def _check_continues(head: str, text: str) -> None:
    if not text.startswith(head):
        raise _Wrong(
            f"the chat template does not continue the prompt with the answer, so no token can be called the answer's: "
            f"{_apart(head, text)}; give the tokenizer a template that does"
        )


def _apart(one: str, other: str) -> str:
    place = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"after {one[max(0, place - 20) : place]!r} one has {one[place : place + 20]!r}, the other " + repr(
        other[place : place + 20]
    )
