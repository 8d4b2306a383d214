"""Scorers of reasoning-gym."""

from __future__ import annotations

import builtins
import inspect
import re
from pathlib import Path

import pytest

from rlcore.rewards.procedural import procedural
from rlcore.rewards.registry import call
from rlcore.types import Status
from tests.rewards.gym_cases import EVALUATING, HOSTILE, row


def test_puzzle24_takes_its_own_numbers_and_24_alone(gym):
    from rlcore.gym_tasks import open_task

    entry = open_task("puzzle24", {}, None, 5)[0]
    numbers = entry["metadata"]["numbers"]
    other = next(
        t for t in ("6*4*1*1", "8*3*1*1", "4*3*2*1") if sorted(map(int, re.findall(r"\d", t))) != sorted(numbers)
    )
    for text in (other, "24", f"{numbers[0]}*0 + 24"):
        assert call(procedural, row("puzzle24", text)).score < 0.5, text
    assert open_task("puzzle24", {}, None).score_answer(other, entry) == 1.0  # what the package says of it


@pytest.mark.parametrize("task", EVALUATING)
def test_hostile_answers_are_never_evaluated(gym, task, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    for text in HOSTILE:
        answer = text.format(canary=canary)
        for response in (answer, f"<answer>{answer}</answer>"):
            result = call(procedural, row(task, response))
            assert result.score <= 0.05
            assert result.status is Status.OK
    monkeypatch.undo()
    assert not [args for args in opened if str(canary) in str(args)]
    assert not canary.exists()


def test_every_scorer_that_evaluates_text_is_known(gym):
    """A new version of the package may bring more: the guard then takes them in, and this test says so."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    assert [n for n in sorted(DATASETS) if n != "composite" and gym.evaluates(n)] == EVALUATING
    risky = re.compile(r"(?<![\w.])(?:eval|exec)\(|\b(?:parse_expr|sympify|lambdify|S)\(")
    root = Path(inspect.getfile(reasoning_gym)).parent
    files = {p.stem for p in root.rglob("*.py") if risky.search(p.read_text()) and "contrib" not in p.parts}
    modules = {DATASETS[n][0].__module__.rpartition(".")[2] for n in [*EVALUATING, *gym._OWN_TEXT]}
    assert files - modules <= {"generators_00_49", "generators_50_99"}  # gsm_symbolic's


def test_a_scorer_that_raises(gym, monkeypatch):
    def scorer(answer, entry):
        if answer != entry["answer"] or entry.get("broken"):
            raise KeyError("odd")
        return 1.0

    monkeypatch.setattr(gym, "_scorer", lambda *a: scorer)
    sample = row("chain_sum", "x")
    result = call(procedural, sample)
    assert (result.score, result.status) == (0.0, Status.OK)
    assert "KeyError" in result.info["refused"]
    sample.metadata["entry"]["broken"] = True
    assert call(procedural, sample).status is Status.ERROR
