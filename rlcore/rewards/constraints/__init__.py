"""The reward `constraints`: instructions that a program can check, with the 25 kinds of IFEval, scored strictly or
loosely.

A row lists its constraints in the column `constraints` (`[{"id": "keywords:existence", "kwargs": {"keywords":
["sun"]}}]`), or in IFEval's columns `instruction_id_list` and `kwargs`. `constraint` registers custom kinds.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911: ids and
arguments, the table of instructions, the loose criterion (section 2.2). Checks are reimplemented, and stricter where a
policy could otherwise exploit them: a single JSON object or list instead of any value; exactly one of the allowed
options; non-empty bullets; an answer after the repeated prompt. `rlcore.rewards.text` splits words and sentences,
py3langid detects languages. One kind is added, `length_constraints:number_characters`, and the relations "at most",
"exactly" and "more than".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.rewards.constraints import content as _content  # imported to register the kinds
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
    """Scores how many constraints a response fulfils.

    Args:
        constraints: from `read_row`, or `{"id": ..., "kwargs": {...}}`.
        loose: a constraint is fulfilled if one of `loose_variants` fulfils it; False: the response itself must.
        mode: `share`: the fraction fulfilled; `all`: 1 if all are fulfilled, else 0.

    Returns:
        A score in [0, 1]; `parts` has 0 or 1 for each constraint under its id (`id#2` for the second of one kind) and
        for `all`; `info["unfulfilled"]` lists the others. An invalid constraint gives `Status.UNPARSABLE`.

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
    """The fraction of the row's instructions that the response fulfils (25 kinds, as in IFEval).

    See `score` for the options; text in `<think>` is ignored unless `thoughts`. A row without constraints, or with an
    invalid one, gives `Status.UNPARSABLE`.
    """
    try:
        wanted = read_row(sample.metadata)
    except ConstraintError as error:
        return RewardResult(0.0, Status.UNPARSABLE, info={"error": str(error)})
    return score(sample.response if thoughts else visible(sample.response), wanted, loose, mode)


def loose_variants(response: str) -> list[str]:
    """The response, and the response without Markdown asterisks, without its first line ("Sure, here it is:"), without
    its last line ("Hope it helps."), in every combination: at most 8 texts, the response first.

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
