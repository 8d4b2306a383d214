"""Converts rows to checked drafts of examples, before rendering."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rlcore.data.examples.columns import Layout, graded_columns
from rlcore.data.examples.config import ExampleKind, ExamplesConfig, Turns
from rlcore.data.sources import conversations as talk
from rlcore.data.sources.conversations import Messages, Said
from rlcore.data.sources.problem import BrokenRow, shown
from rlcore.data.sources.readers import Place, TextRow
from rlcore.data.sources.rows import Row, column, head, optional
from rlcore.types import RewardResult


@dataclass(frozen=True, slots=True)
class Draft:
    """An example before tokenisation. `answers`: none (prompts), one (samples) or two (pairs, the better first)."""

    row: Row
    answers: tuple[Said, ...] = ()
    rewards: tuple[RewardResult | None, ...] = ()  # one per answer
    strength: float | None = None

    @property
    def uid(self) -> str:
        return self.row.uid

    def of(self, prompt: Said, uid: str = "") -> Draft:
        return dataclasses.replace(self, row=dataclasses.replace(self.row, prompt=prompt, uid=uid or self.uid))


class Tie(Exception):
    """A row that prefers neither response."""


def drafts(place: Place, values: Mapping[str, Any], config: ExamplesConfig, layout: Layout) -> list[Draft]:
    """Examples of one row: one, or one per answer with `turns=each`.

    Raises:
        BrokenRow: the row is broken.
        Tie: it prefers neither response.
    """
    names = config.columns
    draft = Draft(head(place, values, names, layout.used))
    if config.kind is ExampleKind.demonstrations:
        return _demonstrations(draft, values, config, layout)
    if config.kind is ExampleKind.preferences:
        return [_preference(draft, values, config, layout)]
    draft = draft.of(_prompt(column(values, names.prompt), names.prompt))
    if config.kind is ExampleKind.prompts:
        return [draft]
    make = {
        ExampleKind.labelled: _labelled,
        ExampleKind.attributes: _attributes,
        ExampleKind.attribute_pairs: _attribute_pair,
    }[config.kind]
    return [make(draft, values, config)]


def _prompt(value: Any, name: str) -> Said:
    prompt = talk.said(value, name)
    if not isinstance(prompt, str):
        talk.check_asks(prompt, name)
    return prompt


def _answer(value: Any, name: str, prompt: Said) -> Said:
    """A response; if it repeats the messages of the prompt, without them."""
    answer = talk.said(value, name)
    if isinstance(answer, str):
        return answer
    before: Messages = prompt if not isinstance(prompt, str) else [{"role": "user", "content": prompt}]
    if len(answer) > len(before) and answer[: len(before)] == before:
        answer = answer[len(before) :]
    talk.check_answers(answer, name)
    talk.check_turns([*before, *answer], name)
    return answer


def _demonstrations(draft: Draft, values: Mapping[str, Any], config: ExamplesConfig, layout: Layout) -> list[Draft]:
    names = config.columns
    if layout.whole:
        value = column(values, names.messages)
        if isinstance(value, str) and talk.is_transcript(value):
            value = talk.transcript(value)
        elif isinstance(value, str):
            raise BrokenRow(f"{names.messages} must be a list of messages, not {shown(value)}")
        said = talk.said(value, names.messages)
        messages: Messages = [] if isinstance(said, str) else said
        talk.check_turns(messages, names.messages)
        if messages[-1]["role"] != "assistant":
            role = messages[-1]["role"]
            raise BrokenRow(f"{names.messages} ends with the {role}'s message, not with the assistant's")
    else:
        prompt = _prompt(column(values, names.prompt), names.prompt)
        answer = _answer(column(values, names.response), names.response, prompt)
        if isinstance(answer, str):
            return [dataclasses.replace(draft.of(prompt), answers=(answer,), rewards=(None,))]
        messages = [*_messages(prompt, "user"), *_messages(answer, "assistant")]
    places = talk.answer_places(messages)
    if not layout.whole:  # assistant turns of a given prompt are not trained
        places = [place for place in places if place >= len(_messages(prompt, "user"))]
    if config.turns is Turns.all:
        cuts = [(places[0], len(messages))]
    else:
        cuts = [(place, place + 1) for place in places][-1 if config.turns is Turns.last else 0 :]
    whole = len(cuts) == 1
    return [
        dataclasses.replace(
            draft.of(messages[:start], "" if whole else f"{draft.uid}.{turn}"),
            answers=(messages[start:end],),
            rewards=(None,),
        )
        for turn, (start, end) in enumerate(cuts)
    ]


def _messages(what: Said, role: str) -> Messages:
    return [{"role": role, "content": what}] if isinstance(what, str) else what


def _preference(draft: Draft, values: Mapping[str, Any], config: ExamplesConfig, layout: Layout) -> Draft:
    names = config.columns
    sides = (names.chosen, names.rejected)
    chosen, rejected = column(values, names.chosen), column(values, names.rejected)
    prompt = optional(values, names.prompt)
    given, answers = _sides(prompt, chosen, rejected, config)
    scores = [_number(values, n) for n in (names.score_chosen, names.score_rejected)]
    if scores[0] is not None and scores[1] is not None and scores[0] < scores[1]:
        raise BrokenRow(f"{names.score_chosen} {scores[0]:g} is below {names.score_rejected} {scores[1]:g}")
    strength = _number(values, layout.strength)
    if strength is not None and strength < 0:
        raise BrokenRow(f"{layout.strength} {strength:g} is negative: {sides[0]} is the better one")
    if strength is None and scores[0] is not None and scores[1] is not None:
        strength = scores[0] - scores[1]
    rewards = tuple(None if s is None else RewardResult(s) for s in scores)
    _check_differ(answers, sides)
    return dataclasses.replace(draft.of(given), answers=answers, rewards=rewards, strength=strength)


def _sides(prompt: Any, chosen: Any, rejected: Any, config: ExamplesConfig) -> tuple[Said, tuple[Said, Said]]:
    """Prompt and both answers, from any layout of the row."""
    names = config.columns
    sides = (names.chosen, names.rejected)
    dialogues = all(isinstance(x, str) and talk.is_transcript(x) for x in (chosen, rejected))
    if prompt is None and dialogues and config.chat_template:
        chosen, rejected = talk.transcript(chosen), talk.transcript(rejected)
    one, other = talk.said(chosen, sides[0]), talk.said(rejected, sides[1])
    if isinstance(one, str) != isinstance(other, str):
        raise BrokenRow(f"of {sides[0]} and {sides[1]} one is text and the other a list of messages")
    if prompt is None and isinstance(one, str) and isinstance(other, str):
        return _split_texts(one, other, sides)
    whole = prompt is None or isinstance(prompt, str)  # the answers contain the prompt
    if whole and not isinstance(one, str) and not isinstance(other, str) and one[0]["role"] != "assistant":
        return _split_messages(prompt, one, other, sides)
    if prompt is None:
        raise BrokenRow(f"no column {names.prompt!r}, and {sides[0]} begins with the assistant's message")
    given = _prompt(prompt, names.prompt)
    return given, (_answer(chosen, sides[0], given), _answer(rejected, sides[1], given))


def _split_texts(one: str, other: str, sides: tuple[str, str]) -> tuple[Said, tuple[Said, Said]]:
    _check_differ((one, other), sides)
    cut = talk.common_text(one, other)
    if not cut:
        raise BrokenRow(f"{sides[0]} and {sides[1]} have no common beginning that could be the prompt")
    for text, name in ((one[cut:], sides[0]), (other[cut:], sides[1])):
        if not text.strip():
            raise BrokenRow(f"{name} is empty after the prompt")
        if talk.is_transcript(one) and "\n\nHuman:" in text:
            raise BrokenRow(f"{name} continues with a user turn after the answer, which needs chat_template=true")
    return one[:cut], (one[cut:], other[cut:])


def _split_messages(
    prompt: str | None, one: Messages, other: Messages, sides: tuple[str, str]
) -> tuple[Said, tuple[Said, Said]]:
    _check_differ((one, other), sides)
    talk.check_turns(one, sides[0])
    talk.check_turns(other, sides[1])
    count = talk.common_messages(one, other)
    if not count:
        raise BrokenRow(f"{sides[0]} and {sides[1]} have no common first message that could be the prompt")
    if prompt is not None and not any(m["content"].strip() == prompt.strip() for m in one[:count]):
        raise BrokenRow(f"the prompt {shown(prompt)} is none of the messages that {sides[0]} and {sides[1]} share")
    answers = (one[count:], other[count:])
    for answer, name in zip(answers, sides, strict=True):
        talk.check_answers(answer, name)
    return one[:count], answers


def _labelled(draft: Draft, values: Mapping[str, Any], config: ExamplesConfig) -> Draft:
    names = config.columns
    answer = _answer(column(values, names.completion), names.completion, draft.row.prompt)
    label = column(values, names.label)
    if isinstance(values, TextRow) and str(label).lower() in ("true", "false"):
        label = label.lower() == "true"
    if not isinstance(label, bool):
        raise BrokenRow(f"{names.label} must be true or false, not {shown(label)}")
    return dataclasses.replace(draft, answers=(answer,), rewards=(RewardResult(1.0 if label else 0.0),))


def _attributes(draft: Draft, values: Mapping[str, Any], config: ExamplesConfig) -> Draft:
    name = config.columns.response
    answer = _answer(column(values, name), name, draft.row.prompt)
    reward = _grades(values, config, 0)
    if reward is None:
        raise BrokenRow(f"none of the attributes {', '.join(config.attributes)} is labelled")
    return dataclasses.replace(draft, answers=(answer,), rewards=(reward,))


def _attribute_pair(draft: Draft, values: Mapping[str, Any], config: ExamplesConfig) -> Draft:
    names = config.columns
    sides = (names.response_1, names.response_2)
    first, second = (_answer(column(values, name), name, draft.row.prompt) for name in sides)
    _check_differ((first, second), sides)
    column(values, names.preference)
    strength = _number(values, names.preference)
    if strength is None:
        raise BrokenRow(f"{names.preference} must be a number, not None")
    if strength == 0:
        raise Tie
    answers, rewards = (first, second), (_grades(values, config, 0), _grades(values, config, 1))
    if strength > 0:
        answers, rewards = answers[::-1], rewards[::-1]
    return dataclasses.replace(draft, answers=answers, rewards=rewards, strength=abs(strength))


def _grades(values: Mapping[str, Any], config: ExamplesConfig, side: int) -> RewardResult | None:
    """A reward with the labelled attributes as parts and their weighted sum, or without weights their mean, as score.
    """
    parts: dict[str, float] = {}
    for attribute in config.attributes:
        name = graded_columns(config, attribute)[side]
        grade = _number(values, name)
        if grade is not None:
            parts[attribute] = grade
    if not parts:
        return None
    if config.attribute_weights is None:
        return RewardResult(sum(parts.values()) / len(parts), parts=parts)
    weights = dict(zip(config.attributes, config.attribute_weights, strict=True))
    return RewardResult(sum(weights[name] * grade for name, grade in parts.items()), parts=parts)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = optional(values, name)
    if value is None:
        return None
    if isinstance(value, str) and isinstance(values, TextRow):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise BrokenRow(f"{name} must be a number, not {shown(value)}")
    return float(value)


def _check_differ(answers: tuple[Said, Said], names: tuple[str, str]) -> None:
    if answers[0] == answers[1]:
        raise BrokenRow(f"{names[0]} equals {names[1]}: neither is better")
