"""Critique, revision, and what comes of answers that are none."""

from __future__ import annotations

from collections import Counter

import pytest

from rlcore.data.rewriting.constitution import (
    REASONS,
    ConstitutionConfig,
    PrincipleConfig,
    critique_requests,
    principle_of,
    revised,
    revision_requests,
)
from rlcore.types import Prompt, RewardResult, Sample


def sample(number: int, text: str, prompt_text: str = "Tell {response} of", **metadata) -> Sample:
    prompt = Prompt(f"p{number}", (1, 2), prompt_text, reference="r", metadata=metadata)
    return Sample(prompt, f"p{number}#0", text, (5, 1), model="old", reward=RewardResult(0.5))


def encode(text: str) -> list[int]:
    return [*map(ord, text), 0]


def test_both_steps():
    config = ConstitutionConfig()
    samples = [sample(0, "use {critique}"), sample(1, "b"), sample(2, "c"), sample(3, "d")]
    critiques = critique_requests(samples, config, "fix", 0)
    assert [c.sample_id for c in critiques] == [f"p{i}#0~fix" for i in range(4)]
    for request, one in zip(critiques, samples, strict=True):
        assert request.principle == principle_of(one.prompt.uid, config, 0)
        assert request.principle.critique in request.text
        assert one.text in request.text
        assert "Tell {response} of" in request.text
    revisions, counts = revision_requests(critiques, ["Critique: too {prompt}", "bare", " ", "Critique: x"], config)
    assert counts == {"requests": 4, "critiques": 3, "dropped_unparsed": 0, "dropped_empty": 1}
    assert [r.sample.text for r in revisions] == ["use {critique}", "b", "d"]
    assert "Critique:\ntoo {prompt}\n" in revisions[0].text
    assert revisions[0].principle.revision in revisions[0].text
    made, counts = revised(revisions, ["Revision: better", " b ", "Revision:"], config, encode, "new")
    assert counts["requests"] == 3 == counts["revised"] + sum(counts[f"dropped_{reason}"] for reason in REASONS)
    assert (counts["dropped_unchanged"], counts["dropped_empty"]) == (1, 1)
    assert counts[f"principle_{revisions[0].principle.name}"] == 1
    assert sum(n for name, n in counts.items() if name.startswith("principle_")) == 1
    assert made == [Sample(samples[0].prompt, "p0#0~fix", "better", (*map(ord, "better"), 0), model="new")]


def test_marks_may_be_demanded():
    config = ConstitutionConfig()
    config.critique_answer.must_mark = config.revision_answer.must_mark = True
    critiques = critique_requests([sample(0, "a"), sample(1, "b")], config, "fix", 0)
    revisions, counts = revision_requests(critiques, ["bare", "Critique: x"], config)
    assert counts["dropped_unparsed"] == 1
    assert revised(revisions, ["bare"], config, encode, "m")[1]["dropped_unparsed"] == 1


def test_revision_without_critique():
    config = ConstitutionConfig(critique=False, revision_template="{prompt}|{response}|{principle}")
    (request,) = critique_requests([sample(0, "a")], config, "fix", 0)
    assert request.text == f"Tell {{response}} of|a|{request.principle.revision}"
    assert revised([request], ["Revision: b"], config, encode, "m")[0][0].text == "b"


def test_what_the_model_is_shown_as_request():
    config = ConstitutionConfig()
    one = sample(0, "a", "<user>ask<model>", raw_prompt="ask")
    shown = critique_requests([one], config, "fix", 0)
    revisions, _ = revision_requests(shown, ["Critique: x"], config)
    assert "Request:\nask\n" in shown[0].text
    assert "Request:\nask\n" in revisions[0].text


def test_principles_are_drawn_evenly():
    config = ConstitutionConfig()
    drawn = Counter(principle_of(f"p{i}", config, 0).name for i in range(1000))
    assert len(drawn) == 5
    assert min(drawn.values()) > 150  # 200 expected, deviation 13
    assert len({principle_of("p", config, seed).name for seed in range(40)}) == 5


def test_bad_input_is_named():
    config = ConstitutionConfig(
        principles=[PrincipleConfig("a", "x", "y"), PrincipleConfig("a", "x", "y"), PrincipleConfig("b")],
        critique_template="{prompt} {critique}",
        revision_template="{prompt} {response} {principle}",
    )
    with pytest.raises(ValueError, match=r"rewriting\.") as told:
        critique_requests([], config, "fix", 0)
    for part in (
        "constitution.principles.2=b: incomplete, it needs a name, a critique and a revision",
        "2 have this name",
        "constitution.critique_template={prompt} {critique}: lacks {response}",
        "{critique} has no value there",
        "constitution.revision_template={prompt} {response} {principle}: lacks {critique}",
    ):
        assert part in str(told.value)
    good = ConstitutionConfig()
    with pytest.raises(ValueError, match="1 sample ids occur twice, as 'p0#0'"):
        critique_requests([sample(0, "a"), sample(0, "b")], good, "fix", 0)
    with pytest.raises(ValueError, match="1 requests and 0 answers"):
        revision_requests(critique_requests([sample(0, "a")], good, "fix", 0), [], good)
