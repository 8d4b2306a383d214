"""Where a conversation's prompt ends, and what is no conversation."""

from __future__ import annotations

import pytest

from rlcore.data.sources import conversations as talk
from rlcore.data.sources.problem import BrokenRow


def turns(text: str) -> list[dict[str, str]]:
    """`u1 a1` as messages: the letter is the role, the whole word the content."""
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[word[0]], "content": word} for word in text.split()]


@pytest.mark.parametrize("text", ["u a", "s u a u a", "s d u", "u a t a", "u a t t a u"])
def test_turns_in_order(text):
    talk.check_turns(turns(text), "x")


@pytest.mark.parametrize("text", ["a", "t", "u u", "u a a", "u s a", "s a", "u t", "u a t u", "u a d"])
def test_turns_out_of_order(text):
    with pytest.raises(BrokenRow, match="turns out of order"):
        talk.check_turns(turns(text), "x")


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ("u a1", "u a2", 1),
        ("s u a u2 a1", "s u a u2 a2", 4),
        ("u a u1 a", "u a u2 a", 1),  # they part at a question: back to where the model answers
        ("u a", "u a u2 a2", 1),
        ("u1 a", "u2 a", 0),
        ("s u1 a", "s u2 a", 0),
        ("u a", "u a", 1),
        ("u", "u a", 0),  # nothing would be left of the first
    ],
)
def test_common_messages(one, other, count):
    assert talk.common_messages(turns(one), turns(other)) == count


@pytest.mark.parametrize(
    ("one", "other", "prompt"),
    [
        ("a b c", "a b d", "a b"),
        ("a bc", "a bd", "a"),
        ("same", "same", ""),
        (" x", " y", ""),  # white space alone is no prompt
        ("x", "y", ""),
        ("", "a", ""),
    ],
)
def test_common_text(one, other, prompt):
    assert one[: talk.common_text(one, other)] == prompt


def test_a_transcript():
    text = "\n\nHuman: a\nHuman: b \n\nAssistant: c\n\nd\n\nHuman: e\n\nAssistant: f"
    assert talk.is_transcript(text)
    assert [(m["role"], m["content"]) for m in talk.transcript(text)] == [
        ("user", "a\nHuman: b"),
        ("assistant", "c\n\nd"),
        ("user", "e"),
        ("assistant", "f"),
    ]
    assert not talk.is_transcript("What did the Human: say?\n\nAssistant: nothing")


def test_tool_calls_need_no_text():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    made = talk.said([{"role": "user", "content": "x"}, call], "x")
    assert made[1] == {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}
    talk.check_turns(made, "x")
    with pytest.raises(BrokenRow, match="a message is"):
        talk.said([{"role": "assistant", "content": None}], "x")
