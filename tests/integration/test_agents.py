"""Rollouts of several turns on real engines: log-probs of all turns are the trainer's, and nothing is lost."""

from __future__ import annotations

import json
import string

from tests.integration.test_end_to_end import ledger, rows, train

ENVIRONMENT = '''
class Echo:
    """Answers twice; the reward is of the last turn's letters, so that an untrained model has something to learn."""

    def reset(self, **row):
        self.turns, self.text = 0, ""

    def reply(self, text):
        self.turns, self.text = self.turns + 1, text
        if self.turns == 2 and "7" in text:
            raise RuntimeError("seven")  # a failed environment
        return None if self.turns == 3 else f"<eos>{self.turns}\\n"

    def get_reward(self):
        return sum(map(ord, self.text)) % 7 / 6
'''

STOPS = string.ascii_letters  # an untrained model hardly ever ends a turn itself


def test_log_probs_of_all_turns_are_the_trainers(tmp_path):
    file = tmp_path / "echo.py"
    file.write_text(ENVIRONMENT)
    train(
        tmp_path / "run", f"environment.fn={file}:Echo", "environment.max_turns=3", "environment.concurrency=8",
        "environment.on_overlong=keep", "environment.retries=0", "reward.max_failed_share=0.9",
        "trainer.steps=3", "trainer.warmup.steps=0", "trainer.parity.every=1", "trainer.learning_rate.peak=0.001",
        "model.tiny.max_positions=160", "rollout.max_new_tokens=24", f"rollout.stop=[{','.join(STOPS)}]",
    )  # fmt: skip
    found = rows(tmp_path / "run")
    for step in (1, 2, 3):
        row = found[step]
        assert 0 < row["rollout/logprob_diff_max"] < 1e-4
        assert row["actor/grad_norm"] > 0
        assert row["agent/turns"] > 1.5
        assert row["agent/breaks"] == 0
    assert all(r["trained"] + sum(r["filtered"].values()) == 32 for r in ledger(tmp_path / "run"))
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    whole = [s for s in samples if s["status"] == "ok" and len(s["turns"]) == 5]
    assert whole
    for sample in whole:
        assert [turn["role"] for turn in sample["turns"]] == ["assistant", "environment"] * 2 + ["assistant"]
        assert [turn["text"] for turn in sample["turns"][1::2]] == ["<eos>1\n", "<eos>2\n"]
        assert sample["response"] == sample["turns"][-1]["text"]
    failed = [s for s in samples if s["status"] == "error"]
    assert all(s["score"] == 0 for s in failed)
    summary = (tmp_path / "run" / "summary.md").read_text()
    assert "turns of a rollout" in summary
