"""Stages that train: sft, preference, reward_model, rl, average; and what the actors hold between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlcore.algorithms.reward_config import RewardLoss
from rlcore.data import tables
from rlcore.data.selection.pairing import PairingConfig
from rlcore.loops.config import OfflineTrainConfig, Schedule
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.stages.average import AverageConfig
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig, strangers
from rlcore.rounds.stages.reward_model import RewardModelStageConfig, is_held_out
from rlcore.rounds.stages.rl import RlConfig
from rlcore.rounds.stages.sft import SftConfig, mixed
from rlcore.rounds.training import token_ids
from rlcore.types import Prompt, RewardResult, Sample, Status
from tests.fakes import FakeTokenizer, read_model
from tests.rounds.world import Killed, Stand, train


def updates(stand):
    return [event for event in stand.log if event[0] in ("update", "fit")]


def chance_of_answer(artefact):
    """Mean chance of the right digit."""
    return float(torch.softmax(read_model(artefact.path), -1)[torch.arange(10), torch.arange(10)].mean())


# ---- sft


def test_it_learns_its_data_from_its_start(tmp_path):
    stages = {"sft": SftConfig(data=["answers"], train=train(20, peak=2.0)), "from_other": SftConfig(
        data=["answers"], start="other", train=train(1, peak=1e-6),
    )}  # fmt: skip
    stand = Stand(tmp_path, stages)
    made = stand.run()
    assert chance_of_answer(made[1, "sft"]) > 0.5
    near = read_model(made[1, "from_other"].path) - read_model(stand.start_model("other"))
    assert 0 < float(near.abs().max()) < 1e-4
    assert made[1, "sft"].report["sequences"] == 10
    assert made[1, "sft"].report["steps"] == 20
    assert stand.live.num_loads == 1


def test_epochs_see_every_row_as_often(tmp_path):
    config = OfflineTrainConfig(epochs=3, per_step=4, learning_rate=train().learning_rate)
    stand = Stand(tmp_path, {"sft": SftConfig(data=["answers"], train=config)})
    stand.run()
    assert len(updates(stand)) == 3 * 3
    for epoch in range(3):
        ids = [name for _, _, names, _ in updates(stand)[3 * epoch : 3 * epoch + 3] for name in names]
        assert sorted(ids) == sorted(f"p{i}#reference" for i in range(10))


def test_ignored_tokens_are_not_learnt(tmp_path):
    """With 3 ignored, what is said to prompt 3 stays as it was; the others learn."""
    plain, without = (
        Stand(tmp_path / str(i), {"sft": SftConfig(data=["answers"], train=train(8, ignore_tokens=tokens))})
        for i, tokens in enumerate(([], ["3"]))
    )
    start = read_model(without.start_model())
    learnt, held = (read_model(stand.run()[1, "sft"].path) for stand in (plain, without))
    assert torch.equal(held[3], start[3])
    assert not torch.equal(learnt[3], start[3])
    assert all(not torch.equal(held[i], start[i]) for i in range(10) if i != 3)


def test_an_ignored_text_of_two_tokens():
    assert token_ids(FakeTokenizer(), ["3", "!"]) == [3, 10]
    with pytest.raises(ValueError, match=r"train\.ignore_tokens: '12' is 2 tokens, not one"):
        token_ids(FakeTokenizer(), ["1", "12"])


def samples(name, count):
    return tables.from_samples(Sample(Prompt(f"{name}{i}", (1,), ""), f"{name}{i}", "", (1,)) for i in range(count))


@pytest.mark.parametrize(
    ("sizes", "weights", "wanted"),
    [
        ((10, 30), (1, 1), (20, 20)),
        ((10, 30), (3, 1), (30, 10)),
        ((10, 30), (0, 1), (0, 40)),
        ((1, 2, 4), (1, 1, 1), (3, 2, 2)),
        ((0, 8), (0, 2), (0, 8)),
    ],
)
def test_mixing_by_weight(sizes, weights, wanted):
    parts = [samples("abc"[i], size) for i, size in enumerate(sizes)]
    ids = mixed(parts, list(weights), seed=5)["sample_id"].to_pylist()
    assert tuple(sum(name[0] == letter for name in ids) for letter in "abc"[: len(sizes)]) == wanted
    for letter, size in zip("abc", sizes, strict=False):
        often = [ids.count(f"{letter}{i}") for i in range(size)]
        assert not often or max(often) - min(often) <= 1  # all are used up before one comes again


def test_mixing_without_weights_and_with_an_empty_part():
    assert mixed([samples("a", 2), samples("b", 3)], [], 0)["sample_id"].to_pylist() == ["a0", "a1", "b0", "b1", "b2"]
    with pytest.raises(ValueError, match=r"entry 1 of `data` has weight 2\.0 and no rows"):
        mixed([samples("a", 2), samples("b", 0)], [1.0, 2.0], 0)


def test_an_entry_shares_its_weight_among_the_rounds_it_leads_to(tmp_path):
    """`sample@all` is two artefacts in round 2: half of the rows together, a quarter each."""
    stages = {
        "sample": GenerateConfig(num_samples=2),
        "sft": SftConfig(
            rounds=[2], data=["sample@all", "answers"], weights=[1.0, 1.0], train=OfflineTrainConfig(per_step=1)
        ),
    }
    stand = Stand(tmp_path, stages, count=2)
    made = stand.run()
    ids = [event[2][0] for event in updates(stand)]
    assert len(ids) == made[2, "sft"].report["sequences"] == 50
    assert sum(name.endswith("#reference") for name in ids) == 25


# ---- preference


def preferring(**more):
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "tune": PreferenceStageConfig(data=["annotate"], train=train(6, per_step=16), **more),
    }


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
    own = [[name[1] == str(batch.tokens[i, 0]) for i, name in enumerate(batch.sample_ids)] for batch in asked]
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


def test_the_reference_is_computed_once(tmp_path, monkeypatch):
    """A restart reads it from the draft."""
    stand = Stand(tmp_path, preferring())
    left = 3

    def at(place):
        nonlocal left
        left -= place == "update"
        if not left:
            left = -1
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    asked = []
    actors = stand.actors

    def counted(start):
        live = actors(start)
        own = live.world.policy.logprobs
        live.world.policy.logprobs = lambda batch, temperature=None: asked.append(len(batch)) or own(batch, temperature)
        return live

    stand.actors = counted
    stand.run()
    assert not asked
    assert [event[0] for event in stand.log].count("update") == 6
    assert Stand(tmp_path / "whole", preferring()).run()[1, "tune"].hash == stand.artefacts_of("tune")


# ---- reward models


def labelled_world(**changes):
    config = RewardModelStageConfig(data=["annotate"], held_out=0.4)
    config.training = replace(config.training, epochs=10, pairs_per_step=16, learning_rate=1.0, **changes)
    return {
        "sample": GenerateConfig(num_samples=12),
        "annotate": PairsConfig(samples=["sample"], pairing=PairingConfig(pairs_per_prompt=None)),
        "reward": config,
    }


@pytest.mark.parametrize("changes", [{}, {"loss": RewardLoss.soft_label}, {"smoothing_beta": 0.5}])
def test_pairs_held_out_by_prompt(tmp_path, changes):
    stand = Stand(tmp_path, labelled_world(**changes))
    made = stand.run()
    report = made[1, "reward"].report
    held = {row["uid"] for row in made[1, "annotate"].table().to_pylist() if is_held_out(row["uid"], 0.4)}
    assert held
    seen = {name.partition("#")[0] for _, names, _ in updates(stand) for name in names}
    assert not seen & held
    assert report["trained_on"] + report["held_out"]["records"] == made[1, "annotate"].num_rows
    assert report["reward_model/accuracy"] == 1.0


def test_rows_without_a_label_are_counted_and_teach_nothing(tmp_path):
    """Two rows a step: with them in, some steps would have no label at all."""
    config = RewardModelStageConfig(data=["sample"], held_out=0.0)
    config.training = replace(
        config.training, loss=RewardLoss.regression, attributes=["help"], epochs=1, pairs_per_step=2, learning_rate=0.1
    )
    judge = lambda group, t: RewardResult(1.0, parts={"help": 1.0} if group.prompt.uid < "p3" else {})  # noqa: E731
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_samples=4), "reward": config}, judge=judge)
    report = stand.run()[1, "reward"].report
    assert (report["unlabelled"], report["trained_on"]) == (28, 12)
    assert {name.partition("#")[0] for _, names, _ in updates(stand) for name in names} == {"p0", "p1", "p2"}
    config.training = replace(config.training, attributes=["depth"])
    with pytest.raises(ValueError, match="none of 40 samples has a label of depth"):
        stand.run()


def test_the_share_that_is_held_out():
    share = np.mean([is_held_out(f"prompt-{i}", 0.1) for i in range(5000)])
    assert 0.08 < share < 0.12
    assert not any(is_held_out(f"{i}", 0.0) for i in range(100))


def test_rewards_are_normalised_over_the_training_responses(tmp_path):
    stages = labelled_world()
    stages["reward"].held_out = 0.0
    stand = Stand(tmp_path, stages)
    made = stand.run()
    pairs = tables.to_pairs(made[1, "annotate"].table())
    from rlcore.data.batching.reward import reward_batch_pairs

    rewards = stand.live.world.reward_model.rewards(reward_batch_pairs(pairs))
    assert np.mean(rewards) == pytest.approx(0, abs=1e-4)
    assert np.std(rewards) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_reward_model_that_was_killed_goes_on(tmp_path, beta):
    """Smoothed labels are part of its state."""
    stages = labelled_world(smoothing_beta=beta)
    stages["reward"].checkpoint_every = 3
    wanted = Stand(tmp_path / "whole", stages).run()[1, "reward"].hash
    stand, left = Stand(tmp_path / "killed", stages), 8

    def at(place):
        nonlocal left
        left -= place == "update"
        if left == 0:
            left = -1
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    assert stand.run()[1, "reward"].hash == wanted


def test_the_rate_of_a_reward_model_follows_its_schedule(tmp_path):
    stages = labelled_world(warmup_steps=2)
    stages["reward"].schedule = Schedule.linear
    stand = Stand(tmp_path, stages)
    stand.run()
    rates = [event[2] for event in stand.log if event[0] == "fit"]
    assert rates[:2] == [0.5, 1.0]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def test_responses_too_long_are_left_out_and_counted(tmp_path):
    stages = labelled_world(max_tokens=2)
    with pytest.raises(ValueError, match="reward: there is nothing to train on"):
        Stand(tmp_path, stages).run()


# ---- rl, average


def test_rl_from_its_start_on_its_prompts(tmp_path):
    stages = {
        "sft": SftConfig(data=["answers"], train=train(4)),
        "rl": RlConfig(start="sft", overrides=["trainer.steps=40"]),
        "before": EvaluateConfig(model="sft", num_samples=8, temperature=1.0),
        "after": EvaluateConfig(model="rl", num_samples=8, temperature=1.0),
    }
    stand = Stand(tmp_path, stages)
    made = stand.run()
    assert made[1, "after"].report["accuracy"] > made[1, "before"].report["accuracy"] + 0.1
    assert made[1, "rl"].report["steps"] == 40
    assert stand.live.world.policy.loaded[0].parent.name.startswith("r01-sft")  # `before` ran last
    assert len(list((tmp_path / "artefacts").glob("r01-rl-*/work"))) == 0


def test_an_average_and_its_weights(tmp_path):
    stages = {
        "even": AverageConfig(models=["start", "other"]),
        "mostly": AverageConfig(models=["start", "other"], weights=[3.0, 1.0]),
    }
    stand = Stand(tmp_path, stages)
    made = stand.run()
    start, other = (read_model(stand.start_model(name)) for name in ("start", "other"))
    torch.testing.assert_close(read_model(made[1, "even"].path), (start + other) / 2)
    torch.testing.assert_close(read_model(made[1, "mostly"].path), 0.75 * start + 0.25 * other)


def test_the_average_of_all_rounds_shares_an_entrys_weight(tmp_path):
    stages = {
        "sft": SftConfig(data=["answers"], train=train(2)),
        "mean": AverageConfig(rounds=[2], models=["sft@all", "start"], weights=[1.0, 1.0]),
    }
    stand = Stand(tmp_path, stages, count=2)
    made = stand.run()
    first, second = (read_model(made[n, "sft"].path) for n in (1, 2))
    wanted = (first + second) / 4 + read_model(stand.start_model()) / 2
    torch.testing.assert_close(read_model(made[2, "mean"].path), wanted)


# ---- what the actors hold


def chain():
    return {
        "one": SftConfig(data=["answers"], train=train(3)),
        "two": SftConfig(data=["answers"], start="one", train=train(3)),
        "look": EvaluateConfig(model="two"),
    }


def test_weights_stay_where_they_are_between_stages(tmp_path):
    stand = Stand(tmp_path, chain())
    stand.run()
    assert stand.live.num_loads == 0
    assert not stand.live.world.policy.loaded
    assert stand.live.world.policy.resets == 1  # before `two`: what `one` taught its optimizer is forgotten


def test_where_weights_are_rounded_for_export_they_are_loaded_again(tmp_path):
    """bfloat16 or adapters: the policy goes on from what is on disk, as after a restart."""
    stand = Stand(tmp_path, chain(), exact=False)
    stand.run()
    assert [path.parent.name[:7] for path in stand.live.world.policy.loaded] == ["r01-one"]
    assert stand.live.world.policy.resets == 0


def test_a_stage_that_fails_leaves_nobody_believing_in_its_weights(tmp_path):
    stand = Stand(tmp_path, chain())
    left = 5

    def at(place):
        nonlocal left
        left -= place == "update"
        if not left:
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    assert stand.live.policy_weights == ""


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
