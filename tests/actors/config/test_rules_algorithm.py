"""Algorithms against roles and batch sizes."""

from __future__ import annotations

import pytest

from actors.config.compose import compose
from actors.config.rules import problems
from actors.config.rules_algorithm import algorithm_problems
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
        ("algorithm.anchor=rollout", "algorithm.correction.level", "it would count twice"),
        ("algorithm=grpo_rollout algorithm.correction.level=token", "algorithm.correction.level", "set it to none"),
        ("algorithm=rloo algorithm.anchor=rollout", "algorithm.anchor", "has no ratio"),
        ("algorithm=online_simpo algorithm.anchor=rollout", "algorithm.anchor", "set it to trainer"),
        ("algorithm.loss=ppo_clap", "algorithm.loss", "did you mean 'ppo_clip'"),
        ("algorithm.advantage=gea", "algorithm.advantage", "did you mean 'gae'"),
        ("algorithm.files=[nowhere.py]", "algorithm.advantage", "nowhere.py"),
    ],
)
def test_an_algorithm_that_lacks_something_is_refused(overrides, key, text):
    assert text in refused(*overrides.split())[key]


def of_staleness(*overrides: str) -> dict[str, str]:
    """Errors about sampling that runs ahead."""
    keys = ("trainer.max_staleness", "trainer.publish_every")
    found = [p for p in algorithm_problems(compose(overrides)) if p.key in keys]
    assert not any(p.warning for p in found)
    return {p.key: p.render() for p in found}


@pytest.mark.parametrize(
    ("overrides", "cures"),
    [
        ("algorithm=grpo", ["algorithm.anchor=rollout", "correction.mode=mask", "grpo_rollout", "max_staleness=1"]),
        ("algorithm=grpo algorithm.correction.level=none", ["mode=mask with level=token"]),
        ("algorithm=grpo_icepop algorithm.correction.level=none", ["with level=token"]),
        ("algorithm=cispo", ["algorithm.anchor=rollout", "correction.mode=mask"]),
        ("algorithm=rloo", ["set algorithm.correction.mode=mask"]),
        ("algorithm=mdloo", ["algorithm.anchor=rollout"]),
    ],
)
def test_old_samples_need_an_anchor_or_a_mask(overrides, cures):
    text = of_staleness(*overrides.split(), "trainer.max_staleness=2")["trainer.max_staleness"]
    assert all(cure in text for cure in cures)
    assert not of_staleness(*overrides.split(), "trainer.max_staleness=1")


@pytest.mark.parametrize(
    "overrides",
    [
        "algorithm=grpo_rollout",
        "algorithm=grpo_icepop",
        "algorithm=grpo_decoupled",
        "algorithm=mdloo algorithm.anchor=rollout algorithm.correction.level=none",
        "algorithm=rloo algorithm.correction.mode=mask",
        "algorithm=online_dpo",
        "algorithm.loss=examples/custom_algorithm/my_algorithm.py:anything",  # may do what it likes with its inputs
    ],
)
def test_old_samples_with_a_bound_are_accepted(overrides):
    assert not of_staleness(*overrides.split(), "trainer.max_staleness=4")


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        ("algorithm=xpo trainer.max_staleness=1", "trainer.max_staleness", "set it to 0"),
        ("cluster=gpu1_colocated trainer.max_staleness=1", "trainer.max_staleness", "cluster=gpu1_shared"),
        ("trainer.publish_every=2", "trainer.publish_every", "at most 1, or trainer.max_staleness=1"),
        ("trainer.publish_every=3 trainer.max_staleness=1", "trainer.publish_every", "at most 2"),
        ("trainer.publish_every=2 trainer.max_staleness=1", "trainer.publish_every", None),
        ("cluster=gpu1_shared trainer.max_staleness=1", "trainer.max_staleness", None),
        ("algorithm=xpo", "trainer.max_staleness", None),
    ],
)
def test_what_cannot_run_ahead_is_refused(overrides, key, text):
    found = of_staleness(*overrides.split())
    assert text is None or text in found[key]
    assert text is not None or not found


@pytest.mark.parametrize(("place", "kind"), [("reward", "k1"), ("loss", "k3")])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "mdloo", "reinforce_pp", "ppo"])
def test_the_kl_estimator_follows_the_place(algorithm, place, kind):
    config = compose([f"algorithm={algorithm}", "algorithm.kl_coef=0.05", f"algorithm.kl_in={place}"])
    assert config.algorithm.kl_estimator == kind


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.parts[0] == "algorithm"], ids=str)
def test_no_preset_sets_a_key_that_its_loss_or_advantage_ignores(preset):
    config = compose([f"algorithm={preset.name}", "cluster=laptop_critic"])
    assert [p.render() for p in problems(config) if "not used by algorithm" in p.text] == []
