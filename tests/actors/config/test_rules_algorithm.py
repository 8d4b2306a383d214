"""Algorithms against roles and batch sizes."""

from __future__ import annotations

import pytest

from actors.config.compose import compose
from actors.config.rules import problems
from tests.actors.config.cases import PRESETS, refused


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ("algorithm=ppo cluster=laptop_reference", "cluster.roles.critic.num_workers", "cluster=laptop_critic"),
        ("algorithm=ppo cluster.roles.critic.num_workers=1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm=online_dpo", "cluster.roles.reference.num_workers", "set it to 1"),
        ("algorithm=online_simpo trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "sample at least 2"),
        ("algorithm=nash_md cluster=laptop_reference trainer.samples_per_prompt=1", "trainer.samples_per_prompt", "2"),
        ("algorithm=xpo cluster=laptop_reference trainer.samples_per_prompt=7", "trainer.samples_per_prompt", "even"),
        ("algorithm.kl_coef=0.1", "algorithm.kl_coef", "reference.num_workers=1"),
        ("algorithm=xpo cluster=laptop_reference algorithm.refill_rounds=1", "algorithm.refill_rounds", "set it to 0"),
        ("algorithm=online_simpo algorithm.filters.truncated=true", "algorithm.filters.truncated", "whole groups"),
        ("algorithm.kl_target=6", "algorithm.kl_target", "kl_in=reward"),
        *(
            (
                f"{algorithm} algorithm.kl_coef=.05 algorithm.kl_kind={kind} algorithm.kl_in={place}",
                "algorithm.kl_kind",
                f"kl_kind=auto ({auto} for kl_in={place})",
            )
            for algorithm in ("algorithm=rloo cluster=laptop_reference", "algorithm=ppo cluster=laptop_critic")
            for kind, place, auto in (("k1", "loss", "k3"), ("k2", "reward", "k1"), ("k3", "reward", "k1"))
        ),
        ("algorithm.loss=ppo_clap", "algorithm.loss", "did you mean 'ppo_clip'"),
        ("algorithm.advantage=gea", "algorithm.advantage", "did you mean 'gae'"),
        ("algorithm.files=[nowhere.py]", "algorithm.advantage", "nowhere.py"),
    ],
)
def test_an_algorithm_that_lacks_something_is_refused(overrides, key, text):
    assert text in refused(*overrides.split())[key]


@pytest.mark.parametrize(("place", "kind"), [("reward", "k1"), ("loss", "k3")])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "mdloo", "reinforce_pp", "ppo"])
def test_the_kl_estimator_follows_the_place(algorithm, place, kind):
    config = compose([f"algorithm={algorithm}", "algorithm.kl_coef=0.05", f"algorithm.kl_in={place}"])
    assert config.algorithm.kl_estimator == kind


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.parts[0] == "algorithm"], ids=str)
def test_no_preset_sets_a_key_that_its_loss_or_advantage_ignores(preset):
    config = compose([f"algorithm={preset.name}", "cluster=laptop_critic"])
    assert [p.render() for p in problems(config) if "not used by algorithm" in p.text] == []
