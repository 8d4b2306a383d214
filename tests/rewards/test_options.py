"""Options of rewards are checked before the rewards run."""

from __future__ import annotations

import rlcore.rewards.math  # noqa: F401  registers its rewards
from rlcore.rewards import registry
from rlcore.rewards.options import option_problems


def test_options_of_every_shipped_reward_are_known():
    for name in registry.names():
        assert list(option_problems(name, {}, "options")) == []


def test_wrong_options_and_values_are_named():
    key = "reward.terms.0.options"
    option, value = option_problems("math", {"anser": "boxed", "answer": "boxd"}, key)
    assert (option.key, option.text) == (f"{key}.anser", "unknown option")
    assert option.cure.startswith("did you mean answer? expected one of: ")
    assert (value.key, value.value, value.text) == (f"{key}.answer", "boxd", "unknown value")
    assert value.cure == "did you mean boxed? expected one of: boxed, tagged, hashes, whole, free"
