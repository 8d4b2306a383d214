"""Preference optimisation as a stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore.rewards.config import RewardConfig
from rlcore.rounds.stages.preference import strangers
from rlcore.types import RewardResult, Status
from tests.fakes import read_model
from tests.rounds.stages.cases import chance_of_answer, preferring
from tests.rounds.world import Stand


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("dpo", {}), ("cdpo", {"label_smoothing": 0.1}), ("robust", {"label_smoothing": 0.1}), ("ipo", {}),
        ("hinge", {}), ("simpo", {"beta": 2.0, "gamma": 0.5}), ("rpo_sq", {"eta": 1.0}),
        ("rpo_fwd_kl", {"eta": 2.0}), ("rpo_bwd_kl", {"eta": 2.0}), ("sppo", {}), ("kto", {"beta": 0.5}),
    ],
)  # fmt: skip
def test_every_loss_prefers_what_was_chosen(tmp_path, loss, more):
    stand = Stand(tmp_path, preferring(loss=loss, **more))
    made = stand.run()
    before, after = read_model(stand.start_model()), read_model(made[1, "tune"].path)
    gaps = []
    for row in made[1, "annotate"].table().to_pylist():
        prompt, good, bad = (row[name][0] for name in ("prompt_ids", "chosen_response_ids", "rejected_response_ids"))
        gaps.append(float((after - before)[prompt, good] - (after - before)[prompt, bad]))
    assert np.mean(gaps) > 0
    assert min(gaps) > -1e-6
    report = made[1, "tune"].report
    assert report["samples" if loss == "kto" else "pairs"] == len(gaps) * (2 if loss == "kto" else 1)
    if loss == "kto":
        assert report["desirable"] == len(gaps)


def test_simpo_needs_no_reference(tmp_path):
    stand = Stand(tmp_path, preferring(loss="simpo"))
    stand.run()
    assert "tune: reference" not in stand.live.world.tracker.phases


def test_the_reference_is_another_model_when_named(tmp_path):
    one = Stand(tmp_path / "a", preferring()).run()[1, "tune"]
    stand = Stand(tmp_path / "b", preferring(reference="other"))
    made = stand.run()
    assert made[1, "tune"].hash != one.hash
    assert [path.name for path in stand.live.world.policy.loaded] == ["other", "start"]
    assert {p.field for p in made[1, "tune"].parents} == {"data", "start", "reference"}


def test_sft_added_to_a_preference(tmp_path):
    """Pure preference moves both down as it likes; with the likelihood added the chosen response gains more."""
    gain = []
    for i, coef in enumerate((0.0, 5.0)):
        stand = Stand(tmp_path / str(i), preferring(sft_coef=coef))
        gain.append(chance_of_answer(stand.run()[1, "tune"]) - chance_of_answer_of(stand.start_model()))
    assert gain[1] > gain[0] + 0.05


def chance_of_answer_of(folder):
    return float(torch.softmax(read_model(folder), -1)[torch.arange(10), torch.arange(10)].mean())


def test_kto_on_scored_samples(tmp_path):
    stages = preferring(loss="kto", beta=0.5) | {}
    stages["tune"] = replace(stages["tune"], data=["sample"])
    del stages["annotate"]
    stand = Stand(tmp_path, stages)
    made = stand.run()
    assert made[1, "tune"].report["samples"] == 120
    assert made[1, "tune"].report["actor/kto_kl"] >= 0
    assert chance_of_answer(made[1, "tune"]) > chance_of_answer_of(stand.start_model())


def test_the_reference_point_of_kto_is_taken_across_prompts(tmp_path):
    """Samples of a prompt stand beside each other; the row behind one is no response to another prompt."""
    stages = preferring(loss="kto", beta=0.5)
    stages["tune"] = replace(stages["tune"], data=["sample"])
    del stages["annotate"]
    stages["sample"].num_samples = 4
    stand, asked = Stand(tmp_path, stages), []
    actors = stand.actors

    def noted(start):
        live = actors(start)
        own = live.world.policy.logprobs
        live.world.policy.logprobs = lambda batch, temperature=None: asked.append(batch) or own(batch, temperature)
        return live

    stand.actors = noted
    stand.run()
    # prompt i is the token i, and its samples' ids begin with it
    own = [
        [name[1] == str(first) for name, first in zip(batch.sample_ids, batch.tokens[batch.offsets[:-1]], strict=True)]
        for batch in asked
    ]
    assert len(own) == 1 + 2 + 6  # what the engines said, the reference of both, then one a step
    assert all(own[0] + own[1])
    assert not any(same for rows in own[2:] for same in rows)


def test_kto_counts_what_has_no_score(tmp_path):
    """The reward of odd prompts fails: their samples are neither good nor bad."""
    stages = preferring(loss="kto", beta=0.5)
    stages["tune"] = replace(stages["tune"], data=["sample"])
    del stages["annotate"]

    def judge(group, trajectory):
        odd = int(group.prompt.text) % 2
        return RewardResult(0.0, Status.ERROR if odd else Status.OK)

    stand = Stand(tmp_path, stages, judge=judge, reward=RewardConfig(max_failed_share=1.0))
    report = stand.run()[1, "tune"].report
    assert (report["samples"], report["dropped_unscored"]) == (60, 60)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_a_response_of_another_prompt_for_each_row(counts, seed):
    uids = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    partners = strangers([f"p{i}" for i in uids])
    assert sorted(partners.tolist()) == list(range(len(uids)))  # each response once
    own = int((uids[partners] == uids).sum())
    assert own == max(0, 2 * max(counts) - len(uids))  # more than half are one prompt's: it has not enough others


def test_metadata_of_pairs_survives_as_kto_samples(tmp_path):
    from rlcore.rounds.stages.preference import labelled

    class Given:
        def __init__(self, table):
            self._table = table

        def table(self):
            return self._table

    class StageContext:
        inputs = None

    made = Stand(tmp_path, preferring()).run()
    pairs = made[1, "annotate"].table()
    context = StageContext()
    context.inputs = {"data": [Given(pairs), Given(made[1, "sample"].table())]}
    found, dropped = labelled(context)
    assert dropped == 0
    assert found.num_rows == 2 * pairs.num_rows + 120
    head = found.slice(0, pairs.num_rows)
    assert set(head["score"].to_pylist()) == {1.0}
    assert head["response"].equals(pairs["chosen_response"])
    assert isinstance(found, pa.Table)
