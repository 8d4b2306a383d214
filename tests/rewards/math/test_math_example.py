"""The files of examples/math: references are read, completions get their verdicts, the script's overrides compose."""

import json
import re
import subprocess
from pathlib import Path

from actors.config import compose as validate
from rlcore.rewards.math import score

FOLDER = Path(__file__).parents[3] / "examples" / "math"


def rows(name):
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def test_every_reference_is_its_own_answer():
    assert len(rows("problems.jsonl")) >= 12
    for row in rows("problems.jsonl"):
        assert score(row["answer"], row["answer"]).score == 1.0, row


def test_completions():
    assert [score(r["response"], r["reference"]).score for r in rows("completions.jsonl")] == [1, 1, 1, 0, 1, 1, 1, 1]


def test_what_the_readme_says_is_equal():
    for group in [(".05", "1/20", r"\frac{1}{20}", "5E-02", "5 x 10^-2", r"5\%"), ("2, 3", "x = 3 or x = 2"),
                  ("(1, 3]", r"1 < x \le 3"), (r"2/\sqrt{2}", r"\sqrt{2}"), ("100 cm", "1 m")]:  # fmt: skip
        for a in group:
            assert a in (FOLDER / "README.md").read_text()
            for b in group:
                assert score(rf"\boxed{{{a}}}", b).score == 1.0, (a, b)
    assert score("0.33", "1/3").score == 0.0


def test_the_script_composes(tmp_path):
    """Its own words, with `rlcore` replaced by something that prints what it was called with."""
    fake = tmp_path / "rlcore"
    fake.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    fake.chmod(0o755)
    root = tmp_path / "copy" / "examples" / "math"
    root.mkdir(parents=True)
    (root / "run.sh").write_text((FOLDER / "run.sh").read_text())
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["bash", str(root / "run.sh"), "some/model", "mine.jsonl", "trainer.steps=3"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=tmp_path)
    name, *overrides = done.stdout.splitlines()
    assert name == "train"
    config = validate.compose(overrides)
    assert (config.data.train, config.model.path, config.trainer.steps) == (f"{tmp_path}/mine.jsonl", "some/model", 3)
    assert re.search(r"\{prompt\} Reason.*\\boxed\{\}", config.data.prompt_template)
