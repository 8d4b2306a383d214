"""Names of settings in other trainers."""

from __future__ import annotations

import pytest

from actors.config import keys
from actors.config.compose import ConfigError, compose
from actors.config.schema import Config


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trainer.batch_size=8", "trainer.prompts_per_step"),
        ("lr=1e-5", "trainer.learning_rate.peak"),
        ("num_generations=4", "trainer.samples_per_prompt"),
        ("actor_rollout_ref.rollout.n=4", "trainer.samples_per_prompt"),
        ("trainer.learning_rate=1e-5", "trainer.learning_rate.peak=1e-5"),
        ("trainer.critic_learning_rate=1e-5", "trainer.critic_learning_rate.peak=1e-5"),
        ("model=qwen", "model=hf model.path="),
        ("reward=my.py:f", "reward.fn="),
        ("--lr", "trainer.learning_rate.peak"),
        ("--learning-rate=1e-5", "trainer.learning_rate.peak"),
        ("my_rounds.yaml", "--config my_rounds.yaml"),
    ],
)
def test_names_of_other_trainers_are_answered(override, text):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert text in str(caught.value)
    assert "LexerNoViableAlt" not in str(caught.value)


def test_every_alias_leads_to_keys_that_exist():
    from actors.config.aliases import ALIASES

    known = {key.name for key in keys.keys(Config())}
    targets = {word.strip("(),:") for text in ALIASES.values() for word in text.split() if "." in word}
    assert targets - known == set()
