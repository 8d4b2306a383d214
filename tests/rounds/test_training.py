"""Training of the policy on records."""

from __future__ import annotations

import pytest

from rlcore.rounds.stages.pairs import PairsConfig
from rlcore.rounds.stages.preference import PreferenceStageConfig
from rlcore.rounds.stages.reward_model import RewardModelStageConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.rounds.training import token_ids
from tests.fakes import FakeTokenizer
from tests.rounds.stages.cases import NOTHING, SAMPLE
from tests.rounds.world import Stand, train


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("sft", SftConfig(data=["nothing"], train=train())),
        ("dpo", PreferenceStageConfig(data=["annotate"], train=train())),
        ("kto", PreferenceStageConfig(data=["nothing"], loss="kto", train=train())),
        ("reward", RewardModelStageConfig(data=["annotate"])),
    ],
)
def test_nothing_to_train_on_is_said_by_name(tmp_path, stage, config):
    stages = {"sample": SAMPLE, "nothing": NOTHING, "annotate": PairsConfig(samples=["nothing"]), stage: config}
    with pytest.raises(ValueError, match=f"{stage}: there is no data to train on"):
        Stand(tmp_path, stages).run()


def test_an_ignored_text_of_two_tokens():
    assert token_ids(FakeTokenizer(), ["3", "!"]) == [3, 10]
    with pytest.raises(ValueError, match=r"train\.ignore_tokens: '12' is 2 tokens, not one"):
        token_ids(FakeTokenizer(), ["1", "12"])
