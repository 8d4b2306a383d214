"""Which stages run, in which state a start finds and leaves them, and that nothing is done twice."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rlcore.loops.offline import NothingToTrainOn
from rlcore.loops.stop import Interrupted
from rlcore.rounds import runner
from rlcore.rounds.stages.average import AverageConfig
from rlcore.rounds.stages.evaluate import EvaluateConfig
from rlcore.rounds.stages.filter import FilterStageConfig
from rlcore.rounds.stages.generate import GenerateConfig
from rlcore.rounds.stages.rejection_sample import RejectionSampleConfig
from rlcore.rounds.stages.sft import SftConfig
from rlcore.rounds.store.store import ArtefactStore
from tests.rounds.world import Killed, Stand, failing, recipe, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rounds that nothing disturbed; and one."""
    stands = {count: Stand(tmp_path_factory.mktemp("whole"), recipe(), count) for count in (1, 2)}
    for stand in stands.values():
        stand.run()
    return stands


def stamps(folder):
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_every_kind_runs_and_a_second_start_does_nothing(tmp_path):
    stand = Stand(tmp_path, recipe(), 2)
    stand.run()
    assert len(stand.artefacts()) == 2 * len(recipe()) + 5  # and what is there from the start
    assert next(m for m in stand.live.world.tracker.messages if m.startswith("[")).startswith("[1/22] round 1 sample")
    rows = stand.live.world.tracker.rows
    assert sorted(rows) == list(range(1, 23))
    assert rows[22]["rounds/round"] == 2
    assert 0 <= rows[22]["evaluate/accuracy"] <= 1
    before, done = stamps(stand.run_dir / "artefacts"), len(stand.log)
    stand.run()
    assert len(stand.log) == done
    assert stamps(stand.run_dir / "artefacts") == before
    assert stand.live.num_loads == 0
    assert not stand.live.world.tracker.rows
    assert all(": done before in" in m for m in stand.live.world.tracker.messages if m.startswith("["))


def test_changed_code_of_the_user_is_told_and_reruns_nothing(tmp_path):
    stand = Stand(tmp_path, simple(), code={"mine.py": "1", "other.py": "2"})
    stand.run()
    before = stand.artefacts()
    stand.code = {"mine.py": "3", "other.py": "2"}
    stand.run()
    assert stand.artefacts() == before
    told = [m for m in stand.live.world.tracker.messages if "mine.py has changed" in m]
    assert len(told) == len(simple())
    assert "other.py" not in told[0]
    (folder,) = (name for name in before if name.startswith("r01-sft-"))
    assert any(f"remove {stand.run_dir / 'artefacts' / folder} and start again" in m for m in told)
    shutil.rmtree(stand.run_dir / "artefacts" / folder)  # as it says
    stand.run()
    assert {name[:8] for name in stand.artefacts()} == {name[:8] for name in before}
    assert len([m for m in stand.live.world.tracker.messages if "sft: done in" in m]) == 1
    assert len([m for m in stand.live.world.tracker.messages if "has changed" in m]) == len(simple()) - 1


def test_working_files_are_gone_at_the_end(finished):
    stand = finished[1]
    names = {p.name for p in (stand.run_dir / "artefacts").iterdir()}
    assert not [name for name in names if ".draft" in name or ".corrupt" in name]
    assert not list((stand.run_dir / "artefacts").glob("*/work"))


def test_the_same_run_elsewhere_makes_the_same(tmp_path, finished):
    one = finished[2]
    other = Stand(tmp_path / "elsewhere", recipe(), 2)
    other.run()
    assert other.artefacts() == one.artefacts()
    assert other.log == one.log


@pytest.mark.parametrize("seed", range(2))
def test_errors_at_random_writes(tmp_path, monkeypatch, finished, seed):
    """Whatever is durable ends in a rename: each start fails before one of its first twelve."""
    wanted = finished[2]
    stand = Stand(tmp_path / "broken", recipe(), 2)
    rng, starts = np.random.default_rng(seed), 0
    while True:
        starts += 1
        assert starts < 100
        try:
            error = OSError("the disk said no") if seed % 2 else Killed()
            with failing(monkeypatch, int(rng.integers(12)), error):
                stand.run()
            break
        except (OSError, Killed):
            pass
    assert starts > 15
    assert stand.artefacts() == wanted.artefacts()
    # a training step is repeated from the last checkpoint, a chunk from its beginning; whatever was finished is not
    for kinds, most in ((("update", "fit"), 2), (("generate",), 2)):
        often, once = (Counter(e for e in one.log if e[0] in kinds) for one in (stand, wanted))
        assert set(often) == set(once)
        assert (often - once).total() <= most * starts


