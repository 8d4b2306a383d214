"""Verdicts of the reward `code` on harmless programs, in every local tier that works here."""

import json
import time

import pytest

from rlcore.rewards.code import program, score
from rlcore.rewards.registry import call
from rlcore.types import RewardInput, Status
from tests.rewards.code.cases import PLUS_ONE, STDIN
from tests.rewards.corpora.code_programs import PROGRAMS as FIRST
from tests.rewards.corpora.code_programs_more import MORE

PROGRAMS = FIRST + MORE


def test_the_corpus_is_large_enough():
    assert len(PROGRAMS) >= 200
    assert len({name for name, *_ in PROGRAMS}) == len(PROGRAMS)


@pytest.mark.parametrize(("name", "source", "tests", "expected"), PROGRAMS, ids=[name for name, *_ in PROGRAMS])
def test_verdicts(tier, name, source, tests, expected):
    # twice the usual time, as this machine may be busy; what is too slow is so without end
    result = score(f"Here it is.\n```python\n{source}\n```\nDone.", tests, sandbox=tier, time_limit_s=8.0)
    assert result.status is Status.OK, result.info
    assert result.score == pytest.approx(expected), result.info
    assert result.parts["all_passed"] == float(expected == 1.0)


def test_all_or_nothing_and_weak_asserts(tier):
    half = next(entry for entry in PROGRAMS if entry[0] == "stdin-sum-half")
    result = score(half[1], half[2], sandbox=tier, all_or_nothing=True)
    assert (result.score, result.parts["passed"]) == (0.0, 0.5)
    own = next(entry for entry in PROGRAMS if entry[0] == "assert-class-equality")
    assert score(own[1], own[2], sandbox=tier).info["weak"] == 1
    assert score(own[1], own[2], sandbox=tier, weak_asserts=False).score == 0.0


def test_options_of_comparison(tier):
    tests = {"type": "stdin", "inputs": [""], "outputs": ["1\n2.5"]}
    assert score("print(1, 2.5)", tests, sandbox=tier).score == 0.0
    assert score("print(1, 2.5)", tests, sandbox=tier, whitespace="tokens").score == 1.0
    assert score("print(1)\nprint(2.5)", tests, sandbox=tier, whitespace="exact").score == 0.0
    assert score("print(1)\nprint(2.5000001)", tests, sandbox=tier).score == 1.0
    assert score("print(1)\nprint(2.5000001)", tests, sandbox=tier, float_tolerance=None).score == 0.0
    with pytest.raises(ValueError, match="whitespace"):
        score("print(1)", tests, whitespace="loose")
    with pytest.raises(ValueError, match="positive"):
        score("print(1)", tests, deadline_s=0)


def test_a_slow_program_ends_at_its_deadline(tier):
    tests = {"type": "stdin", "inputs": ["x"] * 50, "outputs": ["x"] * 50, "time_limit_s": 60}
    began = time.monotonic()
    result = score("while True: pass", tests, sandbox=tier, deadline_s=1.5)
    assert time.monotonic() - began < 30  # one input alone may take 60 s
    assert (result.status, result.score) == (Status.OK, 0.0)  # it used up the time itself


def test_a_deadline_before_all_tests_is_a_status(tier):
    tests = {"type": "stdin", "inputs": ["x"] * 500, "outputs": ["x"] * 500}
    result = score("import time\ntime.sleep(0.05)\nprint(input())", tests, sandbox=tier, deadline_s=1.0)
    assert result.status is Status.TIMEOUT
    assert "of 500 tests" in result.info["error"]


def test_programs_leave_nothing_to_each_other(tier):
    leave = "import builtins, math, sys\nbuiltins.left = math.left = sys.left = 1\nprint(2)"
    take = "import builtins, math, sys\nprint(2 if not any(hasattr(m, 'left') for m in (builtins, math, sys)) else 0)"
    for source in (leave, take, leave, take):
        assert score(source, STDIN, sandbox=tier).score == 1.0


@pytest.mark.parametrize(
    ("response", "language", "found"),
    [
        ("```python\na\n```\ntext\n```python\nb\n```", "python", "b\n"),
        ("```py\na\n```\nExample output:\n```\n42\n```", "python", "a\n"),
        ("```\na\n```", "python", "a\n"),
        ("```cpp\nx\n```\n```python\na\n```", "cpp", "x\n"),
        ("<think>```python\nwrong\n```</think>```python\nright\n```", "python", "right\n"),
        ("<think>```python\nwrong\n```</think>I cannot.", "python", None),
        ("~~~python\na\n~~~", "python", "a\n"),
        ("````python\ns = '''\n```\n'''\n````", "python", "s = '''\n```\n'''\n"),
        ("```python\ndef f():\n    pass", "python", "def f():\n    pass"),
        ("   ```python\n   a\n     b\n   ```", "python", "a\n  b\n"),
        ("```Python3 title=x\na\n```\r\n", "python", "a\n"),
        ("print(1)", "python", "print(1)"),
        ("no program here!", "python", None),
        ("", "python", None),
        ("int main() {}", "cpp", "int main() {}"),
    ],
)
def test_the_program_of_a_response(response, language, found):
    assert program(response, language) == found


def test_indented_fences_and_no_program():
    assert score("1. First:\n   ```python\n   print(int(input()) + 1)\n   ```", STDIN).score == 1.0
    result = score("I do not know.", STDIN)
    assert (result.score, result.status) == (0.0, Status.OK)
    assert result.info["failed"] == "the response has no program"


def test_an_assert_that_fails_by_itself_is_the_datas_fault():
    tests = {"type": "assert", "asserts": ["check(f)"], "setup": "import no_such_module\ndef check(g): pass"}
    assert score("def f(x): return x", tests).status is Status.UNPARSABLE


def test_the_reward_finds_its_tests():
    from rlcore.rewards.code import _code

    by_column = RewardInput("p", PLUS_ONE, metadata={"tests": STDIN})
    by_reference = RewardInput("p", PLUS_ONE, json.dumps(STDIN))
    by_row = RewardInput("p", PLUS_ONE, metadata={"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})})
    assert [call(_code, sample).score for sample in (by_column, by_reference, by_row)] == [1.0, 1.0, 1.0]
    assert call(_code, RewardInput("p", PLUS_ONE)).status is Status.UNPARSABLE
    assert call(_code, by_column, {"sandbox": {"tier": "none"}}).status is Status.ERROR
