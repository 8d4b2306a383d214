"""Length and repetition against hand-worked numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcore.rewards import get, registry, reward
from rlcore.rewards.penalties import cosine_length, length_penalty, repetition, target_length
from rlcore.rewards.registry import call
from rlcore.types import RewardInput, RewardResult, Status


def sample(tokens: int = 0, response: str = "x", reference: str | None = "42", finish: str = "stop", **metadata):
    return RewardInput("Q", response, reference, finish, tokens, metadata)


def test_names():
    assert [get(n) for n in ("length_penalty", "target_length", "cosine_length", "repetition")] == [
        length_penalty,
        target_length,
        cosine_length,
        repetition,
    ]


@pytest.mark.parametrize(
    ("tokens", "linear", "cosine"),
    [(1, 0, 0), (100, 0, 0), (125, -0.25, -(1 - math.sqrt(0.5)) / 2), (150, -0.5, -0.5), (200, -1, -1), (900, -1, -1)],
)
def test_length_penalty(tokens, linear, cosine):
    assert length_penalty(sample(tokens), 100, 200).score == pytest.approx(linear, abs=1e-12)
    assert length_penalty(sample(tokens), 100, 200, shape="cosine").score == pytest.approx(cosine, abs=1e-12)


def test_length_penalty_is_that_of_the_advantages():
    """The reward and `algorithm.overlong_buffer` are one formula."""
    torch = pytest.importorskip("torch")
    from rlcore.algorithms.shaping import overlong_penalty

    lengths = list(range(1, 130))
    wanted = overlong_penalty(torch.tensor(lengths), max_new_tokens=120, buffer=30, penalty=1.0).tolist()
    assert [-length_penalty(sample(n), 90, 120).score for n in lengths] == pytest.approx(wanted)


def test_length_penalty_units_and_errors():
    assert length_penalty(sample(response="one two three four"), 2, 4, unit="words").score == -1.0
    assert length_penalty(sample(response="abcd"), 2, 6, unit="characters").score == -0.5
    assert str(length_penalty(sample(1), 2, 3).score) == "0.0"  # not -0.0
    assert length_penalty(sample(0, "stored"), 2, 3).status is Status.UNPARSABLE
    for wrong in (
        {"start": 3, "end": 3},
        {"start": -1, "end": 3},
        {"start": 1, "end": 2, "shape": "square"},
        {"start": 1, "end": 2, "unit": "pages"},
    ):
        with pytest.raises(ValueError, match=r"need 0 <= start|shape=|unit="):
            length_penalty(sample(1), **wrong)


@pytest.mark.parametrize(
    ("tokens", "right", "wrong"),
    [(0, 2.0, -10.0), (25, 1.853553, -8.535534), (50, 1.5, -5.0), (75, 1.146447, -1.464466), (99, 1.000247, -0.002467)],
)
def test_cosine_length_of_the_paper(tokens, right, wrong):
    good, bad = r"\boxed{42}", r"\boxed{41}"
    if tokens == 0:
        good = bad = ""
        right = wrong  # an empty response has no answer
    got = [cosine_length(sample(tokens, text), 100) for text in (good, bad)]
    assert [r.score for r in got] == pytest.approx([right, wrong], abs=1e-6)
    assert [r.parts["base"] for r in got] == [float(tokens > 0), 0.0]


def test_cosine_length_ranks_as_its_authors_want():
    def at(tokens: int, right: bool) -> float:
        return cosine_length(sample(tokens, r"\boxed{42}" if right else r"\boxed{1}"), 100).score

    assert at(10, True) > at(90, True) > at(90, False) > at(10, False)
    assert at(100, True) == at(100, False) == at(101, True) == -10.0
    cut = sample(50, r"\boxed{42}", finish="length")
    assert cosine_length(cut, 100).score == -10.0
    assert cosine_length(cut, 100, exceeded=-1).score == -1.0


def test_cosine_length_with_another_base(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "_held", dict(registry.REWARDS._held))

    @reward("half")
    def half(s: RewardInput, worth: float = 0.5) -> float:
        return worth

    assert cosine_length(sample(50), 100, base="half").score == -5.0
    assert cosine_length(sample(50), 100, base="half", correct_at=0.5).score == 1.5
    assert cosine_length(sample(50), 100, base="half", base_options={"worth": 1}).score == 1.5
    assert cosine_length(sample(50, "42"), 100, base="rlcore.rewards.math:_math").score == 1.5


def test_a_failed_base_is_a_failure():
    result = cosine_length(sample(50, "42", reference=None), 100)
    assert result.status is Status.UNPARSABLE
    assert "no reference answer" in result.info["error"]
    assert target_length(sample(50, "42", reference=None), base="math", target=3).status is Status.UNPARSABLE
    error = call(cosine_length, sample(5), {"max_length": 9, "base": "maths"})
    assert error.status is Status.ERROR
    assert "did you mean 'math'" in error.info["error"]
    for wrong in ({"max_length": 0}, {"max_length": 5, "correct": [1.0]}):
        with pytest.raises(ValueError, match="need max_length > 0"):
            cosine_length(sample(5), **wrong)
    assert cosine_length(sample(0, "stored"), 100).status is Status.UNPARSABLE


def test_target_length():
    right = sample(700, "42", target_length=500)
    assert target_length(right).score == pytest.approx(-0.06)
    assert target_length(sample(300, "42", target_length=500)).score == pytest.approx(-0.06)
    exact = target_length(right, base="math")
    assert exact.score == pytest.approx(0.94)
    assert exact.parts == pytest.approx({"base": 1.0, "length": -0.06})
    assert target_length(right, base="math", target=700).score == 1.0
    assert target_length(right, base="math", mode="max").score == pytest.approx(0.5 - 0.06)
    assert target_length(sample(10, "42", target_length=5000), base="math", mode="max").score == 1.0
    assert target_length(sample(9000, "42", target_length=50), base="math", mode="max").score == 0.0
    assert target_length(sample(700, "41", target_length=500), base="math", mode="max").score == 0.0
    for bad in (None, "500", True, -1, float("nan")):
        assert target_length(sample(7, target_length=bad)).status is Status.UNPARSABLE
    for wrong in ({"mode": "max"}, {"mode": "least"}, {"alpha": -1.0}):
        with pytest.raises(ValueError, match="mode is exact, or max with a base"):
            target_length(right, **wrong)


@pytest.mark.parametrize(
    ("response", "options", "share"),
    [
        ("a b c d e f", {}, 0.0),
        ("a b a b a b", {"n": 2}, 1 - 2 / 5),
        ("A b a B", {"n": 2}, 1 - 2 / 3),
        ("x x x x x", {"n": 1}, 1 - 1 / 5),
        ("x x x x x", {"n": 4}, 1 - 1 / 2),
        ("one two", {"n": 4}, 0.0),
        ("one two three four", {"n": 4}, 0.0),
        ("", {}, 0.0),
        ("hahahaha", {"n": 2, "unit": "characters"}, 1 - 2 / 7),
        ("hahahaha", {"n": 1}, 0.0),
        ("a\n\nb  a b", {"n": 3, "unit": "characters"}, 1 - 4 / 5),
    ],
)
def test_repetition(response, options, share):
    result = repetition(sample(response=response), **options)
    assert result.score == pytest.approx(-share)
    assert result.info["repeated"] == pytest.approx(share)


def test_repetition_free_share_and_errors():
    text = "a b a b a b"  # 0.6 of the bigrams are repeated
    assert repetition(sample(response=text), n=2, free=0.2).score == pytest.approx(-0.5)
    assert repetition(sample(response=text), n=2, free=0.6).score == pytest.approx(0.0, abs=1e-12)
    assert repetition(sample(response=text), n=2, free=0.9).score == 0.0
    for wrong in ({"n": 0}, {"free": 1.0}, {"free": -0.1}, {"unit": "tokens"}):
        with pytest.raises(ValueError, match="need n >= 1"):
            repetition(sample(response=text), **wrong)


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 6))
def test_repetition_lies_between_minus_one_and_zero_and_sees_every_copy(letters, n):
    text = " ".join(letters)
    once = repetition(sample(response=text), n=n)
    assert -1.0 < once.score <= 0.0
    grams = [tuple(letters[i : i + n]) for i in range(len(letters) - n + 1)]
    slow = sum(g in grams[:i] for i, g in enumerate(grams)) / len(grams) if len(grams) > 1 else 0.0
    assert once == RewardResult(0.0 - slow, info={"repeated": slow}) or once.score == pytest.approx(-slow)
    assert repetition(sample(response=f"{text} {text}"), n=n).score <= once.score + 1e-12
