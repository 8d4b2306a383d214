"""`rlcore rewards`: the table, and judging a file through the worker pool."""

import json
import subprocess
import sys

import pytest

from actors.commands import rewards as rewards_cli
from actors.commands.rewards import main
from rlcore.rewards import registry
from rlcore.rewards.registry import RewardError
from tests.rewards.cases import USER


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judge(tmp_path, rows, *arguments, reward="math", to="out.jsonl"):
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / to
    base = ["score", str(file), "--reward", reward, "--out", str(out), "--processes", "2", "--timeout", "20"]
    assert main([*base, *arguments]) == 0
    assert not list(tmp_path.glob("*.partial"))
    return read(out)


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "_held", dict(registry.REWARDS._held))
    monkeypatch.setattr(sys, "path", list(sys.path))  # loading a file puts its folder there; processes inherit it


def test_list_has_name_origin_and_docstring(clean_registry, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "own.py",
        [
            "import rlcore\n@rlcore.reward('mine')\ndef f(sample):\n    '''Full marks.\n\n    And more.\n    '''\n"
            "    return 1.0\n@rlcore.reward('silent')\ndef g(sample):\n    return 1.0"
        ],
    )
    assert main(["list", "own.py"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "rlcore.rewards.math" in lines["math"]
    assert lines["math"].endswith("else 0.0.")
    assert lines["mine"].split(None, 2)[1:] == ["own.py:2", "Full marks."]
    assert lines["silent"].endswith("(no docstring)")


def test_the_folder_of_the_output_is_made(tmp_path):
    (found,) = judge(tmp_path, [{"response": r"\boxed{1}", "reference": "1"}], to="not/there/out.jsonl")
    assert found["score"] == 1.0


def test_a_module_next_to_the_reward_that_hides_another_is_a_warning(clean_registry, tmp_path, capsys):
    file = tmp_path / "pay.py"
    file.write_text("def pay(sample):\n    return 1.0\n")
    assert main(["list", str(file)]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "queue.py").write_text("")
    judge(tmp_path, [{"response": "1", "reference": "1"}], reward=f"{file}:pay")
    text = capsys.readouterr().err
    assert f"warning: {file}: its folder goes first on sys.path: queue.py would be imported instead" in text


def test_scores_in_the_order_of_the_rows(tmp_path, capsys):
    rows = [{"response": rf"\boxed{{{i}}}", "reference": i if i % 3 else -1} for i in range(150)]
    rows[7] = {"response": "7", "reference": "$$"}
    found = judge(tmp_path, rows)
    assert [r["score"] for r in found] == [float(i % 3 != 0 and i != 7) for i in range(150)]
    assert [r["line"] for r in found] == list(range(1, 151))
    assert {r["status"] for i, r in enumerate(found) if i != 7} == {"ok"}
    assert found[7]["status"] == "unparsable"
    assert all(0 <= r["seconds"] < 20 for r in found)
    printed = capsys.readouterr().out
    assert "150 rows" in printed
    assert "149 ok, 1 unparsable" in printed
    assert "line 8: unparsable" in printed


def test_a_reward_by_path_with_options_and_failures(tmp_path):
    rows = [{"response": r, "note": "n"} for r in ("fine", "raise", "hang", "crash", "fine")]
    found = judge(tmp_path, rows, "--timeout", "2", reward=f"{USER}:misbehave")
    assert [r["status"] for r in found] == ["ok", "error", "timeout", "error", "ok"]
    assert "no such column" in found[1]["info"]["error"]
    assert found[2]["seconds"] == pytest.approx(2)
    scaled = judge(tmp_path, [{"response": "abc"}], "--option", "scale=0.5", reward=f"{USER}:length")
    assert scaled[0]["score"] == 1.5


def test_tests_and_other_columns_reach_the_reward(tmp_path):
    (tmp_path / "own.py").write_text(
        "def f(s):\n    return s.metadata['tests']['inputs'][0] == s.response and s.metadata['level'] + len(s.prompt)\n"
    )
    tests = {"type": "stdin", "inputs": ["a"], "outputs": ["b"]}
    rows = [{"response": "a", "tests": tests, "level": 2, "prompt": "pp"}]
    assert judge(tmp_path, rows, reward=f"{tmp_path}/own.py:f")[0]["score"] == 4.0


def test_bad_rows_are_named_and_nothing_is_scored(tmp_path):
    good = {"response": "1", "reference": "1"}
    rows = [good, "", "not json", "[1]", {"reference": "1"}, {"response": 3}, {"response": "1", "reference": {"a": 1}},
            {"response": "1", "tests": "x"}, "[" * 100_000, good]  # fmt: skip
    file, out = write(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(RewardError) as caught:
        main(["score", str(file), "--reward", "math", "--out", str(out)])
    text = str(caught.value)
    assert "7 bad rows" in text
    for line, what in [(3, "no JSON"), (4, "JSON list"), (5, "`response` is missing"), (6, "no string"),
                       (7, "`reference` must be text or a number"),
                       (8, "`tests` is not an object"), (9, "no JSON")]:  # fmt: skip
        assert any(part.startswith(f"  line {line}: ") and what in part for part in text.splitlines()), (line, text)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl", "--reward", "mth", "--out", "o"], "did you mean 'math'"),
        (["rows.jsonl", "--reward", "none.py:f", "--out", "o"], "does not exist"),
        (["none.jsonl", "--reward", "math", "--out", "o"], "none.jsonl does not exist"),
        (["empty.jsonl", "--reward", "math", "--out", "o"], "has no rows"),
        (["rows.jsonl", "--reward", "math", "--out", "rows.jsonl"], "is the file of the completions itself"),
        (["rows.jsonl", "--reward", "math", "--out", "o", "--option", "x"], "not KEY=VALUE"),
        (["rows.jsonl", "--reward", "math", "--out", "o", "--processes", "0"], "num_processes"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"response": "1", "reference": "1"}])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(RewardError, match=message):
        main(["score", *arguments])
    assert not (tmp_path / "o").exists()


def test_few_rows_are_held_at_a_time(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl", [{"response": "1"}] * 1000)
    taken = []
    batches = rewards_cli._batches

    def counted(path):
        for batch in batches(path):
            taken.append(len(batch))
            yield batch

    class Pool:
        num_processes = 1

        def submit(self, items, seconds):
            from concurrent.futures import Future

            future = Future()
            seconds[:] = [0.0] * len(items)
            future.set_result([registry.failure("x")] * len(items))
            return future

    monkeypatch.setattr(rewards_cli, "_batches", counted)
    results = rewards_cli._results(Pool(), file, ())
    next(results)
    assert sum(taken) <= 4 * rewards_cli.BATCH
    assert sum(1 for _ in results) == 999


def test_from_the_shell(tmp_path):
    file = write(tmp_path / "rows.jsonl", [{"response": "The answer is 1/2.", "reference": "0.5"}])
    command = [sys.executable, "-m", "actors.cli", "rewards", "score", str(file), "--reward", "math", "--out"]
    done = subprocess.run([*command, str(tmp_path / "out.jsonl")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out.jsonl")[0]["score"] == 1.0
    assert subprocess.run([*command[:4], "sing"], capture_output=True).returncode == 2
