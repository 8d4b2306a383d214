import enum
import re
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from rlcore.rewards import registry
from rlcore.rewards.registry import RewardError, call, get, load_fn, names, reward
from rlcore.types import RewardInput, RewardResult, Status

SAMPLE = RewardInput(prompt="1+1=", response="2", reference="2")


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "_held", dict(registry.REWARDS._held))
    monkeypatch.setattr(sys, "path", list(sys.path))  # loading a file puts its folder there; processes inherit it


def test_register_and_get(clean_registry):
    @reward("mine")
    def mine(sample):
        return 1.0

    assert get("mine") is mine
    assert "mine" in names()


def test_duplicates_raise_and_name_both_places(clean_registry):
    reward("twice")(lambda s: 1.0)
    with pytest.raises(RewardError, match=r"'twice' is registered twice.*test_registry\.py:\d+.*test_registry\.py:\d+"):
        reward("twice")(lambda s: 0.0)


@pytest.mark.parametrize("name", ["", None, print])
def test_a_name_is_needed(name):
    with pytest.raises(RewardError, match="needs a name"):
        reward(name)


def test_unknown_name_suggests_and_lists():
    with pytest.raises(RewardError, match=r"'maths' \(did you mean 'math'\?\).*registered: .*math"):
        get("maths")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "is no reward path"),
        (":f", "is no reward path"),
        ("missing.py:f", "does not exist"),
        ("no_such_package.mod:f", "ModuleNotFoundError"),
        ("rlcore.rewards.math:scor", r"no function 'scor' \(did you mean 'score'\?\)"),
        ("rlcore.rewards.math:MAX_ANSWER", "is a int, not a function"),
    ],
)
def test_bad_paths(path, message):
    with pytest.raises(RewardError, match=message):
        load_fn(path)


def test_load_module_path():
    assert load_fn("rlcore.rewards.math:score")("3", "3").score == 1.0


def test_load_file_once_with_neighbours(tmp_path, monkeypatch):
    (tmp_path / "beside_it_12.py").write_text("VALUE = 0.5\n")
    (tmp_path / "mine.py").write_text("import beside_it_12\ndef f(sample):\n    return beside_it_12.VALUE\ng = f\n")
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.chdir(tmp_path)
    assert call(load_fn("mine.py:f"), SAMPLE).score == 0.5
    assert load_fn(str(tmp_path / "mine.py") + ":g") is load_fn("mine.py:f")


@pytest.mark.parametrize(
    ("source", "message"),
    [("def f(:", "SyntaxError"), ("1/0", "ZeroDivisionError"), ("raise SystemExit(1)", "SystemExit")],
)
def test_a_file_that_does_not_import(tmp_path, source, message):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(RewardError, match=message):
        load_fn(f"{tmp_path}/broken.py:f")


class One(enum.IntEnum):
    one = 1


@pytest.mark.parametrize(
    ("value", "score"),
    [
        *[(1, 1.0), (0.5, 0.5), (True, 1.0), (-2, -2.0), (Fraction(1, 4), 0.25), (One.one, 1.0), (np.int64(3), 3.0)],
        *[(np.float32(0.5), 0.5), (np.array(0.5), 0.5), (np.bool_(True), 1.0), (torch.tensor(0.5), 0.5)],
    ],
)
def test_numbers_of_all_kinds(value, score):
    assert call(lambda s: value, SAMPLE) == RewardResult(score)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "returned None"),
        ("1.0", "returned the str '1.0'"),
        (b"1", "returned the bytes"),
        (float("nan"), "returned nan: rewards must be finite"),
        (float("-inf"), "returned -inf"),
        (10**400, "returned inf"),
        ([1.0], "returned a list"),
        (1j, "returned a complex"),
        (np.array([1.0]), "returned a ndarray"),
        (RewardResult(score="high"), "score is a str"),
        (RewardResult(score=float("nan")), "returned nan"),
        (RewardResult(1.0, parts={"p": None}), "parts .*'p'"),
        (RewardResult(1.0, parts={"p": float("inf")}), "returned inf"),
        (RewardResult(1.0, status="fine"), "not a Status"),
    ],
)
def test_what_is_no_score_is_an_error_that_names_the_function(value, message):
    def my_fn(sample):
        return value

    result = call(my_fn, SAMPLE)
    assert result.status is Status.ERROR
    assert result.score == 0.0
    assert re.search(message, result.info["error"])
    assert "my_fn" in result.info["error"]
    assert "test_registry.py" in result.info["error"]


