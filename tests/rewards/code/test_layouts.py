"""Layouts of tests in public data sets."""

import base64
import json
import pickle
import zlib

import pytest

from rlcore.rewards.code import layouts as code_layouts
from rlcore.rewards.code import score
from rlcore.types import Status
from tests.rewards.code.cases import PLUS_ONE, STDIN


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"type": "stdin", "inputs": ["1"], "outputs": []}, "two lists of one length"),
        ({"type": "stdin", "inputs": [], "outputs": []}, "not empty"),
        ({"type": "other", "inputs": ["1"], "outputs": ["1"]}, "stdin, function or assert"),
        ({"type": "function", "inputs": [[1]], "outputs": [1]}, "fn_name"),
        ({"type": "function", "fn_name": "f(", "inputs": [[1]], "outputs": [1]}, "fn_name"),
        ({"type": "function", "fn_name": "f", "inputs": [1], "outputs": [1]}, "lists of arguments"),
        ({"type": "assert", "asserts": []}, "needs asserts"),
        ({"type": "assert", "asserts": ["assert f("]}, "no Python"),
        ({**STDIN, "time_limit_s": -1}, "time_limit_s"),
        ({"anything": 1}, "no known layout"),
        ("not json", "not JSON"),
        ([1, 2], "input and output"),
    ],
)
def test_broken_tests_are_the_datas_fault(tests, message):
    result = score(PLUS_ONE, tests)
    assert result.status is Status.UNPARSABLE
    assert message in result.info["error"]


def test_layouts_of_public_data_sets():
    cases = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
    functional = [{"input": "[1, 2]\n3", "output": "true", "testtype": "functional"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    right = {
        "taco": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]}),
        "taco-lines": {"inputs": [["1"]], "outputs": [["2"]]},
        "livecodebench": cases,
        "livecodebench-row": {"public_test_cases": json.dumps(cases), "private_test_cases": packed},
        "codeforces": {"examples": [{"input": "1", "output": "2"}], "time_limit": 2.0, "memory_limit": 256},
        "columns": {"test_cases": {"input": ["1"], "output": ["2"]}},
    }
    for name, tests in right.items():
        assert score(PLUS_ONE, tests).score == 1.0, name
        assert score("print(3)", tests).score == 0.0, name
    limits = code_layouts.read(right["codeforces"])
    assert (limits.time_limit_s, limits.memory_limit_mb) == (2.0, 256)
    calls = {"public_test_cases": functional, "metadata": json.dumps({"func_name": "has"})}
    assert score("class Solution:\n    def has(self, xs, n): return n not in xs", calls).score == 1.0
    apps = {"fn_name": "f", "inputs": [[1], "2"], "outputs": [[2], "3"]}
    assert score("def f(x): return x + 1", apps).score == 1.0
    mbpp = {"test_list": ["assert f(1) == 2"], "test_imports": []}
    assert score("def f(x): return x + 1", mbpp).score == 1.0


def test_pickles_in_data_are_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    packed = base64.b64encode(zlib.compress(pickle.dumps([Bomb()]))).decode()
    assert score(PLUS_ONE, packed).status is Status.UNPARSABLE
    assert not (tmp_path / "made").exists()
