"""Equality of two answers parsed by `rlcore.rewards.math.values.structure`."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import permutations

from rlcore.rewards.math.grammar.formula import Node, contains, symbols
from rlcore.rewards.math.grammar.tokens import FUNCTIONS
from rlcore.rewards.math.values import agreement, regions
from rlcore.rewards.math.values.structure import (
    Answer,
    Index,
    Items,
    Matrix,
    Named,
    Relation,
    Span,
    Value,
    interval,
    region_of,
)

_CONSTANT = re.compile(r"[CcKk]_\d|[ck]|[A-DK]")  # of a general solution
_BASIS = ("i_vec", "j_vec", "k_vec")


def same(gold: Answer, given: Answer) -> bool | None:
    """True, False, or None if undecided.

    A name is dropped where the other side has none: `x = 5` is 5, and not `y = 5`. What is listed has no order, what
    stands in brackets has one, unless the brackets are those of a set.
    """
    gold, given = _only(gold), _only(given)
    if isinstance(gold, Named) or isinstance(given, Named):
        return _same_named(gold, given)
    if isinstance(gold, Span) or isinstance(given, Span):
        return _same_span(gold, given)
    for one, two in ((gold, given), (given, gold)):  # 2i + 5j
        if isinstance(one, Value) and (point := _vector(two)) is not None:
            other = _components(one.node)
            return other is not None and same(point, other)
    if isinstance(gold, Matrix) != isinstance(given, Matrix):
        table, second = _listed(gold), _listed(given)
        if isinstance(table, Matrix) and isinstance(second, Matrix):
            return same(table, second)
        point, other = _vector(table), _vector(second)
        return point is not None and other is not None and same(point, other)
    if isinstance(gold, Items) or isinstance(given, Items):
        return _same_items(gold, given)
    if isinstance(gold, Value) and isinstance(given, Value):
        return _same_value(gold.node, given.node)
    if isinstance(gold, Index) or isinstance(given, Index):
        return gold == given
    if isinstance(gold, Matrix) and isinstance(given, Matrix):
        a, b = gold.rows, given.rows
        if len(a) != len(b) or len(a[0]) != len(b[0]):
            return False
        cells = [agreement.same_value(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
        return _all(cells)
    if isinstance(gold, Relation) and isinstance(given, Relation):
        f, g = (agreement.difference(r.left, r.right) for r in (gold, given))
        return agreement.same_relation(f, gold.op, g, given.op)
    for one, two in ((gold, given), (given, gold)):  # m + n = 70 names what 70 is
        if isinstance(one, Relation) and one.op == "=" and isinstance(two, Value):
            if agreement.same_value(one.left, one.right):  # (x-2)^2 = x^2 - 4x + 4, a way of saying either
                return agreement.same_value(one.right, two.node)
            constant = not symbols(one.right) and not symbols(two.node)
            named = one.left[0] in ("abs", *FUNCTIONS) or _sum_of_names(one.left)
            return constant and named and agreement.same_value(one.right, two.node)
    return False


def _vector(answer: Answer) -> Items | None:
    """A matrix of one column or row, or a point, as a point."""
    if isinstance(answer, Items):
        return answer if answer.brackets == "()" else None
    if isinstance(answer, Matrix) and 1 in (len(answer.rows), len(answer.rows[0])):
        return Items(tuple(Value(cell) for row in answer.rows for cell in row), "()")
    return None


def _listed(answer: Answer) -> Answer:
    """`[[1, 2], [3, 4]]` as a matrix, `[1, 2, 3]` as a point."""
    if not isinstance(answer, Items) or answer.brackets not in ("[]", "()"):
        return answer
    rows = [r.items for r in answer.items if isinstance(r, Items) and r.brackets == answer.brackets]
    cells = [tuple(c.node for c in row if isinstance(c, Value)) for row in rows]
    if cells and len(cells) == len(answer.items) and {len(r) for r in rows} == {len(cells[0])} == {*map(len, cells)}:
        return Matrix(tuple(cells))
    return Items(answer.items, "()") if len(answer.items) > 2 else answer  # [1, 2] is an interval


def _components(node: Node) -> Items | None:
    r"""`2\hat{i} + 5\hat{j}` as a point; None for what is no such sum."""
    plain = (("const", "i"), ("sym", "j"), ("sym", "k"))
    node = agreement.replaced(node, {letter: ("sym", name) for letter, name in zip(plain, _BASIS, strict=True)})
    basis = _BASIS[: 3 if "k_vec" in symbols(node) else 2]
    zero, one = ("num", Fraction(0)), ("num", Fraction(1))
    if len(symbols(node) & set(basis)) < 2 or not agreement.same_value(
        agreement.replaced(node, {("sym", name): zero for name in basis}), zero
    ):
        return None
    chosen = ({("sym", other): one if other == name else zero for other in basis} for name in basis)
    units = [agreement.replaced(node, choice) for choice in chosen]
    return Items(tuple(map(Value, units)), "()")


def _same_value(a: Node, b: Node) -> bool | None:
    """The constant of an integration goes by C and by c, those of a general solution by any names in any order."""
    verdict = agreement.same_value(a, b)
    ours, theirs = symbols(a), symbols(b)
    one, two = ours - theirs, theirs - ours
    family = a[0] == b[0] == "add" and contains(a, "const") and contains(b, "const")  # pi/2 + k pi
    if not verdict and family and len(one) == len(two) == 1 and one | two <= {"k", "m", "n"}:
        return agreement.same_value(a, agreement.replaced(b, {("sym", two.pop()): ("sym", one.pop())}))
    mine, others = (
        sorted(n for n in names if _CONSTANT.fullmatch(n) and ("_" in n or n not in rest))
        for names, rest in ((ours, theirs), (theirs, ours))
    )
    if verdict or len(mine) != len(others) or len(mine) > 3 or not any(n[0] in "Cc" for n in (*mine, *others)):
        return verdict
    added = a[0] == b[0] == "add" and {"C"} <= {*mine, *others} <= {"C", "c", "K", "k"}  # + C
    if ours - set(mine) != theirs - set(others) or not (added or any("_" in n for n in (*mine, *others))):
        return verdict
    free = [("sym", name) for name in mine]
    for order in permutations(others):
        names = {("sym", other): name for other, name in zip(order, free, strict=True)}
        if agreement.same_value(a, agreement.replaced(b, names)):
            return True
    return verdict


def _sum_of_names(node: Node) -> bool:
    """`a + b - c`, whose value an exercise may ask for; `2x + 3y` is the side of a line's equation."""
    if node[0] == "add":
        return all(child[0] == "sym" or _sum_of_names(child) for child in node[1:])
    return bool(node[0] == "neg" and node[1][0] == "sym")


