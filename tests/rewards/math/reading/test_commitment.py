"""One committed answer: hedged answers are not paid, committed ones are, wherever a recipe says the answer is."""

import pytest

from actors.commands import rewards as rewards_cli
from actors.config import compose as validate
from actors.verifying.verifier import VerifierWorker
from rlcore.rewards import registry
from rlcore.rewards.config import MathAnswer, RewardConfig, RewardTermConfig
from rlcore.rewards.math import score
from rlcore.rewards.math.reading import commitment
from rlcore.types import RewardInput, Status
from tests.rewards.corpora import read

STRICT = [place.value for place in MathAnswer if place is not MathAnswer.free]


HEDGED = [*read("math_hedged.txt"), *read("math_hedged_kinds.txt")]


COMMITTED = read("math_committed.txt")


PAID_WHEN_FREE = {  # what prose gets away with: 7 of 421
    "#### 2\nHmm, wait.\n#### 3": "3",
    "Option C. Option D.": "D",
    "The answer is 5; others say 7.": "5",
    "Both 5 and 7 are acceptable.": "7",
    "The answer is 5. The answer might also be 7.": "5",
    "I refuse to say 5.": "5",
    "Yes, or rather no.": r"\text{yes}",
}


def paid(answer, references, place):
    return [gold for gold in references if score(answer, gold, place).score > 0]


def test_the_sets_are_large():
    assert len(HEDGED) == 421
    assert len({p.kind for p in HEDGED}) == 18
    assert len(COMMITTED) >= 110


@pytest.mark.parametrize("place", STRICT)
def test_no_hedged_answer_is_paid_where_the_place_is_marked(place):
    found = [(p.line, p.answer) for p in HEDGED if paid(p.answer, p.reference.split(" ;; "), place)]
    assert found == []


def test_few_hedged_answers_are_paid_in_prose():
    found = {p.answer: paid(p.answer, p.reference.split(" ;; "), "free") for p in HEDGED}
    assert {answer: golds for answer, golds in found.items() if golds} == {a: [g] for a, g in PAID_WHEN_FREE.items()}


def test_committed_answers_are_paid():
    found = [
        (p.line, p.kind) for p in COMMITTED for place in (p.kind, "free") if not paid(p.answer, [p.reference], place)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("5", "5"), ("5 = 7", None), (r"5 \approx 7", None), (r"\frac{1}{3} \approx 0.33", r"\frac{1}{3}"),
        (r"13.6 \approx 14", "13.6"), ("x = 2 = 3", None), ("2 + 2 = 4", "4"),
        (r"9 \equiv 2 \pmod 7", r"9 \equiv 2 \pmod 7"),
        ("x = 1, y = 2", "x = 1, y = 2"), ("x = 1 = 2, y = 2", None), ("y = 2x", "y = 2x"),
        (r"x = \sqrt{2} = 1.41", r"x = \sqrt{2}"), ("1000 = 999", None), (r"1234567 \approx 1230000", None),
        (r"5 \approx 6", None), ("100 cm = 1 m", "1 m"), ("1 kg = 1 m", None), (r"50\% = 0.5", "0.5"),
        ("(1, 2) = (1, 3)", None), (r"\pi = 4", None), (r"0.33 = \frac{1}{3}", r"\frac{1}{3}"),
        (r"0.6 \approx 2/3", None),
        (r"0.66 \approx \frac{2}{3}", None), (r"0.67 \approx \frac{2}{3}", r"\frac{2}{3}"), ("4.4 = 5", None),
    ],
)  # fmt: skip
def test_readings(answer, found):
    assert commitment.readings(answer) == ([] if found is None else [found])


def test_unsettled():
    for sentence in ("It is not 5.", "at least 5", "about 5", "5 or seven", "It is 5 or 7.",
    "It is 5 unless x is 0.", "5 dozen",
                     "between 5 and 9", "Option A is Option B.", "5 is not the answer.",
                     "It is greater than 5."):  # fmt: skip
        assert commitment.unsettled(sentence, "5"), sentence
    for sentence in ("It is 5.", "It is 5, not 7.", "5 more cans", "5 because 7 is not prime", "not 7 but 5", "no 7"):
        assert not commitment.unsettled(sentence, "5"), sentence
    assert not commitment.unsettled("The ratio is about 0.33.", "0.33")


def test_a_missing_mark_is_a_zero_and_no_failure():
    for place in ("boxed", "tagged", "hashes"):
        result = score("The answer is 42.", "42", place)
        assert (result.score, result.status, result.info["extracted"]) == (0.0, Status.OK, None)


def test_training_reads_boxes_unless_the_data_or_the_recipe_says_otherwise(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1", "reference": "2"}\n')
    own = ["data=jsonl", f"data.train={rows}"]
    places = {"": MathAnswer.whole, "data": MathAnswer.boxed, "own": MathAnswer.hashes}
    given = {"": [], "data": own, "own": [*own, "reward.math.answer=hashes"]}
    assert {name: validate.compose(overrides).reward.math.answer for name, overrides in given.items()} == places


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("reward.math.answer=boxd", "did you mean boxed"),
        ("reward.terms=[{name: math, options: {answer: boxd}}]", "reward.terms.0.options.answer"),
        ("reward.terms=[{name: math, options: {anwser: boxed}}]", "did you mean answer"),
        ("reward.terms=[{name: repetition, options: {m: 8}}]", "reward.terms.0.options.m"),
        ("reward.terms=[{name: code, options: {whitspace: lines}}]", "did you mean whitespace"),
    ],
)
def test_typos_in_options_are_errors_at_launch(override, named):
    with pytest.raises(validate.ConfigError) as caught:
        validate.check(validate.compose([override]))
    assert named in str(caught.value)


def test_the_place_reaches_the_verifier_processes(tmp_path):
    response, worker = "The answer is 42.", VerifierWorker()
    terms = [RewardTermConfig(), RewardTermConfig(name="cosine_length", options={"max_length": 9, "unit": "words"})]
    config = RewardConfig(terms=terms)
    try:
        worker.start(config, str(tmp_path))
        items = [worker._item(rewards, RewardInput("p", response, "42")) for rewards in ((), ("math",))]
        assert [r.parts["math"] for r in worker._started().submit(items).result(120)] == [0.0, 0.0]
        assert worker._started().submit(items[:1]).result(60)[0].parts["cosine_length/base"] == 0.0
        boxed = worker._item((), RewardInput("p", r"\boxed{42}", "42"))
        assert worker._started().submit([boxed]).result(60)[0].parts["math"] == 1.0
    finally:
        worker.shutdown()


@pytest.mark.parametrize("value", [float("nan"), None, 42, b"42"])
def test_what_is_no_text_is_an_error(value):
    for response, reference in ((value, "42"), ("42", value)):
        if reference is None:
            continue
        result = registry.call(registry.get("math"), RewardInput("p", response, reference))
        assert result.status is Status.ERROR
        assert "not text" in result.info["error"]
    with pytest.raises(ValueError, match="boxed, tagged, hashes, whole, free"):
        score("42", "42", "boxd")


@pytest.mark.parametrize("reference", ["nan", "NaN", "<NA>", "null"])
def test_a_missing_value_as_text_is_no_reference(reference):
    assert score("nan", reference).status is Status.UNPARSABLE


def test_a_reference_that_is_not_a_number_is_refused_with_its_line(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"response": "1", "reference": 1}\n{"response": "1", "reference": NaN}\n')
    with pytest.raises(registry.RewardError, match=r"line 2: `reference`.*nan"):
        rewards_cli.main(["score", str(rows), "--reward", "math", "--out", str(tmp_path / "out.jsonl")])
