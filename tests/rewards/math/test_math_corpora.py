"""The math verifier against whole corpora: equal and unequal answers of every kind, completions, hostile answers."""

from dataclasses import replace

import pytest

from rlcore.rewards.composition import Item, Term
from rlcore.rewards.math import score
from rlcore.rewards.pool import VerifierPool
from rlcore.types import RewardInput, Status
from tests.rewards.corpora import Pair, completions, hostile, known_failures, pairs, read

SETS = ("more", "blind", "blind_second", "blind_third", "blind_fourth")
PAIRS = (*SETS, "blind_fifth", "blind_sixth", "blind_seventh")
COMPLETIONS = (*SETS, "blind_fifth", "blind_sixth", "blind_seventh", "blind_eighth", "blind_ninth")
ALL = [*pairs(), *(pair for name in PAIRS for pair in read(f"math_pairs_{name}.txt"))]
WRAPPERS = {
    "boxed": r"Therefore we get $\boxed{ANSWER}$, as was to be shown.",
    "bare": "ANSWER",
    "stated": "Let me think. 17 is too small.\nTherefore, the answer is ANSWER",
    "tagged": "<think>perhaps 12345?</think><answer>ANSWER</answer>",
}
MATH = (Term("math"),)
TIMEOUT_S = 2.0


def check(name: str, cases: list[tuple[Pair, str]]) -> None:
    """Every verdict is right, except for those that `math_known_failures.txt` names, which are wrong indeed."""
    found = {}
    for pair, response in cases:
        result = score(response, pair.reference, problem=pair.problem)
        if result.status is not Status.OK or (result.score == 1.0) != pair.equal:
            found[pair.reference, response] = f"line {pair.line}: {pair.reference!r} and {response!r} gave {result}"
    known = known_failures(name) & {(pair.reference, response) for pair, response in cases}
    assert [text for case, text in found.items() if case not in known] == []
    assert known - set(found) == set(), "no longer wrong: take the line out of math_known_failures.txt"


def test_the_corpora_are_large_and_balanced():
    equal = sum(p.equal for p in ALL)
    assert len(ALL) >= 2800
    assert 0.35 < 1 - equal / len(ALL) < 0.65 or (len(ALL) - equal) >= 300
    kinds = {p.kind for p in pairs()}
    for kind in kinds:
        of_kind = [p for p in pairs() if p.kind == kind]
        assert sum(not p.equal for p in of_kind) >= 4, kind
        assert sum(p.equal for p in of_kind) >= 8, kind
    assert len(kinds) >= 19
    assert len({(p.reference, p.answer) for p in pairs()}) == len(pairs())
    assert len(hostile()) >= 185


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pairs(wrapper):
    cases = [(p, WRAPPERS[wrapper].replace("ANSWER", p.answer)) for p in ALL]
    if wrapper in ("stated", "tagged"):  # a full stop of "C." is then one of the sentence
        cases = [(p, text) for p, text in cases if "\n" not in p.answer]
    check(wrapper, cases)


@pytest.mark.parametrize("form", [r"\boxed{GOLD}", "$GOLD$", r"\(GOLD\)", "It follows.\n#### GOLD"])
def test_references_in_the_forms_of_data_sets(form):
    cases = [
        (replace(p, reference=form.replace("GOLD", p.reference)), rf"\boxed{{{p.answer}}}")
        for p in ALL
        if not ("$" in form and "$" in p.reference)
    ]
    check("references", cases)


def test_every_reference_equals_itself():
    for p in ALL:
        assert score(rf"\boxed{{{p.reference}}}", p.reference).score == 1.0, p
        if p.answer != "-(2,5]":  # no answer to anything, so no reference either
            assert score(rf"\boxed{{{p.answer}}}", p.answer).score == 1.0, p


def test_equality_has_two_directions():
    swapped = [
        (replace(p, reference=p.answer, problem="What percentage?"), rf"\boxed{{{p.reference}}}")
        for p in ALL
        if p.reference not in ("2516_8", "c") and p.answer != "c"  # an answer, not a reference, may leave out its base
    ]
    check("swapped", swapped)


def test_completions():
    every = [*completions(), *(p for name in COMPLETIONS for p in read(f"math_completions_{name}.txt"))]
    assert len(every) >= 1140
    check("completions", [(p, p.answer) for p in every])


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty")
    with VerifierPool(num_processes=1, timeout_s=TIMEOUT_S, memory_limit_mb=1024, cwd=str(folder)) as shared:
        shared.submit([Item(MATH, RewardInput("p", r"\boxed{\int_0^1 x dx}", r"\sqrt{5}"))]).result(120)
        yield shared, folder


@pytest.mark.parametrize(
    "wrapper",
    [r"\boxed{ANSWER}", *(pytest.param(w, marks=pytest.mark.slow) for w in ("The answer is $ANSWER$.", "ANSWER"))],
)
def test_hostile_answers_neither_hang_nor_win_nor_run(pool, wrapper):
    shared, folder = pool
    items = [Item(MATH, RewardInput("p", wrapper.replace("ANSWER", a), r"\sqrt{5}")) for a in hostile()]
    results = shared.submit(items).result(300)
    for answer, result in zip(hostile(), results, strict=True):
        assert result.score == 0.0, (answer[:80], result)
    assert sum(r.status is not Status.OK for r in results) <= 10  # nearly all are refused, not killed
    assert not list(folder.iterdir())
    assert shared.submit([Item(MATH, RewardInput("p", r"\boxed{\sqrt{5}}", r"5^{1/2}"))]).result(60)[0].score == 1.0


@pytest.mark.parametrize("answer", [a for a in hostile() if len(a) < 400], ids=lambda a: a[:30])
def test_hostile_references_are_judged_too(pool, answer):
    shared, folder = pool
    shared.submit([Item(MATH, RewardInput("p", r"\boxed{7^2}", answer))]).result(60)
    assert not list(folder.iterdir())