def _only(answer: Answer) -> Answer:
    return answer.items[0] if isinstance(answer, Items) and len(answer.items) == 1 else answer


def _all(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _equation(answer: Answer) -> Relation | None:
    if isinstance(answer, Relation):
        return answer
    if isinstance(answer, Named) and isinstance(answer.value, Value):
        return Relation(("sym", answer.name), "=", answer.value.node)
    return None


def _same_named(gold: Answer, given: Answer) -> bool | None:
    if isinstance(gold, Named) and isinstance(given, Named):
        verdict = same(gold.value, given.value)
        (f, x), (g, z) = (n.name.removesuffix(")").partition("(")[::2] for n in (gold, given))
        if gold.name == given.name or (f == g and not (x and z)) or ({"x", ""} == {x, z} and "y" in (f, g)):
            return verdict  # y(x) = 2x and y = 2x, f(x) = 2x and y = 2x
        if f == g and x.isalpha() and z.isalpha():  # f(t) = t^2 is f(x) = x^2
            return same(gold.value, _with_index(given.value, z, x))
        return _same_equation(gold, given)
    named, other = (gold, given) if isinstance(gold, Named) else (given, gold)
    if not isinstance(named, Named):
        return None
    if isinstance(other, Relation):
        return _same_equation(named, other)
    return same(named.value, other) if named is gold else same(other, named.value)


def _same_equation(gold: Answer, given: Answer) -> bool | None:
    a, b = _equation(gold), _equation(given)
    return same(a, b) if a is not None and b is not None else False


def _same_span(gold: Answer, given: Answer) -> bool | None:
    names = [a.name for a in (gold, given) if isinstance(a, Span)]
    if len(names) == 2 and all(names) and names[0] != names[1]:
        return False
    a, b = region_of(gold), region_of(given)
    if a is None or b is None:
        return False
    return regions.same_region(a, b)


def _same_items(gold: Answer, given: Answer) -> bool | None:
    a, b = (x if isinstance(x, Items) else Items((x,)) for x in (gold, given))
    if any(isinstance(i, Index) for i in (*a.items, *b.items)):
        return _same_indexed(a, b)
    if "m" in (a.brackets[-1:], b.brackets[-1:]):
        return _same_clock(a, b) or _same_clock(b, a)
    if _named(a) or _named(b):
        return _same_assignments(a, b)
    if (a.brackets in ("", "{}")) != (b.brackets in ("", "{}")):
        if (a.brackets, b.brackets) != ("()", "") or len(a.items) != len(b.items):  # a point without its brackets
            return False
        return _all([same(x, y) for x, y in zip(a.items, b.items, strict=True)])
    if a.brackets in ("", "{}"):
        return _same_unordered(a, b)
    if a.brackets == b.brackets == ":":
        return _same_ratio(a, b)
    if a.brackets != b.brackets or len(a.items) != len(b.items):
        return False
    if len(a.items) == 2 and (x := interval(a)) is not None and (y := interval(b)) is not None:
        return regions.same_region(x.region, y.region)
    return _all([same(x, y) for x, y in zip(a.items, b.items, strict=True)])


def _same_indexed(a: Items, b: Items) -> bool | None:
    r"""`k\pi, k \in \mathbb{Z}` against the same with n; one side may leave out what k is."""
    indices = [[i for i in items.items if isinstance(i, Index)] for items in (a, b)]
    a, b = (Items(tuple(i for i in items.items if not isinstance(i, Index)), items.brackets) for items in (a, b))
    if not a.items or not b.items or max(map(len, indices)) > 1:
        return False
    if all(indices):
        (one,), (other,) = indices
        if one.domain != other.domain:
            return False
        b = Items(tuple(_with_index(item, other.name, one.name) for item in b.items), b.brackets)
    return same(a, b)


def _with_index(answer: Answer, name: str, other: str) -> Answer:
    if isinstance(answer, Value):
        return Value(agreement.replaced(answer.node, {("sym", name): ("sym", other)}))
    return Named(answer.name, _with_index(answer.value, name, other)) if isinstance(answer, Named) else answer


def _same_clock(a: Items, b: Items) -> bool:
    """`9:30 a.m.` against the same, and against `9:30`, which reads as a quotient."""
    if a.brackets[-1:] == b.brackets[-1:] == "m":
        halves = {a.brackets, b.brackets}
        return a.items == b.items and (len(halves) == 1 or "m" in halves)
    quotient = b.items[0] if len(b.items) == 1 else None
    if not isinstance(quotient, Value) or quotient.node[0] != "div" or len(a.items) != 2:
        return False
    parts = zip(a.items, quotient.node[1:], strict=True)
    return all(isinstance(x, Value) and agreement.same_value(x.node, y) for x, y in parts)


def _same_ratio(a: Items, b: Items) -> bool | None:
    if len(a.items) != len(b.items):
        return False
    (x, *xs), (y, *ys) = ([v.node for v in items.items if isinstance(v, Value)] for items in (a, b))
    pairs = zip(xs, ys, strict=True)
    return _all([agreement.same_value(("mul", x, q), ("mul", y, p)) for p, q in pairs])


def _same_unordered(a: Items, b: Items) -> bool | None:
    left, open_question = list(b.items), False
    if "{}" in (a.brackets, b.brackets):  # a set does not count how often
        left = _distinct(left)
        a = Items(tuple(_distinct(list(a.items))), a.brackets)
    if len(left) != len(a.items):
        return False
    for item in a.items:
        for i, other in enumerate(left):
            verdict = same(item, other)
            open_question |= verdict is None
            if verdict:
                del left[i]
                break
        else:
            return None if open_question else False
    return True


def _distinct(items: list[Answer]) -> list[Answer]:
    found: list[Answer] = []
    for item in items:
        if not any(same(item, other) for other in found):
            found.append(item)
    return found


def _one_unknown(items: Items, others: Items) -> Items:
    """`x_1 = 2, x_2 = -5` as two values of x, where the other side speaks of x."""
    named = [i for i in items.items if isinstance(i, Named)]
    names = {i.name for i in others.items if isinstance(i, Named)}
    if len(names) != 1 or {i.name.rpartition("_")[0] for i in named} != names or len(named) < len(items.items):
        return items
    (name,) = names
    return Items(tuple(Named(name, i.value) for i in named), items.brackets)


def _named(items: Items) -> bool:
    return any(isinstance(i, Named) for i in items.items)


def _same_assignments(a: Items, b: Items) -> bool | None:
    """`x = 1, y = 2` against the same in any order, or against `(1, 2)` in its own."""
    if len(a.items) != len(b.items):
        return False
    a, b = _one_unknown(a, b), _one_unknown(b, a)
    names = [{i.name for i in items.items if isinstance(i, Named)} for items in (a, b)]
    values = [Items(tuple(i.value if isinstance(i, Named) else i for i in s.items), s.brackets) for s in (a, b)]
    if all(len(n) <= 1 for n in names):  # one unknown, several values
        if len(set().union(*names)) > 1 or "()" in (a.brackets, b.brackets):
            return False
        return _same_items(*values)
    if all(all(isinstance(i, Named) for i in items.items) for items in (a, b)):
        if names[0] != names[1]:
            return False
        left, right = ({i.name: i.value for i in s.items if isinstance(i, Named)} for s in (a, b))
        if len(left) == len(a.items):
            return _all([same(left[name], right[name]) for name in left])
        return _same_unordered(a, b)
    if "{}" in (a.brackets, b.brackets):
        return False
    return _all([same(x, y) for x, y in zip(values[0].items, values[1].items, strict=True)])
