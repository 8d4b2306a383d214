"""What `rlcore rounds` refuses before anything starts, and which keys of the run's config a stage's key sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.build import Built
from actors.commands.rounds import (
    checked,
    code_of,
    live,
    prepared,
    reads_of,
    rendered,
    roots_in,
    stage_index,
    status,
    status_config,
)
from actors.config.compose import ConfigError, compose
from actors.run_folder import binding, claim, plain
from actors.training.models import prepare_model
from rlcore.data import tables
from rlcore.data.sources.readers import DataError
from rlcore.interfaces import World
from rlcore.loops.stop import StopSignal
from rlcore.rounds.plan.config import Made
from rlcore.rounds.store.store import ArtefactStore
from tests.fakes import FakeCritic, FakePolicy, FakeTokenizer, prompts
from tests.integration.rounds_run import shown

SAMPLE = {"kind": "generate"}
SFT = {"kind": "sft", "data": ["answers"]}
LOOK = {"kind": "evaluate", "model": "sft"}
PAIRS = {"kind": "pairs", "samples": ["sample"]}
TINY = ["model.tiny.num_layers=1", "model.tiny.hidden_size=32", "model.tiny.num_heads=1", "data.num_eval=20"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])


def line(stages, *more):
    return [*(f"+rounds.stages.{name}={shown(stage)}" for name, stage in stages.items()), *more]


def refused(stages, *more):
    """Key -> text and cure of everything that is wrong."""
    overrides = line(stages, *more)
    config = compose(overrides)
    with pytest.raises(ConfigError) as caught:
        checked(config, overrides)
    return {one.key: f"{one.value}: {one.text}; {one.cure}" for one in caught.value.problems}


def at(stage):
    return f"rounds.stages.{stage}"


@pytest.mark.parametrize(
    ("stages", "key", "text"),
    [
        ({"sft": {**SFT, "data": ["bset"]}, "best": {"kind": "rejection_sample", "samples": ["answers"]}},
         "sft.data", "no stage makes `bset`; did you mean best?"),
        ({"a": {**SFT, "start": "b"}, "b": {**SFT, "start": "a"}}, "a.start", "a cycle: a -> b -> a"),
        ({"a": {"kind": "stf"}}, "a.kind", "unknown kind of stage; did you mean sft?"),
        ({"sft": {"data": ["answers"]}}, "sft.kind", "a stage needs a kind; write kind: sft"),
        ({"a": {**SFT, "trian": {}}}, "a.trian", "unknown option; did you mean train?"),
        ({"a": {**SFT, "train": {"stepz": 2}}}, "a.train.stepz", "did you mean steps?"),
        ({"a": {**SFT, "train": {"steps": "many"}}}, "a.train.steps", "many: not a whole number; write a whole number"),
        ({"a": {**SFT, "data": "answers"}}, "a.data", "answers: it has another type; write it as a list"),
        ({"a": {**SFT, "train": 3}}, "a.train", "3: it has another type; write a mapping of its options: epochs,"),
        ({"a": {**SAMPLE, "num_samples": 2.5}}, "a.num_samples", "2.5: not a whole number; write a whole number;"),
        ({"a": {**SFT, "train": {"learning_rate": {"schedule": "cosin"}}}}, "a.train.learning_rate.schedule",
         "cosin: unknown value; did you mean cosine? expected one of: constant, linear, cosine"),
        ({"a": {"kind": "score", "samples": ["answers"], "by": "judje"}}, "a.by", "did you mean judge?"),
        ({"a": {"kind": "filter", "data": ["answers"], "filters": [{"kind": "duplicate"}]}}, "a.filters.0.kind",
         "unknown filter 'duplicate' (did you mean 'duplicates'?)"),
        ({"a": {"kind": "filter", "data": ["answers"], "filters": [{"kind": "duplicates", "keeep": 1}]}},
         "a.filters.0.keeep", "unknown option; did you mean keep?"),
        ({"sample": SAMPLE, "p": PAIRS, "d": {"kind": "preference", "data": ["p"], "loss": "dppo"}}, "d.loss",
         "dppo: unknown loss; did you mean dpo?"),
        ({"a": {"kind": "preference", "data": ["answers"]}}, "a.data", "`answers` is samples, `data` wants pairs"),
        ({"a": {**SAMPLE, "num_samples": 0}}, "a.num_samples", "must be 1 or more"),
        ({"a": {**SAMPLE, "prompts_per_chunk": 0}}, "a.prompts_per_chunk", "1 or more"),
        ({"a": {**SAMPLE, "enough": 1, "max_samples": 4}}, "a.max_samples", "a prompt gets num_samples=8 at once"),
        ({"a": {**SFT, "train": {"per_step": 0}}}, "a.train.per_step", "1 or more"),
        ({"a": {**SFT, "train": {"epochs": 0}}}, "a.train.epochs", "above 0"),
        ({"a": {**SFT, "weights": [0.0]}}, "a.weights", "they are not valid shares"),
        ({"a": {"kind": "average", "models": ["start", "start"], "weights": [2, -1]}}, "a.weights", "from 0"),
        ({"a": {"kind": "rewrite", "rewriting": {"per_prompt": 0}}}, "a.rewriting.per_prompt", "1 or more"),
        ({"sample": SAMPLE, "b": {"kind": "rejection_sample", "samples": ["sample"], "select": {
            "method": "threshold"}}}, "b.select.threshold", "needs the lowest good score"),
        ({"a": {"kind": "rl", "overrides": ["rollout.top_p=0.9"]}}, "a.overrides", "all stages share the"),
    ],
)  # fmt: skip
def test_named_with_its_cure(stages, key, text):
    found = refused(stages)
    assert list(found) == [at(key)]
    assert text in found[at(key)]


def test_everything_at_once():
    found = refused({"a": {**SAMPLE, "num_samples": 0, "prompts": "tarin"}, "b": {"kind": "x"}, "c": {**SFT, "x": 1}})
    assert sorted(found) == [at("a.num_samples"), at("a.prompts"), at("b.kind"), at("c.x")]
    assert "did you mean train?" in found[at("a.prompts")]


def test_what_a_stage_needs_of_the_run():
    score = {"kind": "score", "samples": ["answers"]}
    found = refused({"a": {**score, "by": "reward_model"}})
    assert "stage a needs a reward model; set it to 1" in found["cluster.roles.reward.num_workers"]
    assert "name the stage that makes it" in found[at("a.reward_model")]
    found = refused({"sample": SAMPLE, "p": PAIRS, "r": {"kind": "reward_model", "data": ["p"]}})
    assert list(found) == ["cluster.roles.reward.num_workers"]
    assert "stage a asks a judge; set it to engine or endpoint" in refused({"a": {**score, "by": "judge"}})[
        "reward.judge.kind"
    ]  # fmt: skip


def test_the_config_of_an_rl_stage_is_checked_too():
    found = refused({"a": {"kind": "rl", "overrides": ["trainer.step=3", "algorithm=grpoo"]}})
    assert "in rounds.stages.a.overrides: unknown key; did you mean trainer.steps?" in found["trainer.step"]
    assert "did you mean grpo?" in found["algorithm"]
    found = refused({"a": {"kind": "rl", "overrides": ["algorithm=ppo"]}})
    assert "needs the role critic" in found["cluster.roles.critic.num_workers"]
    good = line({"a": {"kind": "rl", "overrides": ["algorithm=rloo", "trainer.steps=3"]}})
    assert len(checked(compose(good), good)) == 1


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("trainer.max_tokens_per_micro_batch=111", "trainer.max_tokens_per_micro_batch", "all stages share the run's"),
        ("trainer=default", "trainer.max_tokens_per_micro_batch", "in rounds.stages.a.overrides"),
        ("trainer.warmup.steps=5", "rounds.stages.a.overrides", "no supervised warm-up; add a stage sft before it"),
        ("algorithm=xpo", "algorithm.preference.opponent", "starts no reference that can send its weights"),
    ],
)
def test_what_an_rl_stage_cannot_change_is_refused(override, key, text):
    roles = [f"cluster.roles.{role}.num_workers=1" for role in ("policy", "rollout", "reference")]
    found = refused({"a": {"kind": "rl", "overrides": [override]}}, *roles)
    assert list(found) == [key]
    assert text in found[key]


def test_an_rl_stage_trains_critic_and_policy_by_its_own_algorithm(tmp_path):
    overrides = line({"a": {"kind": "rl"}}, "algorithm.value_clip=0.3")
    config, policy, critic = compose(overrides), FakePolicy(), FakeCritic()
    world = World(None, None, None, policy, None, None, None, critic=critic)
    inputs = SimpleNamespace(tokenizer=FakeTokenizer(), data=SimpleNamespace(train=prompts(), eval=[]))
    built = Built(world, inputs, "cpu", None)
    context = live(config, overrides, tmp_path, built, StopSignal(lambda text: None), SimpleNamespace(hash=""))
    planned = context.online_run
    table = tables.from_prompts(prompts(20))
    orders = []
    for seed in (7, 8):
        run = planned(["algorithm=ppo", f"algorithm.value_clip={seed}"], table, world, tmp_path, seed)
        assert (run.seed, run.algorithm.value_clip, run.algorithm.name) == (seed, seed, "ppo")
        orders.append([p.uid for p in run.world.prompts.take(20)])
    run = planned([], table, world, tmp_path, 7)  # the next stage is not the one before
    assert run.algorithm.value_clip == 0.3
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize(
    ("more", "key", "text"),
    [
        ("+rounds.sources.x={kind:preferences,path:/not/there.jsonl}", "rounds.sources.x.path", "no such file"),
        ("+rounds.sources.x={kind:preference,path:a}", "rounds.sources.x.kind", "did you mean preferences?"),
        ("+rounds.sources.x={kind:preferences,pth:a}", "rounds.sources.x.pth", "did you mean path?"),
        ("+rounds.sources.x=file.jsonl", "rounds.sources.x", "write a mapping of its options: kind,"),
        ("+rounds.sources.sft={kind:preferences,path:README.md}", "rounds.stages.sft", "duplicate name"),
        ("+rounds.overrides.1={sftt:{start:start}}", "rounds.overrides.1.sftt", "did you mean sft?"),
        ("+rounds.overrides.2={sft:{start:start}}", "rounds.overrides.2", "there is no such round"),
        ("rounds.count=0", "rounds.count", "there is no round"),
    ],
)
def test_sources_and_overrides(more, key, text):
    found = refused({"sft": SFT}, more)
    assert text in found[key]


# ---- models and files


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return prepare_model(compose(TINY).model, tmp_path_factory.mktemp("model"), seed=1)


def committee(tmp_path, folder, start):
    stages = line({"sample": {**SAMPLE, "models": ["start", "other"]}}, f"+rounds.models.other={folder}")
    config = compose([*stages, *TINY, f"model.path={start}", f"run_dir={tmp_path / 'run'}"])
    checked(config)
    with pytest.raises(ConfigError) as caught:
        prepared(config, tmp_path)
    (one,) = caught.value.problems
    assert one.key == "rounds.models.other"
    return one.render()


def test_what_is_no_single_token_is_named_before_anything_starts(model, tmp_path):
    stages = {"sft": {**SFT, "train": {"ignore_tokens": ["1", "12"]}}}
    config = compose([*line(stages), *TINY, f"model.path={model}", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError) as caught:
        prepared(config, tmp_path, checked(config))
    (one,) = caught.value.problems
    assert (one.key, one.value) == ("rounds.stages.sft.train.ignore_tokens", "12")
    assert "'12' is 2 tokens, not one" in one.render()


def copy_of(model, folder):
    shutil.copytree(model, folder)
    return folder


def edited(path, change):
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def test_a_member_with_another_tokenizer(model, tmp_path):
    other = copy_of(model, tmp_path / "other")

    def rename(held):
        vocab = held["model"]["vocab"]
        vocab["é"] = vocab.pop("a")

    edited(other / "tokenizer.json", rename)
    text = committee(tmp_path, other, model)
    assert "its tokenizer has another vocabulary" in text
    assert "members of a committee must share the run's tokenizer" in text
    assert "such as ['a'" in text


def test_a_member_with_another_architecture(model, tmp_path):
    other = copy_of(model, tmp_path / "other")
    edited(other / "config.json", lambda held: held.update(num_attention_heads=2))
    text = committee(tmp_path, other, model)
    assert "its config.json differs in num_attention_heads" in text
    assert "the engines support one architecture" in text


@pytest.mark.parametrize(("kept", "text"), [(False, "no such folder"), (True, "has no tokenizer")])
def test_a_member_that_is_not_there(model, tmp_path, kept, text):
    other = tmp_path / "other"
    if kept:
        copy_of(model, other)
        for path in other.glob("tokenizer*"):
            path.unlink()
    assert text in committee(tmp_path, other, model)


def index_of(tmp_path, rows, *more):
    """The index of a run that trains a preference on a file of these rows."""
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = line({"dpo": {"kind": "preference", "data": ["prefs"]}}, *more)
    source = f"+rounds.sources.prefs={{kind:preferences,path:{path}}}"
    config = compose([*stages, source, *TINY, f"run_dir={tmp_path / 'run'}"])
    nodes, inputs = checked(config), prepared(config, tmp_path)
    with ArtefactStore(tmp_path / "artefacts") as store:
        return stage_index(config, nodes, store, roots_in(config, nodes, store, inputs))


GOOD = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}


def test_preferences_from_a_file(tmp_path):
    index = index_of(tmp_path, [GOOD, {**GOOD, "prompt": "2+1=", "chosen": "3", "rejected": "4"}])
    assert sorted(index.roots) == ["prefs", "start"]
    assert index.roots["prefs"].num_rows == 2


def test_rows_that_are_left_out_are_told(tmp_path, caplog):
    same = {**GOOD, "rejected": "2"}
    with caplog.at_level("WARNING", logger="rlcore"):
        index = index_of(tmp_path, [GOOD, same, same], "+rounds.sources.prefs.broken_rows=skip")
    assert index.roots["prefs"].num_rows == 1
    told = [r.getMessage() for r in caplog.records if "rounds.sources.prefs" in r.getMessage()]
    assert told[0] == "rounds.sources.prefs: 2 of 3 rows left out: broken"
    assert len(told) == 3


def test_a_preference_whose_chosen_equals_its_rejected(tmp_path):
    with pytest.raises(DataError) as caught:
        index_of(tmp_path, [GOOD, {**GOOD, "rejected": "2"}])
    text = str(caught.value)
    assert "prefs.jsonl" in text
    assert "2" in text.partition("prefs.jsonl")[2][:8]  # the line
    assert "chosen" in text
    assert "rejected" in text


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "prefs.jsonl"
    with pytest.raises(DataError, match=path.name):
        index_of(tmp_path, [GOOD, {"prompt": "1+1="}])


# ---- what a stage's key sees


ALL = {
    "sample": SAMPLE, "p": PAIRS, "sft": SFT, "dpo": {"kind": "preference", "data": ["p"], "start": "sft"},
    "rl": {"kind": "rl"}, "look": {"kind": "evaluate"}, "keep": {"kind": "filter", "data": ["sample"]},
}  # fmt: skip


def reads(*more):
    config = compose(line(ALL, *more))
    flat = binding(plain(config))
    return {node.stage: reads_of(node, flat, config) for node in checked(config)}


def changed(*more):
    before, after = reads(), reads(*more)
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize(
    "override",
    [
        "tracking.console=false", "tracking.samples_every=3", "name=x", "run_dir=elsewhere", "resume=must",
        "cluster.roles.policy.num_workers=1", "cluster.deadlines.train_s=5", "cluster.threads_per_worker=2",
        "trainer.eval.every=3", "trainer.checkpoint.every=7", "trainer.parity.every=2", "rollout.max_restarts=1",
        "rollout.max_num_seqs=32", "rollout.sync_bucket_mb=8", "rollout.cpu_kv_cache_gib=2", "rollout.weight_sync=host",
        "rollout.gpu_memory_utilization=0.5", "reward.processes_per_worker=3", "data.num_eval=17",
        "model.tiny.num_layers=2", "environment.max_turns=3",  # there is none
    ],
)  # fmt: skip
def test_what_cannot_change_a_result_is_in_no_key(override):
    assert changed(override) == set()


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("rollout.temperature=0.9", {"sample", "rl", "look"}),
        ("rollout.max_new_tokens=32", {"sample", "rl", "look"}),
        ("reward.timeout_s=3", {"sample", "rl", "look"}),
        ("model.dtype=bfloat16", {"sample", "sft", "dpo", "rl", "look"}),
        ("model.float32_head=true", {"sample", "sft", "dpo", "rl", "look"}),
        ("model.lora.rank=4", {"sft", "dpo", "rl"}),
        ("engine.optimizer.weight_decay=0.1", {"sft", "dpo", "rl"}),
        ("trainer.learning_rate.peak=1e-3", {"rl"}),
        ("trainer.steps=7", {"rl"}),
        ("algorithm=rloo", {"rl"}),
        ("data.shuffle=false", {"rl"}),
        ("environment.fn=reasoning_gym", {"sample", "rl", "look"}),
    ],
)
def test_what_changes_a_result_is_in_the_keys_of_its_stages(override, stages):
    assert changed(override) == stages


def test_the_users_own_python_is_known_by_stage(tmp_path):
    for name in ("reward.py", "keep.py"):
        (tmp_path / name).write_text("def f(x):\n    return None\n")
    stages = {**ALL, "keep": {**ALL["keep"], "filters": [{"kind": "fn", "fn": f"{tmp_path}/keep.py:f"}]}}
    config = compose(line(stages, f"reward.fn={tmp_path}/reward.py:f"))
    found = {node.stage: code_of(node, config) for node in checked(config)}
    assert {stage for stage, code in found.items() if f"{tmp_path}/reward.py" in code} == {"sample", "rl", "look"}
    assert {stage for stage, code in found.items() if f"{tmp_path}/keep.py" in code} == {"keep"}
    config.environment.fn = f"{tmp_path}/play.py:Play"
    found = {node.stage: code_of(node, config) for node in checked(config)}
    assert {stage for stage, code in found.items() if f"{tmp_path}/play.py" in code} == {"sample", "rl", "look"}


def test_a_model_that_moved_is_the_same(model, tmp_path):
    keys = []
    for folder in (model, copy_of(model, tmp_path / "moved")):
        config = compose([*line({"sft": SFT}), *TINY, f"model.path={folder}", f"run_dir={tmp_path / 'run'}"])
        nodes, inputs = checked(config), prepared(config, tmp_path)
        with ArtefactStore(tmp_path / "artefacts") as store:
            keys.append(stage_index(config, nodes, store, roots_in(config, nodes, store, inputs)).known()[0])
    assert keys[0] == keys[1]
    assert list(keys[0]) == [(1, "sft")]


def test_status_of_a_run_folder_reads_the_store_alone(model, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    config = compose([*line({"sft": SFT, "look": LOOK}), *TINY, f"model.path={model}", f"run_dir={run_dir}"])
    nodes, run_dir = checked(config), claim(config)
    inputs = prepared(config, tmp_path)
    monkeypatch.setattr("actors.commands.rounds.prepare", lambda *_: pytest.fail("data or model were read"))
    assert status(status_config([str(run_dir)])) == 0  # before the first start
    assert "0 of 2 stages done" in capsys.readouterr().out
    with ArtefactStore(run_dir / "artefacts") as store:
        index = stage_index(config, nodes, store, roots_in(config, nodes, store, inputs))
        store.remember_roots(index.roots)
        (key,) = index.known()[0].values()
        draft = store.begin(
            key, stage="sft", round=1, kind="sft", made=Made.model, config={}, parents={"start": [index.roots["start"]]}
        )
        draft.finish_folder(copy_of(model, tmp_path / "trained"), {})
        before = sorted(p for p in run_dir.rglob("*"))
        for arguments in ([str(run_dir)], [f"run_dir={run_dir}"]):  # while another process writes
            assert status(status_config(arguments)) == 0
            text = capsys.readouterr().out
            assert "1 of 2 stages done" in text
            assert f"model  {run_dir}/artefacts/r01-sft-" in text
    assert sorted(p for p in run_dir.rglob("*")) == before
    with pytest.raises(ConfigError, match="give the run_dir of a start"):
        status_config([str(tmp_path / "nowhere")])
    assert status_config([f"run_dir={tmp_path / 'new'}", "seed=7"]).seed == 7


class ChatTokenizer(FakeTokenizer):
    chat_template = "any"

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt):
        assert add_generation_prompt
        assert not tokenize
        return "".join(f"<{m['role']}>{m['content']}" for m in conversation)


def test_a_new_prompt_has_the_system_prompt_and_a_request_has_not():
    chat = compose(["data.chat_template=true", "data.system_prompt=Be brief.", "data.prompt_template='Q: {prompt}'"])
    assert rendered("1+1", chat, ChatTokenizer()) == ("<user>1+1", (1, 1))
    assert rendered("1+1", chat, ChatTokenizer(), "Be 2.") == ("<system>Be 2.<user>1+1", (2, 1, 1))
    assert rendered("1+1", compose([]), ChatTokenizer()) == ("1+1", (1, 1))
