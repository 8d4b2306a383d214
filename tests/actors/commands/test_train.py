"""What a training run says before it starts."""

from __future__ import annotations

import pytest

from actors.commands.train import rate_jump
from actors.config.compose import compose
from actors.run_folder import claim


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        # linear from 1 at step 0 to 0.1 at step 9, the step after the checkpoint: 1 - 0.9 * 9 / 19 in a run of 20
        ("linear", 20, "was 10, now 20: at step 10 the learning rate is 0.574, in the schedule so far it was 0.1"),
        ("linear", 10, ""),
        ("constant", 20, ""),
    ],
)
def test_a_longer_run_says_how_its_learning_rate_jumps(tmp_path, schedule, steps, expected):
    def config(length: int):
        rate = [
            f"trainer.learning_rate.{k}"
            for k in (f"schedule={schedule}", "peak=1", "final_share=0.1", "warmup_steps=0")
        ]
        return compose([f"run_dir={tmp_path / 'run'}", f"trainer.steps={length}", *rate])

    claim(config(10))
    assert rate_jump(config(steps)) == "", "nothing was trained yet"
    (tmp_path / "run" / "checkpoints" / "step-000009").mkdir(parents=True)
    assert rate_jump(config(steps)) == (f"trainer.steps {expected}" if expected else "")
