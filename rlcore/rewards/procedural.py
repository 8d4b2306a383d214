"""The reward `procedural`: scores answers to tasks of reasoning-gym with the scorer of the task.

Nine scorers of the package evaluate the answer as Python or sympy code, which would run code written by a model. Here
an answer that is more than a literal or plain arithmetic is replaced with an empty one for those scorers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from rlcore.rewards.math.reading.extract import visible
from rlcore.rewards.registry import failure, reward, slow_module
from rlcore.types import RewardInput, RewardResult, Status

SCORING = "rlcore.rewards.gym"
MAX_ANSWER = 2000  # longest answer that is evaluated, in characters
MAX_NODES = 500
MAX_EXPONENT = 100
MAX_BITS = 256

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log"}
    | {"ln", "sqrt", "abs", "Abs"}
)
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Load, ast.Constant, ast.USub, ast.UAdd),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitXor),
)


@reward("procedural")
def procedural(sample: RewardInput, partial: bool = True, tag_only: bool = False) -> RewardResult:
    """The score of the answer under the row's reasoning-gym task, mostly in [0, 1].

    The answer is the text in the last `<answer>..</answer>`, or the whole response without the tag; text in `<think>`
    is ignored.

    Args:
        partial: keeps scores below 1, which many tasks give for nearly right answers; otherwise they become 0.
        tag_only: scores 0 for a response without the tag.

    Returns:
        `info["extracted"]`. A row of another source gives `Status.UNPARSABLE`. If the scorer raises an exception on an
        answer, the score is 0; if it also raises on the right answer, the status is `Status.ERROR`.

    Raises:
        RewardError: the package reasoning-gym is not installed.
    """
    row = sample.metadata
    if not isinstance(row.get("entry"), Mapping) or not isinstance(row.get("task"), str):
        return failure("the row has no task and entry: the reward procedural needs data=procedural", Status.UNPARSABLE)
    answer = extracted(sample.response, tag_only)
    if answer is None:
        return RewardResult(0.0, info={"extracted": None})
    scoring, options = slow_module(SCORING), row.get("options") or {}
    score, why = scoring.score(answer, row["task"], row["entry"], options, row.get("level"))
    info = {"extracted": answer[:200]} | ({"refused": why} if why else {})
    return RewardResult(score if partial or score >= 1 else 0.0, info=info)


def extracted(response: str, tag_only: bool = False) -> str | None:
    """The stripped answer in a response, or None.

    >>> extracted("<think>7?</think> So <answer> 42 </answer>."), extracted(" 42\\n"), extracted("42", tag_only=True)
    ('42', '42', None)
    """
    text = visible(response)
    if found := _TAGGED.findall(text):
        return str(found[-1]).strip()
    return None if tag_only else text.strip() or None


def is_python(text: str) -> bool:
    """True if the text is a Python expression, or too deeply nested to parse."""
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    except (MemoryError, RecursionError):
        pass
    return True


def is_harmless(text: str) -> bool:
    """True if evaluating the text with Python or sympy computes only a literal or plain arithmetic.

    Arithmetic: numbers, names of up to two letters, `+ - * / // % ** ^`, and the usual functions of one number.

    >>> [is_harmless(t) for t in ("(3 + 5)*8/2", "x**2/2 + C", "[[1, 2], ['a']]", "__import__('os')", "x.y", "9**9**9")]
    [True, True, True, False, False, False]
    """
    if len(text) > MAX_ANSWER:
        return False
    try:
        tree = ast.parse(text, mode="eval")
        nodes = list(ast.walk(tree))
        if len(nodes) > MAX_NODES:
            return False
        if all(isinstance(node, _ARITHMETIC) and _is_plain(node) for node in nodes):
            return True
        ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        value = node.value
        return isinstance(value, float) or (type(value) is int and value.bit_length() <= MAX_BITS)
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or node.id == "pi" or (len(node.id) <= 2 and node.id.isalpha())
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        return named and len(node.args) == 1 and not node.keywords
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        exponent = list(ast.walk(node.right))
        whole = [n.value for n in exponent if isinstance(n, ast.Constant) and type(n.value) is int]
        tower = sum(any(isinstance(n, ast.Pow) for n in ast.walk(p.left)) for p in _powers(node.left))
        return sum(whole) <= MAX_EXPONENT and not tower and not any(isinstance(n, ast.Pow | ast.Mult) for n in exponent)
    return True


def _powers(node: ast.AST) -> list[ast.BinOp]:
    return [n for n in ast.walk(node) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