@pytest.mark.parametrize("seed", range(2))
def test_interrupted_at_random_places_nothing_is_done_twice(tmp_path, finished, seed):
    wanted = finished[2]
    stand = Stand(tmp_path / "stopped", recipe(), 2)
    rng, starts, left = np.random.default_rng([7, seed]), 0, 0

    def at(place):
        nonlocal left
        left -= 1
        if left == 0:
            stand.stop()

    stand.at = at
    while True:
        starts += 1
        assert starts < 100
        left = int(rng.integers(1, 14))
        try:
            stand.run()
            break
        except Interrupted:
            pass
    assert starts > 8
    assert stand.artefacts() == wanted.artefacts()
    trained = [event for event in wanted.log if event[0] in ("update", "fit")]
    assert [event for event in stand.log if event[0] in ("update", "fit")] == trained
    calls = Counter(event for event in stand.log if event[0] == "generate")
    assert calls == Counter(event for event in wanted.log if event[0] == "generate")


@pytest.mark.parametrize(("place", "number"), [("group", 3), ("update", 3), ("update", 6), ("update", 11)])
def test_an_error_in_the_middle_of_a_stage(tmp_path, finished, place, number):
    wanted = finished[1]
    stand = Stand(tmp_path / "broken", recipe(), 1)
    left = number

    def at(found):
        nonlocal left
        left -= found == place
        if left == 0 and found == place:
            raise Killed

    stand.at = at
    with pytest.raises(Killed):
        stand.run()
    before = len(stand.log)
    stand.run()
    assert before < len(stand.log)
    assert stand.artefacts() == wanted.artefacts()
    assert any("resuming" in m for m in stand.live.world.tracker.messages)


def simple():
    return {
        "sample": GenerateConfig(num_samples=4),
        "best": RejectionSampleConfig(samples=["sample"]),
        "warm": SftConfig(data=["answers"], train=train()),
        "sft": SftConfig(data=["best"], start="warm", train=train()),
        "before": EvaluateConfig(model="warm"),
        "after": EvaluateConfig(model="sft"),
    }


def rerun(stand):
    """Names of the stages that a start ran."""
    stand.run()
    return [m.split(": ")[0].split()[-1] for m in stand.live.world.tracker.messages if ": done in" in m]


@pytest.fixture
def stand(tmp_path):
    stand = Stand(tmp_path, simple())
    assert rerun(stand) == ["sample", "best", "warm", "sft", "before", "after"]
    return stand


@pytest.mark.parametrize(
    ("stage", "changes", "wanted"),
    [
        ("warm", {"train": train(steps=5)}, ["warm", "sft", "before", "after"]),
        ("sft", {"train": train(peak=0.5)}, ["sft", "after"]),
        ("sample", {"num_samples": 5}, ["sample", "best", "sft", "after"]),
        ("after", {"num_samples": 3}, ["after"]),
        ("sft", {"start": "start"}, ["sft", "after"]),
        ("sft", {"start": "other"}, ["sft", "after"]),
        ("warm", {"train": train(every=1)}, []),
        ("warm", {"rounds": [1]}, []),
        ("sample", {"num_samples": 4}, []),
    ],
)
def test_a_changed_option_reruns_what_depends_on_it(stand, stage, changes, wanted):
    stand.stages = simple() | {stage: replace(simple()[stage], **changes)}
    assert rerun(stand) == wanted
    stand.stages = simple()
    assert rerun(stand) == []  # what was made before is there still


def test_an_equal_artefact_cuts_the_chain(stand):
    stand.stages = simple() | {"best": RejectionSampleConfig(samples=["sample"])}
    stand.stages["best"].select.max_per_prompt = 1  # one is kept anyway
    assert rerun(stand) == ["best"]


def test_names_and_order_do_not_enter(stand):
    stages = simple()
    stand.stages = {"good" if name == "best" else name: config for name, config in reversed(stages.items())}
    stand.stages["sft"] = replace(stages["sft"], data=["good"])
    assert rerun(stand) == []


