"""RolloutWorker on real vLLM in Ray actors, fed by the real host sender."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ray = pytest.importorskip("ray")
pytest.importorskip("vllm")

from actors.config.schema import KvAfterUpdate, RolloutConfig  # noqa: E402
from actors.generation.rollout import Finished, Request, RolloutWorker  # noqa: E402
from actors.weights.sender import Sender, WeightSyncError, make_sender  # noqa: E402
from rlcore.interfaces import Sampling  # noqa: E402

CHARACTERS = "0123456789+-=abcdefghijklmnopqrst"
MAX_LEN = 320
EOS = 1
BLOCK = 128  # tokens of a KV block on CPU: only whole blocks are ever cached
PROMPTS = [tuple(3 + (7 * i + j) % 20 for j in range(5 + i % 4)) for i in range(6)]
LONG = tuple(3 + (5 * j) % 23 for j in range(2 * BLOCK + 10))
TOLERANCE = 1e-4
SOME_STEPS_S = 0.03  # a step of 96 sequences takes about 4 ms, and most of them run for dozens

pytestmark = pytest.mark.timeout(600)


class Breakable(RolloutWorker):
    """Lets a test make the engine fail inside a step."""

    def break_step(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError("the step went wrong")

        self._on_loop(lambda: setattr(self._engine, "step", fail))


class Source:
    """A module's weights in buckets of one tensor each: layers fused by vLLM are split over buckets."""

    def __init__(self, model: torch.nn.Module, leave_out: str = "nothing") -> None:
        self.model, self.leave_out = model, leave_out

    def buckets(self, max_bytes: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if self.leave_out not in name:
                yield [(name, parameter)]


def build_model(folder: Path, tied: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    names = ["<pad>", "<eos>", "<unk>", *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(names),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=192,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config).float().eval()
    with torch.no_grad():  # biases start at zero, and a bias that is never sent would go unseen
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


class Rig:
    """An engine, the model it should agree with, and the sender between them."""

    def __init__(self, folder: Path, tied: bool, tensor_parallel_size: int = 1, **options: Any) -> None:
        self.model = build_model(folder, tied)
        actor = ray.remote(num_cpus=0, max_concurrency=4)(Breakable)
        self.engine = actor.remote()
        config = RolloutConfig(cpu_kv_cache_gib=0.25, tensor_parallel_size=tensor_parallel_size, **options)
        self.info = ray.get(self.engine.start.remote(str(folder), config, "cpu", "float32", MAX_LEN, 1, 0))
        self.version, self.calls = 0, 0
        self.sender = self.make_sender()

    def make_sender(self, leave_out: str = "nothing") -> Sender:
        sender = make_sender(
            "host",
            Source(self.model, leave_out),
            rank=0,
            dtype=torch.float32,
            bucket_bytes=2**20,
            deadline_s=120,
        )
        sender.connect([self.engine])
        return sender

    def sync(self) -> dict[str, float]:
        self.version += 1
        return self.sender.send(self.version)

    def perturb(self) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    def submit(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> str:
        self.calls += 1
        requests = [Request(i, f"p{i}", prompt) for i, prompt in enumerate(prompts)]
        ray.get(self.engine.submit.remote(f"c{self.calls}", requests, sampling))
        return f"c{self.calls}"

    def collect(self, count: int) -> list[Finished]:
        groups: list[Finished] = []
        ends_at = time.monotonic() + 120
        while len(groups) < count:
            assert time.monotonic() < ends_at, f"{len(groups)} of {count} groups after 120 s"
            groups += ray.get(self.engine.collect.remote(5.0)).groups
        return sorted(groups, key=lambda group: group.index)

    def generate(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> list[Finished]:
        self.submit(prompts, sampling)
        return self.collect(len(prompts))

    def worst(self, prompts: list[tuple[int, ...]], groups: list[Finished], version: int | None = None) -> float:
        """Largest difference between rollout log-probs and a forward pass of the model as it is now.

        Args:
            version: of the tokens to compare; None: all.
        """
        worst = 0.0
        for group in groups:
            prompt = prompts[group.index]
            for sample in group.samples:
                ids = torch.tensor([[*prompt, *sample.token_ids.tolist()]])
                with torch.no_grad():
                    every = self.model(ids).logits.log_softmax(-1)
                ours = every[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
                chosen = np.full(len(ours), True) if version is None else sample.versions == version
                worst = max(worst, np.abs(ours.numpy() - sample.logprobs)[chosen].max(initial=0.0))
        return worst


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=["untied", "tied"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp(request.param), request.param == "tied")
    rig.sync()
    yield rig
    ray.get(rig.engine.shutdown.remote())
    ray.kill(rig.engine)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Rig]:
    """An engine that has no weights yet."""
    rig = Rig(tmp_path, tied=False)
    yield rig
    ray.kill(rig.engine)


def tokens(groups: list[Finished]) -> list[list[list[int]]]:
    return [[sample.token_ids.tolist() for sample in group.samples] for group in groups]


def test_log_probs_are_those_of_the_trainer_after_every_sync(rig: Rig) -> None:
    assert rig.worst(PROMPTS, rig.generate(PROMPTS, Sampling(4, 24))) < TOLERANCE
    before = rig.generate(PROMPTS, Sampling(1, 24))
    rig.perturb()
    assert rig.worst(PROMPTS, before) > 100 * TOLERANCE  # the comparison can tell two sets of weights apart
    sent = rig.sync()
    assert sent["bytes"] >= 4 * sum(p.numel() for p in rig.model.parameters())
    assert sent["buckets"] == len(list(rig.model.named_parameters(remove_duplicate=False)))
    after = rig.generate(PROMPTS, Sampling(4, 24))
    assert rig.worst(PROMPTS, after) < TOLERANCE
    assert {int(v) for g in after for s in g.samples for v in s.versions} == {rig.version}


def test_samples_are_complete_records(rig: Rig) -> None:
    groups = rig.generate(PROMPTS, Sampling(3, 40))
    assert [group.index for group in groups] == list(range(len(PROMPTS)))
    for sample in (sample for group in groups for sample in group.samples):
        assert sample.token_ids.dtype == np.int32
        assert sample.logprobs.dtype == np.float32
        assert sample.token_ids.shape == sample.logprobs.shape == sample.versions.shape
        assert sample.finish_reason == ("stop" if sample.token_ids[-1] == EOS else "length")
        assert sample.finish_reason == "stop" or len(sample.token_ids) == 40
        assert sample.text == "".join(CHARACTERS[t - 3] for t in sample.token_ids if t >= 3)
    assert {"stop", "length"} == {sample.finish_reason for group in groups for sample in group.samples}


def test_temperature_is_part_of_the_log_probs(rig: Rig) -> None:
    (group,) = rig.generate(PROMPTS[:1], Sampling(2, 16, temperature=0.5))
    prompt = PROMPTS[0]
    for sample in group.samples:
        ids = torch.tensor([[*prompt, *sample.token_ids.tolist()]])
        with torch.no_grad():
            every = (rig.model(ids).logits / 0.5).log_softmax(-1)
        ours = every[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(sample.logprobs, ours, atol=TOLERANCE)


def test_temperature_zero_takes_the_likeliest_token(rig: Rig) -> None:
    (group,) = rig.generate(PROMPTS[:1], Sampling(1, 16, temperature=0.0))
    got = group.samples[0].token_ids.tolist()
    with torch.no_grad():
        best = rig.model(torch.tensor([[*PROMPTS[0], *got]])).logits.argmax(-1)[0]
    assert got == best[len(PROMPTS[0]) - 1 : -1].tolist()


def test_the_same_seed_gives_the_same_tokens(rig: Rig) -> None:
    prompts = [*PROMPTS, LONG]  # one that the prefix cache holds the second time
    first, second = (rig.generate(prompts, Sampling(4, 24, seed=11)) for _ in range(2))
    assert tokens(first) == tokens(second)
    assert tokens(first) != tokens(rig.generate(prompts, Sampling(4, 24, seed=12)))
    assert len({tuple(t) for t in tokens(first)[0]}) > 1  # the samples of one prompt differ


def test_an_update_in_the_middle_of_generation(rig: Rig) -> None:
    """Everything survives; tokens before it have the old version, tokens after it the new one."""
    before = rig.version
    rig.submit(PROMPTS, Sampling(16, 150))
    time.sleep(SOME_STEPS_S)
    rig.perturb()
    rig.sync()
    groups = rig.collect(len(PROMPTS))
    samples = [sample for group in groups for sample in group.samples]
    assert len(samples) == 16 * len(PROMPTS)
    switched = 0
    for sample in samples:
        assert set(sample.versions.tolist()) <= {before, before + 1}
        assert (np.diff(sample.versions) >= 0).all()
        switched += len(set(sample.versions.tolist())) == 2
        if len(sample.versions) == 150:  # ran until long after the update
            assert sample.versions[-1] == before + 1
    assert switched > 0
    assert rig.worst(PROMPTS, rig.generate(PROMPTS, Sampling(2, 24))) < TOLERANCE


def test_the_switch_is_counted_per_sequence(rig: Rig) -> None:
    """The first token labelled with the new version is the first whose log-prob the old weights do not explain."""
    before = rig.version
    old = {name: value.clone() for name, value in rig.model.state_dict().items()}
    rig.submit(PROMPTS, Sampling(16, 150))
    time.sleep(SOME_STEPS_S)
    rig.perturb()
    rig.sync()
    groups = rig.collect(len(PROMPTS))
    new = {name: value.clone() for name, value in rig.model.state_dict().items()}
    rig.model.load_state_dict(old)
    checked = exact = 0
    for group in groups:
        prompt = PROMPTS[group.index]
        for sample in group.samples:
            ids = torch.tensor([[*prompt, *sample.token_ids.tolist()]])
            with torch.no_grad():
                every = rig.model(ids).logits.log_softmax(-1)
            ours = every[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0].numpy()
            wrong = np.flatnonzero(np.abs(ours - sample.logprobs) > TOLERANCE)
            is_new = np.flatnonzero(sample.versions == before + 1)
            first_new = is_new[0] if is_new.size else len(sample.versions)
            assert not (wrong < first_new).any()
            if is_new.size and first_new > 0:
                checked += 1
                exact += first_new in wrong  # two sets of weights may agree on a token by chance
    rig.model.load_state_dict(new)
    assert checked > 0
    assert exact > 0.9 * checked


@pytest.mark.slow
@pytest.mark.parametrize("kv", KvAfterUpdate)
def test_the_kv_cache_of_running_requests_after_an_update(tmp_path: Path, kv: KvAfterUpdate) -> None:
    """Recomputed, later tokens have the new weights' log-probs given all that came before; kept, they do not."""
    rig, prompts = Rig(tmp_path, tied=False, kv_after_update=kv, max_num_seqs=24), [*PROMPTS, LONG]
    rig.sync()
    rig.generate([LONG], Sampling(1, 1))  # the cache holds two blocks of it
    for _ in range(2):
        rig.submit(prompts, Sampling(8, 50, temperature=1.0))  # 56 samples: some wait
        time.sleep(SOME_STEPS_S)
        rig.perturb()
        rig.sync()
        groups = rig.collect(len(prompts))
        assert {group.begun_version for group in groups} == {rig.version - 1}
        versions = [sample.versions for group in groups for sample in group.samples]
        assert any(set(v.tolist()) == {rig.version - 1, rig.version} for v in versions)
        assert (rig.worst(prompts, groups, rig.version) < TOLERANCE) == (kv is KvAfterUpdate.recompute)
    after = rig.generate(prompts, Sampling(2, 24, seed=3))
    assert rig.worst(prompts, after) < TOLERANCE
    assert {group.begun_version for group in after} == {rig.version}
    assert tokens(after) == tokens(rig.generate(prompts, Sampling(2, 24, seed=3)))
    ray.kill(rig.engine)


def test_collect_ends_when_there_is_room_or_after_a_nudge(rig: Rig) -> None:
    begun = time.monotonic()
    rig.submit(PROMPTS, Sampling(16, 300))
    some = ray.get(rig.engine.collect.remote(60.0, "another call", 90))
    assert some.groups == []
    assert 0 < some.unfinished <= 90
    waiting = rig.engine.collect.remote(60.0, "another call")
    ray.get(rig.engine.nudge.remote())
    assert ray.get(waiting).groups == []
    rig.collect(len(PROMPTS))
    assert ray.get(rig.engine.collect.remote(0.1)).unfinished == 0
    idle_s, busy_s = ray.get(rig.engine.seconds.remote())
    assert busy_s > 0
    time.sleep(0.5)
    assert ray.get(rig.engine.seconds.remote())[0] > idle_s + 0.3
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_cached_prefixes_do_not_outlive_their_weights(rig: Rig, busy: bool) -> None:
    rig.generate([LONG], Sampling(1, 1))  # now the cache holds two blocks of it
    other = rig.submit([PROMPTS[0]], Sampling(32, 300, temperature=2.0)) if busy else None
    rig.perturb()
    rig.sync()
    assert ray.get(rig.engine.idle.remote()) is not busy
    rig.submit([LONG], Sampling(2, 8))
    groups = [group for group in rig.collect(1 + busy) if group.call_id != other]
    assert rig.worst([LONG], groups) < TOLERANCE


def test_stop_strings_end_a_sample_and_stay_in_it(rig: Rig) -> None:
    free = rig.generate(PROMPTS, Sampling(8, 40))
    letter = next(s.text[3] for g in free for s in g.samples if len(s.text) > 8)
    groups = rig.generate(PROMPTS, Sampling(8, 40, stop=(letter,)))
    stopped = [s for g in groups for s in g.samples if letter in s.text]
    assert stopped
    for sample in stopped:
        assert sample.finish_reason == "stop"
        assert sample.text.index(letter) == len(sample.text) - 1
        assert len(sample.token_ids) == len(sample.logprobs) == len(sample.versions)


def test_two_calls_at_once_keep_their_results_apart(rig: Rig) -> None:
    first = rig.submit(PROMPTS[:3], Sampling(2, 30))
    second = rig.submit(PROMPTS[3:], Sampling(2, 10))
    groups = rig.collect(len(PROMPTS))
    assert sorted((g.call_id, g.index) for g in groups) == [(c, i) for c in sorted([first, second]) for i in range(3)]
    assert rig.worst(PROMPTS[3:], [g for g in groups if g.call_id == second]) < TOLERANCE


def test_an_aborted_call_leaves_nothing_behind(rig: Rig) -> None:
    gone = rig.submit(PROMPTS, Sampling(16, 300))
    assert not ray.get(rig.engine.idle.remote())
    ray.get(rig.engine.abort.remote(gone))
    assert ray.get(rig.engine.idle.remote())
    assert ray.get(rig.engine.collect.remote(0.2)).groups == []
    assert ray.get(rig.engine.describe.remote())["running"] == 0


def test_bad_requests_are_refused_as_a_whole(rig: Rig) -> None:
    good, endless = Request(0, "good", PROMPTS[0]), Request(1, "endless", (5,) * MAX_LEN)
    for requests, message in (
        ([good, endless], "'endless' has 320 tokens"),
        ([good, good], "used twice"),
        ([Request(0, "empty", ())], "'empty' has 0 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            ray.get(rig.engine.submit.remote("bad", requests, Sampling(1, 4)))
    assert ray.get(rig.engine.idle.remote())


def test_sleep_and_wake(rig: Rig) -> None:
    rig.submit(PROMPTS, Sampling(16, 300))
    with pytest.raises(RuntimeError, match="groups under way"):
        ray.get(rig.engine.sleep.remote(1))
    rig.collect(len(PROMPTS))
    ray.get(rig.engine.sleep.remote(1))
    with pytest.raises(RuntimeError, match="wake it first"):
        rig.submit(PROMPTS, Sampling(1, 4))
    ray.get(rig.engine.wake.remote())
    assert rig.worst(PROMPTS, rig.generate(PROMPTS, Sampling(1, 8))) < TOLERANCE


def test_no_sampling_without_a_whole_set_of_weights(fresh: Rig) -> None:
    """Never synced, a weight missing, aborted, out of time: all refuse to sample, and a whole update mends it."""
    refused = lambda: pytest.raises(RuntimeError, match="cannot sample")  # noqa: E731
    with refused():
        fresh.submit(PROMPTS, Sampling(1, 4))
    with pytest.raises(WeightSyncError, match=r"rollout\[0\].*lacks 1 weights.*model\.norm\.weight"):
        fresh.make_sender(leave_out="model.norm").send(1)
    with refused():
        fresh.submit(PROMPTS, Sampling(1, 4))
    assert ray.get(fresh.engine.version.remote()) == -1
    fresh.sync()
    assert fresh.worst(PROMPTS, fresh.generate(PROMPTS, Sampling(1, 8))) < TOLERANCE

    ray.get(fresh.engine.begin_update.remote(7))  # on an idle engine: buckets would be loaded as they come
    fresh.submit(PROMPTS, Sampling(16, 200))
    ray.get(fresh.engine.abort_update.remote())
    with pytest.raises(RuntimeError, match="was aborted"):
        ray.get(fresh.engine.collect.remote(30.0))
    fresh.sync()  # the requests that waited go on
    assert len(fresh.collect(len(PROMPTS))) == len(PROMPTS)

    ray.get(fresh.engine.begin_update.remote(8, 0.2))
    time.sleep(1.0)
    with pytest.raises(RuntimeError, match="not finished before its deadline"):
        fresh.submit(PROMPTS, Sampling(1, 4))
    with pytest.raises(RuntimeError, match="no weight update is under way"):
        ray.get(fresh.engine.finish_update.remote(8))
    fresh.perturb()
    fresh.sync()
    assert fresh.worst(PROMPTS, fresh.generate(PROMPTS, Sampling(1, 8))) < TOLERANCE


def test_a_dead_loop_tells_every_caller_and_the_sender_names_the_engine(fresh: Rig, tmp_path: Path) -> None:
    fresh.sync()
    fresh.submit(PROMPTS, Sampling(16, 200))
    waiting = fresh.engine.collect.remote(60.0)
    ray.get(fresh.engine.break_step.remote())
    with pytest.raises(RuntimeError, match="ZeroDivisionError: the step went wrong"):
        ray.get(waiting, timeout=30)
    for call in (fresh.engine.version.remote(), fresh.engine.collect.remote(60.0), fresh.engine.idle.remote()):
        with pytest.raises(RuntimeError, match="the rollout loop died: ZeroDivisionError"):
            ray.get(call, timeout=30)

    survivor = Rig(tmp_path / "survivor", tied=False)
    with pytest.raises(WeightSyncError, match=r"rollout\[1\].*init_weights.*ZeroDivisionError"):
        survivor.sender.connect([survivor.engine, fresh.engine])
    with pytest.raises(WeightSyncError, match=r"rollout\[1\].*ZeroDivisionError") as failure:
        survivor.sync()
    assert list(failure.value.failed) == [1]
    assert ray.get(survivor.engine.version.remote()) == survivor.version
    assert survivor.worst(PROMPTS, survivor.generate(PROMPTS, Sampling(1, 8))) < TOLERANCE
    ray.kill(fresh.engine)  # a process that is gone is named just as well
    with pytest.raises(WeightSyncError, match=r"rollout\[1\]: begin_update: .*Actor"):
        survivor.sync()
    assert survivor.sender.send(9, [0])["buckets"] > 0
    ray.kill(survivor.engine)


def test_a_failed_start_is_reported_at_once_and_later() -> None:
    engine = ray.remote(num_cpus=0, max_concurrency=4)(RolloutWorker).remote()
    with pytest.raises(Exception, match="no-such-model"):
        ray.get(engine.start.remote("./no-such-model", RolloutConfig(), "cpu", "float32", 32, 1, 0))
    with pytest.raises(RuntimeError, match=r"the rollout loop died.*no-such-model"):
        ray.get(engine.collect.remote(0.1))
    ray.kill(engine)


@pytest.mark.slow
def test_tensor_parallel_engines_take_the_same_buckets(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tied=True, tensor_parallel_size=2)
    try:
        for _ in range(2):
            rig.perturb()
            rig.sync()
            first = rig.generate(PROMPTS, Sampling(4, 16, seed=3))
            assert rig.worst(PROMPTS, first) < TOLERANCE
        assert tokens(first) == tokens(rig.generate(PROMPTS, Sampling(4, 16, seed=3)))
    finally:
        ray.get(rig.engine.shutdown.remote())
        ray.kill(rig.engine)