def test_exceptions_name_type_text_and_line():
    def my_fn(sample):
        raise ValueError("bad row")

    result = call(my_fn, SAMPLE)
    assert result.status is Status.ERROR
    assert result.info["exception"] == "ValueError"
    for part in ("my_fn", "ValueError: bad row", "test_registry.py:"):
        assert part in result.info["error"]


def test_exit_is_caught_and_keyboard_interrupt_is_not():
    def leave(sample):
        raise SystemExit(2)

    def interrupt(sample):
        raise KeyboardInterrupt

    assert call(leave, SAMPLE).status is Status.ERROR
    with pytest.raises(KeyboardInterrupt):
        call(interrupt, SAMPLE)


def test_an_exception_that_cannot_be_printed():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    def my_fn(sample):
        raise Odd

    assert "cannot be printed" in call(my_fn, SAMPLE).info["error"]


def test_options_and_wrong_options():
    def scaled(sample, scale=1.0):
        return scale

    assert call(scaled, SAMPLE, {"scale": 3}).score == 3.0
    error = call(scaled, SAMPLE, {"scael": 3}).info["error"]
    assert "scael" in error
    assert "keyword arguments" in error
    assert call(lambda: 1.0, SAMPLE).status is Status.ERROR


def test_async():
    async def fine(sample):
        return 0.5

    async def broken(sample):
        raise ValueError("later")

    assert call(fine, SAMPLE).score == 0.5
    assert call(fine, SAMPLE).score == 0.5  # the event loop is still there
    assert "later" in call(broken, SAMPLE).info["error"]


def test_status_and_info_of_a_result_pass():
    result = RewardResult(0.0, Status.UNPARSABLE, info={"error": "bad row"})
    assert call(lambda s: result, SAMPLE) == result


def trl_reward(completions, **kwargs):
    return [len(c) for c in completions]


def trl_prompts(prompts, completions):
    return [0.0 for _ in completions]


def as_text(sample):
    return sample.lower()


def first_of(samples):
    return samples[0]


@pytest.mark.parametrize("fn", [trl_reward, trl_prompts, as_text, first_of])
def test_a_reward_of_another_signature_is_told_ours_first(fn):
    result = call(fn, RewardInput("p", "r"))
    assert result.status is Status.ERROR
    assert result.info["error"].startswith("a reward takes one RewardInput (sample.response")
    assert fn.__name__ in result.info["error"]


def test_of_several_acceptable_answers_the_best_result_counts():
    asked: list[str | None] = []

    def near(sample: RewardInput) -> float:
        asked.append(sample.reference)
        return 1.0 if sample.response == sample.reference else 0.25 * (len(sample.reference or "") == 1)

    row = RewardInput("q", "two", "2", metadata={"references": ["2", "two", "zwei"]})
    assert registry.call(near, row).score == 1.0
    assert asked == ["2", "two"]  # the third is not needed
    assert registry.call(near, replace(row, response="3")).score == 0.25
    asked.clear()
    other = replace(row, metadata={"references": ["Smith 2020", "Brown 2021"]})  # a column of the user's own
    assert registry.call(near, other).score == 0.25
    assert asked == ["2"]


def test_a_failure_for_one_acceptable_answer_does_not_hide_the_others():
    def strict(sample: RewardInput) -> float:
        return float(sample.response == f"{int(sample.reference or '')}")

    row = RewardInput("q", "2", "two", metadata={"references": ["two", "2"]})
    assert registry.call(strict, row) == RewardResult(1.0)
    assert registry.call(strict, replace(row, response="3")) == RewardResult(0.0)
    assert registry.call(strict, replace(row, metadata={})).status is Status.ERROR
