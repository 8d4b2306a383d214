"""Hostile answers to tasks that evaluate text."""

from __future__ import annotations

from rlcore.types import RewardInput

HOSTILE = [
    "__import__('os').system('touch {canary}')",
    "open('{canary}', 'w')",
    "[open('{canary}', 'w')]",
    "[x for x in [open('{canary}', 'w')]]",
    "(lambda: open('{canary}', 'w'))()",
    "sqrt(open('{canary}', 'w'))",
    "().__class__.__base__.__subclasses__()",
    "exec(\"open('{canary}', 'w')\")",
    "sqrt.__globals__",
    "S(\"__import__('os').system('touch {canary}')\")",
    "Symbol('x', **{{'a': open('{canary}', 'w')}})",
    "[1][open('{canary}', 'w')]",
    "{{open('{canary}', 'w'): 1}}",
    "f\"{{open('{canary}', 'w')}}\"",
    "open('{canary}', 'w')!",
    "(open('{canary}', 'w'))!!",
    "0.2[open('{canary}', 'w')]",
    "  open('{canary}', 'w')",
    "(\nopen('{canary}', 'w')\n)",
    "1 if open('{canary}', 'w') else 2",
    "1 and open('{canary}', 'w')",
    "not open('{canary}', 'w')",
    "1 < open('{canary}', 'w')",
    "(y := open('{canary}', 'w'))",
    "[*open('{canary}', 'w')]",
    "await_(open('{canary}', 'w'))",
    "x\\\n.__class__",
    "ｏpen('{canary}', 'w')",
]


def row(task: str, response: str | None = None, seed: int = 5, **options) -> RewardInput:
    from rlcore.gym_tasks import open_task

    entry = open_task(task, options, None, seed)[0]
    metadata = {"task": task, "entry": entry, "options": options, "level": None}
    return RewardInput(entry["question"], entry["answer"] if response is None else response, metadata=metadata)


def solved(task: str) -> RewardInput:
    """The first of a few entries that has an answer."""
    return next(r for r in (row(task, seed=s) for s in range(5, 25)) if r.response)


EVALUATING = [
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
]
