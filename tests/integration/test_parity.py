"""Rollout against trainer log-probs after every sync of a run: tied and untied, ZeRO 2 and 3, two policy ranks."""

from __future__ import annotations

import pytest

from tests.integration.test_end_to_end import rows, train

LAYOUT = [
    "cluster.roles.policy.num_workers=2",
    "trainer.steps=3",
    "trainer.checkpoint.every=0",
    "trainer.warmup.steps=4",
]


@pytest.mark.parametrize(
    ("tied", "zero", "engines"),
    [(True, 3, 2), (False, 3, 2), (True, 2, 2), (False, 2, 1), (True, 3, 1)],
)
@pytest.mark.slow  # by default test_rollout.py compares after each of several transfers, test_end_to_end.py in a run
def test_parity_after_every_sync(tmp_path, tied, zero, engines):
    layout = [*LAYOUT, f"cluster.roles.rollout.num_workers={engines}", "cluster.roles.rollout.cpus_per_worker=0.5"]
    reward = tmp_path / "spread.py"  # arithmetic pays an untrained model nothing: no weight would change
    reward.write_text("def spread(sample):\n    return sum(map(ord, sample.response)) % 7 / 6\n")
    layout += [f"reward.fn={reward}:spread", "trainer.learning_rate.peak=0.001"]
    train(tmp_path / "run", *layout, f"model.tiny.tie_embeddings={tied}", f"engine.zero_stage={zero}")
    found = rows(tmp_path / "run")
    differences = [found[step]["rollout/logprob_diff_max"] for step in (1, 2, 3)]
    assert max(differences) < 1e-4, differences
    assert [found[step]["train/version"] for step in (1, 2, 3)] == [1, 2, 3]
    gradients = [found[step]["actor/grad_norm"] for step in (1, 2, 3)]
    assert min(gradients) > 0
    print(f"tied={tied} zero={zero} engines={engines}: {differences}, gradient norms {gradients}")
