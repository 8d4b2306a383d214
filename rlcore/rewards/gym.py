"""Scorers of reasoning-gym. Importing this module imports the package, which takes seconds: `rlcore.rewards.procedural`
does it at first use."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from rlcore.gym_tasks import open_task, task_class
from rlcore.registry import describe
from rlcore.rewards.procedural import is_harmless, is_python

task_class("leg_counting")  # raises here if the package is missing

_scorers: dict[tuple[str, str, int | None], Callable[[Any, dict[str, Any]], Any]] = {}
_PYTHON = re.compile(r"(?<![\w.])(?:eval|exec)\(")
_SYMPY = re.compile(r"\b(?:parse_expr|sympify|lambdify)\(")
# these modules evaluate only text of their own; checked for version 0.1.25
_OWN_TEXT = frozenset(
    ["basic_arithmetic", "bitwise_arithmetic", "codeio", "gsm_symbolic", "number_sorting", "propositional_logic"]
)


def score(
    answer: str, task: str, entry: Mapping[str, Any], options: Mapping[str, Any], level: int | None
) -> tuple[float, str]:
    """The score of an answer to an entry, and the reason if the answer was withheld from the scorer or broke it.

    Raises:
        TaskError: the task cannot be opened.
        Exception: raised by the scorer on the right answer of the entry.
    """
    scorer = _scorer(task, options, level)
    why = "" if answer == entry.get("answer") else refusal(task, answer)
    try:
        result = float(scorer("" if why else answer, dict(entry)))
    except Exception as error:  # on text of a model; if the row is broken, its right answer fails too
        scorer(entry.get("answer"), dict(entry))
        return 0.0, f"the scorer raised {describe(error)}"[:300]
    check = _CHECKS.get(task)
    if check is not None and result >= 1 and not check(answer, entry):
        return 0.0, "not a solution"
    return result, why


def refusal(task: str, answer: str) -> str:
    """The reason why the answer must not reach the task's scorer; empty if it may."""
    how = evaluates(task)
    if how == "sympy" and not is_harmless(answer):
        return "not plain arithmetic"  # sympy accepts more than Python's syntax
    if how == "python" and is_python(answer) and not is_harmless(answer):
        return "not a literal"
    return ""


@cache
def evaluates(task: str) -> str:
    """The evaluator that the module of a task uses on text: `sympy`, `python`, or ""."""
    if task in _OWN_TEXT:
        return ""
    source = inspect.getsource(sys.modules[task_class(task).__module__])
    return "sympy" if _SYMPY.search(source) else "python" if _PYTHON.search(source) else ""


def _scorer(task: str, options: Mapping[str, Any], level: int | None) -> Callable[[Any, dict[str, Any]], Any]:
    key = (task, json.dumps(options, sort_keys=True, default=repr), level)
    if key not in _scorers:
        _scorers[key] = open_task(task, options, level).score_answer
    return _scorers[key]


def _makes_24(answer: str, entry: Mapping[str, Any]) -> bool:
    """Replaces the package's scorer of puzzle24, which accepts any four numbers and 24.9 for 24."""
    tree = ast.parse(answer, mode="eval").body
    used = Counter(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    try:
        return used == Counter(entry["metadata"]["numbers"]) and _exact(tree) == 24
    except (ZeroDivisionError, TypeError):
        return False


def _exact(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        value = _exact(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        a, b = _exact(node.left), _exact(node.right)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
    raise TypeError("only + - * / of numbers")


_CHECKS: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {"puzzle24": _makes_24}
