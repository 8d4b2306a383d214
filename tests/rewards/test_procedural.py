"""Answers to procedural tasks, and text that must never reach an evaluator."""

from __future__ import annotations

import sys

import pytest

from rlcore.rewards import get
from rlcore.rewards.composition import Item, Term
from rlcore.rewards.pool import VerifierPool
from rlcore.rewards.procedural import MAX_ANSWER, extracted, is_harmless, is_python, procedural
from rlcore.rewards.registry import call
from rlcore.types import RewardInput, Status
from tests.rewards.gym_cases import EVALUATING, HOSTILE, row


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        *[
            (t, True)
            for t in (
                "(3 + 5)*8/2",
                "x**2/2 + C",
                "-3*sin(2*x)/4",
                "sqrt(x)**-2",
                "x**(1/2)",
                "pi*3",
                "7 // 2",
                "(x**2 + 1)**(3/2)",
            )
        ],
        *[(t, True) for t in ("[[1, 2], ['a']]", "('a', 'b')", "{'a': 1}", "'text'", "-1.5", "()", "[]", "1e400")],
        *[
            (t, False)
            for t in ("x.y", "f(x)", "abc", "[1]*9", "'a'*9", "x if 1 else 2", "1;2", "", "5!", "2 2", "1 < 2")
        ],
        *[
            (t, False)
            for t in (
                "9**9**9",
                "2**101",
                "2**(50*50)",
                "2**(60+60)",
                "((9**9)**9)**9",
                "x**" + "1" * 100,
                "1<<9",
                "sqrt(1, 2)",
                "sqrt(*x)",
                "a[0]",
            )
        ],
        *[(t, False) for t in ("(" * 5000, "-" * 1500 + "1", "1+" * 900 + "1", "1 " * MAX_ANSWER, "\0", "\ud800")],
    ],
)
def test_what_is_harmless(text, harmless):
    assert is_harmless(text) is harmless


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_not(text):
    assert not is_harmless(text.format(canary="x"))


def test_what_is_python():
    assert is_python("1 + f(2)")
    assert not is_python("1 2 3")
    assert not is_python("Q _ _\n_ Q _")
    assert is_python("-" * 100_000 + "1") in (True, False)  # no crash


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("42", "42"),
        (" 42\n", "42"),
        ("<answer>42</answer>", "42"),
        ("<answer>1</answer> no: <answer>\n2\n</answer>!", "2"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<think><answer>1</answer></think> 2", "2"),
        ("<answer>1", "<answer>1"),
        ("<answer></answer>", ""),
        ("", None),
        ("<think>never closed", None),
    ],
)
def test_the_answer_of_a_response(response, answer):
    assert extracted(response) == answer


def test_rows_of_other_sources_are_no_zero():
    for metadata in ({}, {"task": "chain_sum"}, {"task": 3, "entry": {}}, {"task": "chain_sum", "entry": "4"}):
        result = call(procedural, RewardInput("Q", "4", metadata=metadata))
        assert result.status is Status.UNPARSABLE
        assert "data=procedural" in result.info["error"]


def test_a_missing_package_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.delitem(sys.modules, "rlcore.rewards.gym", raising=False)
    result = call(procedural, RewardInput("Q", "4", metadata={"task": "chain_sum", "entry": {}}))
    assert result.status is Status.ERROR
    assert "pip install 'rlcore[procedural]'" in result.info["error"]


SAFE_TASKS = ["chain_sum", "leg_counting", "bitwise_arithmetic", "number_sorting", "word_sorting", "base_conversion"]


@pytest.mark.parametrize("task", SAFE_TASKS + EVALUATING)
def test_right_and_wrong_answers(gym, task):
    sample = row(task)
    right, wrong = call(get("procedural"), sample), call(procedural, row(task, "no idea"))
    assert (right.score, right.status) == (1.0, Status.OK)
    assert wrong.status is Status.OK
    assert wrong.score <= 0.05
    tagged = call(procedural, row(task, f"<think>{sample.response}</think>So <answer>\n{sample.response}</answer>"))
    assert tagged.score == 1.0
    assert call(procedural, row(task), {"tag_only": True}).score == 0.0


def test_answers_written_otherwise(gym):
    sums = row("chain_sum")
    assert call(procedural, row("chain_sum", f"It is {sums.response}")).score < 1.0
    assert call(procedural, row("chain_sum", f"It is {sums.response}")).score > 0.0
    assert call(procedural, row("chain_sum", f"It is {sums.response}"), {"partial": False}).score == 0.0
    integral = row("simple_integration")
    assert call(procedural, row("simple_integration", f"C + {integral.response.removesuffix(' + C')}")).score == 1.0
    matrix = row("spiral_matrix")
    assert call(procedural, row("spiral_matrix", str(matrix.response.split()))).score == pytest.approx(0.1)


def test_options_reach_the_scorer(gym):
    """puzzle24 looks at its config when it scores."""
    sample = row("puzzle24", min_value=1, max_value=6)
    assert call(procedural, sample).score == 1.0


def test_the_hostile_corpus_would_have_worked(tmp_path):
    """It is no empty threat: sympy's parser runs it."""
    sympy = pytest.importorskip("sympy")
    canary = tmp_path / "canary"
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever comes after the file is there
        sympy.parse_expr(f"sin(open({str(canary)!r}, 'w').write(1))")
    assert canary.exists()


def test_in_verifier_processes(gym):
    terms = (Term("procedural", "rlcore.rewards.procedural:procedural"),)
    samples = [row("countdown"), row("countdown", "__import__('os')._exit(3)"), row("leg_counting"), row("n_queens")]
    with VerifierPool(1, timeout_s=30.0) as pool:
        results = pool.submit([Item(terms, s) for s in samples]).result(timeout=250)
    assert [r.status for r in results] == [Status.OK] * 4
    assert [r.score for r in results] == [1.0, 0.01, 1.0, 1.0]
