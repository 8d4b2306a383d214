"""Instructions whose following a program can check: the 25 kinds of IFEval, scored strictly or loosely, as a reward.

A row lists its constraints in the column `constraints` (`[{"id": "keywords:existence", "kwargs": {"keywords":
["sun"]}}]`), or in IFEval's own columns `instruction_id_list` and `kwargs`. Kinds of your own: `constraint`.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911: ids and
arguments, the table of instructions, the loose criterion (section 2.2). Checks are our own, and stricter than usual
where a policy would otherwise be paid for nothing: a sole JSON object or list rather than any value; one of the allowed
options rather than several; bullets with something in them; repeating the prompt and then an answer. Words and
sentences are split by `rlcore.rewards.text`, languages told by py3langid. One kind is added,
`length_constraints:number_characters`, and the relations "at most", "exactly" and "more than".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.rewards.constraints import content as _content  # registers its kinds
from rlcore.rewards.constraints import layout as _layout
from rlcore.rewards.constraints.kinds import (
    Constraint,
    ConstraintError,
    Relation,
    constraint,
    ids,
    read_constraint,
    read_row,
)
from rlcore.rewards.math.reading.extract import visible
from rlcore.rewards.registry import reward
from rlcore.types import RewardInput, RewardResult, Status

__all__ = [
    "Constraint",
    "ConstraintError",
    "Relation",
    "constraint",
    "ids",
    "loose_variants",
    "read_constraint",
    "read_row",
    "score",
]
_MODULES = (_content, _layout)
MODES = ("share", "all")


def score(
    response: str, constraints: Sequence[Constraint | Mapping[str, Any]], loose: bool = False, mode: str = "share"
) -> RewardResult:
    """How far a response follows its constraints.

    Args:
        constraints: as `read_row` gives them, or `{"id": ..., "kwargs": {...}}`.
        loose: a constraint is fulfilled when one of `loose_variants` fulfils it; else the response itself must.
        mode: `share` of the constraints fulfilled, or 1 for `all` of them and else 0.

    Returns:
        A score in [0, 1]; `parts` holds 0 or 1 for each constraint under its id (`id#2` for the second of one kind) and
        for `all`; `info["unfulfilled"]` lists those that are not. A constraint that cannot be read is
        `Status.UNPARSABLE`.

    Raises:
        ValueError: an unknown mode.

    >>> score("no commas here", [{"id": "punctuation:no_comma"}, {"id": "startend:quotation"}]).score
    0.5
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: one of {', '.join(MODES)}")
    try:
        read = [c if isinstance(c, Constraint) else read_constraint(c.get("id"), c.get("kwargs")) for c in constraints]
        if not read:
            raise ConstraintError("there is no constraint to score")
        texts = loose_variants(response) if loose else [response]
        parts: dict[str, float] = {}
        for one in read:
            parts[_name(one.id, parts)] = float(any(one.holds(text) for text in texts))
    except ConstraintError as error:
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": str(error)})
    unfulfilled = [name for name, value in parts.items() if not value]
    share = 1 - len(unfulfilled) / len(parts)
    parts["all"] = float(not unfulfilled)
    info = {"unfulfilled": unfulfilled} if unfulfilled else {}
    return RewardResult(parts["all"] if mode == "all" else share, parts=parts, info=info)


@reward("constraints")
def constraints(sample: RewardInput, loose: bool = False, mode: str = "share", thoughts: bool = False) -> RewardResult:
    """The share of the row's instructions that the response follows (25 kinds, as in IFEval).

    See `score` for the options; what stands in `<think>` is left out unless `thoughts`. A row without constraints, or
    with one that cannot be read, is `Status.UNPARSABLE`.
    """
    try:
        wanted = read_row(sample.metadata)
    except ConstraintError as error:
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": str(error)})
    return score(sample.response if thoughts else visible(sample.response), wanted, loose, mode)


def loose_variants(response: str) -> list[str]:
    """The response and what is left of it without markdown's stars, without its first line ("Sure, here it is:"),
    without its last ("Hope it helps."), and every combination: at most 8 texts, the response first.

    Source: arXiv 2311.07911, section 2.2.
    """
    lines = response.strip().split("\n")
    cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    kept = [response, *("\n".join(cut).strip() for cut in cuts)]
    return list(dict.fromkeys([*kept, *(text.replace("*", "") for text in kept)]))


def _name(id: str, taken: Mapping[str, float]) -> str:
    name, number = id, 1
    while name in taken:
        number += 1
        name = f"{id}#{number}"
    return name