def test_the_run_config_and_the_seed_enter(stand):
    stand.reads = {"rollout.top_p": 0.9}
    assert len(rerun(stand)) == 6
    stand.reads, stand.seed = {}, 4
    assert rerun(stand) == ["sample", "best", "warm", "sft", "before", "after"]


def test_a_damaged_artefact_is_made_anew_and_equal(stand):
    wanted = stand.artefacts()
    (victim,) = (stand.run_dir / "artefacts").glob("r01-best-*/parts/part-00000.parquet")
    victim.write_bytes(victim.read_bytes()[:-1])
    assert rerun(stand) == ["best"]
    assert stand.artefacts() == wanted
    assert list((stand.run_dir / "artefacts").glob("*.corrupt"))


def test_a_stage_without_records_names_what_dropped_them(tmp_path):
    stages = simple() | {"best": RejectionSampleConfig(samples=["sample"])}
    stages["best"].select.threshold = 2.0
    with pytest.raises(NothingToTrainOn) as caught:
        Stand(tmp_path, stages).run()
    wanted = "stage best of round 1 dropped all of its rows: 40 of 40 below threshold 2.0"
    assert str(caught.value) == f"sft: there is no data to train on; {wanted}"
    kept = {"kind": "score", "min": 3.0}
    stages = simple() | {"good": FilterStageConfig(data=["sample"], filters=[kept])}
    stages["best"] = RejectionSampleConfig(samples=["good"])  # the stage before it, that had nothing to drop
    with pytest.raises(NothingToTrainOn, match="stage good of round 1 dropped all of its rows: 40 of 40 score below 3"):
        Stand(tmp_path / "filter", stages).run()


def test_a_line_without_figures_ends_at_the_time(tmp_path):
    stand = Stand(tmp_path, {"mean": AverageConfig(models=["start", "other"])})
    (artefact,) = stand.run().values()
    (node,) = stand.nodes()
    head = f"[1/1] round 1 mean: done in {artefact.seconds:.1f} s"
    assert runner.line(node, artefact, 1, 1, "done") == head
    counted = replace(artefact, report={"rows_in": 8, "sources_in": {"": 8}})
    assert runner.line(node, counted, 1, 1, "done") == f"{head}; rows_in 8"


def test_rounds_draw_other_samples_of_equal_inputs(tmp_path):
    stand = Stand(tmp_path, {"sample": GenerateConfig(num_samples=8)}, count=3)
    made = stand.run()
    assert len({one.hash for one in made.values()}) == 3


def test_what_can_be_told_before_anything_runs(tmp_path):
    stand = Stand(tmp_path, simple())
    with ArtefactStore(runner.folder_of(tmp_path)) as store:
        index = runner.StageIndex(stand.nodes(), store, stand.roots(store), lambda node: {}, 3)
        keys, made = index.known()
        assert sorted(keys) == [(1, "sample"), (1, "warm")]  # the others' inputs are not there
        assert not made
        assert index.inputs(next(n for n in stand.nodes() if n.stage == "sft"), {}) is None


@pytest.mark.parametrize("weights", [[1.0, 3.0], []])
def test_weights_belong_to_entries(tmp_path, weights):
    """Three artefacts from two entries: which entry leads to two of them is part of the key, where it matters."""
    keys = []
    for data in (["a@all", "b"], ["a@1", "b@all"]):
        sft = SftConfig(rounds=[2], data=data, weights=weights)
        stand = Stand(tmp_path, {"a": GenerateConfig(), "b": GenerateConfig(num_samples=3), "sft": sft}, count=2)
        with ArtefactStore(runner.folder_of(tmp_path)) as store:
            index = runner.StageIndex(stand.nodes(), store, {}, lambda node: {}, 3)
            answers = stand.roots(store)["answers"]
            keys.append(index.key(index.plan[-1], {"data": [answers] * 3}))
    assert (keys[0] == keys[1]) is not bool(weights)


def test_the_figures_of_a_report():
    assert runner.flat({"a": {"b": 1, "c": {"d": 2.5}}, "x": "text", "y": [1], "z": True}) == {
        "a/b": 1.0, "a/c/d": 2.5, "z": 1.0,
    }  # fmt: skip
