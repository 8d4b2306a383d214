"""Supervised fine-tuning as a stage."""

from __future__ import annotations

import pytest
import torch

from rlcore.loops.config import OfflineTrainConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.sft import SftConfig, mixed
from tests.fakes import read_model
from tests.rounds.stages.cases import chance_of_answer, samples, updates
from tests.rounds.world import Stand, train


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
