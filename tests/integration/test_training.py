"""Real DeepSpeed in real processes: groups of one and of two gloo ranks on loopback, against plain PyTorch.

Each group is started once; its processes build engines of every ZeRO stage one after another.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing as mp
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from actors.config.schema import DType, EngineConfig, ModelConfig, Offload, OptimizerConfig
from actors.training.engine import TrainEngine
from actors.training.masters import STEM, SUFFIX
from actors.training.offload import Held
from actors.training.scorer import real
from actors.training.worker import PolicyWorker, ReferenceWorker, StartSpec
from rlcore import metrics as M
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.algorithms.policy_gradient import PolicyGradientObjective
from rlcore.algorithms.supervised import SupervisedObjective
from rlcore.objective import Outputs, TensorBatch
from rlcore.ops import logprobs as ops
from rlcore.ops.logprobs import token_logprobs, token_logprobs_and_entropy
from rlcore.storage.durable import content_problems
from rlcore.types import TrainBatch
from tests.integration.ports import free_port

SLOW = pytest.mark.slow
VOCABULARY, LR, TEMPERATURE = 61, 1e-3, 0.7
STAGES = (0, 1, 2, 3)
VARIANTS = [
    *((stage, "float32") for stage in STAGES),
    *((stage, "bfloat16") for stage in (0, 2, 3)),
    *((stage, "offload") for stage in (1, 2, 3)),
]


def usual(cases: Iterable[tuple[Any, ...]], *wanted: tuple[Any, ...]) -> list[Any]:
    """The cases as parameters; all but the wanted ones are slow."""
    return [pytest.param(*case, marks=() if case in wanted else SLOW) for case in cases]


RETURNS = [  # (stage, variant, what leaves the GPU)
    pytest.param(*case, marks=() if case in ((0, "float32", Offload.all),
                                             (2, "bfloat16", Offload.all), (3, "bfloat16", Offload.all)) else SLOW)
    for case in itertools.product(STAGES, ("float32", "bfloat16"), (Offload.optimizer, Offload.all))
]  # fmt: skip
RL = PolicyGradientObjective(AlgorithmConfig(kl_coef=0.1, entropy_coef=0.01), TEMPERATURE, 16)
OBJECTIVES = {"rl": RL, "sft": SupervisedObjective()}
# Adam divides by the gradient's own size: a larger eps keeps rounding of near-zero gradients out of the comparison
OPTIMIZER = OptimizerConfig(eps=1e-4, weight_decay=0.1, max_grad_norm=0.5)


class Ranks:
    """Processes that run a function of this module on every rank and hand back the results."""

    def __init__(self, size: int) -> None:
        context = mp.get_context("spawn")
        port = free_port()
        self.size, self.pipes, self.processes = size, [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, port, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any, per_rank: list[tuple[Any, ...]] | None = None) -> list[Any]:
        for rank, pipe in enumerate(self.pipes):
            pipe.send((function, args + (per_rank[rank] if per_rank else ())))
        results = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(120):
                raise TimeoutError(f"rank {rank} of {self.size} did not finish {function.__name__}")
            ok, value = pipe.recv()
            results.append(value if ok else AssertionError(f"rank {rank}:\n{value}"))
        failed = [r for r in results if isinstance(r, AssertionError)]
        if failed:
            raise failed[0]
        return results

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, size: int, port: int, pipe: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    here = SimpleNamespace(rank=rank, size=size, port=port, worker=None, started=False)
    while True:
        function, args = pipe.recv()
        try:
            pipe.send((True, function(here, *args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))


@pytest.fixture(scope="module")
def one() -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random Qwen2 models, untied and tied, each beside a file that an export must carry over."""
    made = {}
    for name, tied in (("untied", False), ("tied", True)):
        torch.manual_seed(3)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            initializer_range=0.2,
        )
        path = tmp_path_factory.mktemp(name)
        Qwen2ForCausalLM(config).save_pretrained(path)
        (path / "tokenizer_config.json").write_text('{"kept": true}')
        made[name] = str(path)
    return made


def make_batch(num_rows: int = 7, seed: int = 0) -> TrainBatch:
    """Rows of 5 to 13 tokens, prompts of 2 to 4 included; off-policy, so that ratios, clips, KL and weights count."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 14, num_rows).astype(np.int32)
    width = int(lengths.max())
    column = np.arange(width)
    real = column < lengths[:, None]
    mask = real & (column >= rng.integers(2, 5, num_rows)[:, None])
    base = rng.normal(-4.0, 0.5, (num_rows, width))

    def noisy() -> Any:
        return np.where(mask, base + rng.normal(0, 0.3, base.shape), 0).astype(np.float32)

    return TrainBatch.from_padded(
        tokens=np.where(real, rng.integers(0, VOCABULARY, (num_rows, width)), 0).astype(np.int32),
        lengths=lengths,
        loss_mask=mask,
        sample_ids=[f"s{i}" for i in range(num_rows)],
        rollout_logprobs=noisy(),
        old_logprobs=noisy(),
        ref_logprobs=noisy(),
        advantages=np.where(mask, rng.normal(0, 1, num_rows)[:, None], 0).astype(np.float32),
    )


# Shards of seven rows over ranks: rows of each rank, and its micro-batches as positions in them
SPLITS_ONE = {
    "whole": [(range(7), [range(7)])],
    "uneven": [([3, 0, 6, 1, 2, 5, 4], [[0], [1, 2, 3], [], [4, 5, 6]])],
}
SPLITS_TWO = {
    "even": [([0, 2, 4, 6], [[0, 1], [2, 3]]), ([5, 3, 1], [[2, 1], [0]])],
    "empty rank": [(range(7), [[0, 1, 2], [6], [3, 4, 5]]), ([], [[], [], []])],
    "uneven": [([6], [[], [0]]), ([0, 1, 2, 3, 4, 5], [[5, 0, 1, 2, 3], [4]])],
}


def deal(batch: TrainBatch, split: list[tuple[Any, Any]]) -> list[tuple[Any, ...]]:
    return [(batch.select(list(rows)), [list(m) for m in micro]) for rows, micro in split]


# ---- what runs on a rank


def build(here: Any, path: str, stage: int, **options: Any) -> None:
    """A fresh policy in this process, through `start` the first time; a process joins its group only once."""
    here.worker = None
    here.before = large_storages()  # DeepSpeed keeps some of an engine that is gone
    extra = {"optimizer": options.pop("optimizer", OPTIMIZER), "offload": options.pop("while_sampling", Offload.none)}
    # DeepSpeed's bucket of 2 GB is not used up here, but a return from the host would fill it with zeros
    zero = {"reduce_bucket_size": 10**6}
    if extra["offload"] is Offload.all:  # without it ZeRO-3 keeps all parameters of a model as small as this gathered
        zero["stage3_param_persistence_threshold"] = 0
    extra["extra"] = {"zero_optimization": zero}
    engine = EngineConfig(zero_stage=stage, offload_optimizer=options.pop("offload", False), **extra)
    model = ModelConfig(path=path, **options)
    worker = PolicyWorker()
    if here.started:
        worker._engine = TrainEngine(path, model, engine, "cpu")
    else:
        spec = StartSpec(here.rank, here.size, "127.0.0.1", here.port, "cpu", path, model, engine, 5, 1, 60.0)
        described = worker.start(spec)
        assert described["pid"] == os.getpid()
        assert (described["rank"], described["world_size"]) == (here.rank, here.size)
    here.started, here.worker = True, worker


def build_as(here: Any, path: str, stage: int, variant: str, while_sampling: Offload = Offload.none) -> None:
    """`variant`: float32, bfloat16, or offload (float32, optimizer in host memory)."""
    dtype = DType.bfloat16 if variant == "bfloat16" else DType.float32
    build(here, path, stage, dtype=dtype, offload=variant == "offload", while_sampling=while_sampling)
    parameter = next(here.worker.engine.module.parameters())
    assert str(parameter.dtype) == f"torch.{dtype.value}"


def weights(engine: TrainEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for bucket in engine.buckets(6000) for name, tensor in bucket}


def gradients(engine: TrainEngine) -> dict[str, torch.Tensor]:
    """The full gradient by parameter name, between the last `backward` and `step`."""
    from deepspeed.utils import safe_get_full_grad

    named = [(n.removeprefix("hf."), p) for n, p in engine.scorer.named_parameters() if p.requires_grad]
    return {n: safe_get_full_grad(p).detach().float().cpu().clone() for n, p in named}


def update(here: Any, denominator: float, objective: str, shard: TrainBatch, micro: list[list[int]]) -> Any:
    """Metrics, gradient and new weights of one update."""
    engine, seen = here.worker.engine, {}
    plain = engine.step

    def step(learning_rate: float) -> tuple[float, bool]:
        seen.update(gradients(engine))
        return plain(learning_rate)

    engine.step = step
    try:
        metrics = here.worker.update(shard, micro, denominator, LR, OBJECTIVES[objective])
    finally:
        del engine.step
    return metrics, {n: g.numpy() for n, g in seen.items()}, numpy(weights(engine))


def masters(here: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param

    named = here.worker.engine.module.named_parameters()
    return {name: safe_get_full_fp32_param(p).view(getattr(p, "ds_shape", p.shape)).numpy().copy() for name, p in named}


def numpy(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: t.float().numpy() for name, t in tensors.items()}


def call(here: Any, method: str, *args: Any) -> Any:
    return getattr(here.worker, method)(*args)


def state(here: Any) -> dict[str, Any]:
    return numpy(weights(here.worker.engine))


def bucket_sizes(here: Any, max_bytes: int) -> list[list[tuple[str, int]]]:
    return [[(n, t.numel() * t.element_size()) for n, t in b] for b in here.worker.engine.buckets(max_bytes)]


def frozen_logprobs(here: Any, path: str, stage: int, shard: TrainBatch, micro: list[list[int]]) -> Any:
    worker = ReferenceWorker()
    worker._engine = TrainEngine(path, ModelConfig(path=path), EngineConfig(zero_stage=stage), "cpu", trainable=False)
    assert worker.engine._adam is None if stage == 3 else worker.engine._engine is None
    return worker.numbers(shard, micro, TEMPERATURE), worker.describe()


# ---- the plain twin


class Plain:
    """One process, one batch, no DeepSpeed: what every layout must equal."""

    def __init__(self, path: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
        o = OPTIMIZER
        self.adam = torch.optim.AdamW(self.model.parameters(), LR, tuple(o.betas), o.eps, o.weight_decay)

    def logits(self, batch: TensorBatch) -> torch.Tensor:
        return self.model(input_ids=batch.tokens, attention_mask=real(batch.tokens, batch.lengths).long()).logits

    def update(self, train: TrainBatch, objective: str) -> tuple[M.Metrics, dict[str, Any], float]:
        goal, batch = OBJECTIVES[objective], TensorBatch.from_train_batch(train)
        logprobs, entropy = token_logprobs_and_entropy(self.logits(batch), batch.tokens, goal.temperature)
        outputs = Outputs(logprobs, entropy if goal.needs_entropy else None)
        loss, metrics = goal.loss(outputs, batch, goal.denominator(train))
        loss.backward()
        gradient = {n: p.grad.numpy().copy() for n, p in self.model.named_parameters()}
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.max_grad_norm))
        self.adam.step()
        self.adam.zero_grad()
        return metrics, gradient, norm

    def weights(self) -> dict[str, Any]:
        return {n: p.detach().numpy().copy() for n, p in self.model.named_parameters(remove_duplicate=False)}


def assert_close(got: dict[str, Any], wanted: dict[str, Any], relative: float) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = np.abs(value).max()
        assert np.abs(got[name] - value).max() <= relative * scale, name


def assert_equal(got: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], value) for name, value in wanted.items())


# ---- tests


@pytest.mark.parametrize(("size", "stage"), usual(itertools.product((1, 2), STAGES), (2, 0), (2, 3)))
def test_any_split_trains_as_one_plain_batch(request: Any, folders: Any, stage: int, size: int) -> None:
    ranks = request.getfixturevalue("one" if size == 1 else "two")
    splits = SPLITS_ONE if size == 1 else SPLITS_TWO
    for number, (name, split) in enumerate(splits.items()):
        folder = folders["tied" if number % 2 else "untied"]
        plain = Plain(folder)
        ranks.run(build, folder, stage)
        for step, objective in enumerate(("rl", "rl", "sft")):  # moments and step counts must agree too
            batch = make_batch(seed=step)
            denominator = OBJECTIVES[objective].denominator(batch)
            wanted, gradient, norm = plain.update(batch, objective)
            results = ranks.run(update, denominator, objective, per_rank=deal(batch, split))
            for _, got, after in results:
                assert_close(got, gradient, 1e-5 if step == 0 else 1e-3)
                for key, weight in plain.weights().items():  # Adam moves by LR at most, whatever the gradient
                    assert np.abs(after[key] - weight).max() < (1e-3 if step == 0 else 2e-2) * LR, (name, key)
            values = M.values(M.merge(metrics for metrics, _, _ in results))
            assert values["actor/grad_norm"] == pytest.approx(norm, rel=1e-5 if step == 0 else 1e-3)
            assert norm > OPTIMIZER.max_grad_norm  # else clipping was not tested
            assert values["actor/lr"] == LR
            assert values["actor/skipped_steps"] == 0
            for key, value in M.values(wanted).items():
                if key == "rollout/ess":  # of the samples of a micro-batch, so it depends on the split
                    continue
                assert values[key] == pytest.approx(value, rel=2e-3, abs=1e-5), (name, key)


@pytest.mark.parametrize(("size", "stage"), usual(itertools.product((1, 2), (1, 2, 3)), (2, 2), (2, 3)))
def test_float32_weights_survive_bfloat16(request: Any, folders: Any, tmp_path: Path, stage: int, size: int) -> None:
    ranks = request.getfixturevalue("one" if size == 1 else "two")
    ranks.run(build_as, folders["tied"], stage, "bfloat16")
    plain = Plain(folders["tied"]).model.named_parameters()
    assert_equal(ranks.run(masters)[-1], {name: p.detach().numpy() for name, p in plain})
    some_updates(ranks, range(2))
    held = ranks.run(masters)[-1]
    ranks.run(call, "export", str(tmp_path / "next"), True)
    ranks.run(call, "export", str(tmp_path / "plain"))
    assert not (tmp_path / "plain" / f"{STEM}{SUFFIX}").exists()
    assert (tmp_path / "next" / f"{STEM}{SUFFIX}").exists()
    AutoModelForCausalLM.from_pretrained(tmp_path / "next")
    ranks.run(call, "reset_optimizer")
    some_updates(ranks, range(2, 4))
    unbroken = ranks.run(masters)[-1]
    for folder, same in (("plain", False), ("next", True)):
        ranks.run(build_as, str(tmp_path / folder), stage, "bfloat16")
        again = ranks.run(masters)[-1]
        assert all(np.array_equal(again[n], held[n]) for n in held) == same
    some_updates(ranks, range(2, 4))
    assert_equal(ranks.run(masters)[-1], unbroken)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloading_the_optimizer_changes_nothing(two: Ranks, folders: Any, stage: int) -> None:
    seen = []
    for variant in ("float32", "offload"):
        two.run(build_as, folders["untied"], stage, variant)
        some_updates(two, range(3))
        seen.append(two.run(state)[0])
    for name, weight in seen[0].items():
        assert np.abs(seen[1][name] - weight).max() < 2e-2 * LR, name


def large_storages() -> dict[int, tuple[torch.UntypedStorage, str]]:
    """Those above 4 KiB of all tensors that Python reaches in this process."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.device.type == "cpu"]
    found = {x.untyped_storage()._cdata: (x.untyped_storage(), f"{tuple(x.shape)} {x.dtype}") for x in tensors}
    return {key: entry for key, entry in found.items() if entry[0].nbytes() > 4096}


def engine_tensors(here: Any) -> list[tuple[torch.UntypedStorage, str]]:
    """Large storages since `build`, except copies of the offloading."""
    memory = here.worker.engine._memory
    moved = [host for _, _, parts in [*memory._weights._moved, *memory._training._moved] for host in parts or []]
    known = {host.untyped_storage()._cdata for host in moved} | here.before.keys()
    return [entry for key, entry in large_storages().items() if key not in known]


def everything(here: Any) -> dict[str, Any]:
    """Weights, masters and moments, by storage; not the gradients and gathered parameters of ZeRO-3."""
    found, engine, unused = {}, here.worker.engine, set()
    if engine.stage == 3:
        others = [engine._engine.optimizer.grad_partitions_flat_buffer, *engine.module.parameters()]
        unused = {x.untyped_storage()._cdata for x in others}
    for i, (storage, _) in enumerate(engine_tensors(here)):
        if storage._cdata not in unused and storage.nbytes() < 1 << 20:  # ZeRO-3's reduction bucket is larger
            found[str(i)] = torch.empty(0, dtype=torch.uint8).set_(storage).clone().numpy()
    return found


def released(here: Any) -> tuple[int, int, list[str]]:
    """Bytes of the weights, and bytes and shapes of what is left after the engine released its memory."""
    here.worker.release(Held.NOTHING)
    parameters = here.worker.engine.module.parameters()
    weights = sum(p.element_size() * getattr(p, "ds_tensor", p).numel() for p in parameters)
    left = engine_tensors(here)
    return weights, sum(storage.nbytes() for storage, _ in left), [shape for _, shape in left]


def resizable(here: Any) -> None:
    """On CPU weights that were loaded without a copy lie in the mapped file, and cannot be freed."""
    for parameter in here.worker.engine.scorer.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize(("stage", "variant", "offload"), RETURNS)
def test_memory_that_returns_from_the_host_trains_on_bit_for_bit(
    two: Ranks, folders: Any, tmp_path: Path, stage: int, variant: str, offload: Offload
) -> None:
    has_masters = bool(stage or variant == "bfloat16")
    two.run(build_as, folders["untied"], stage, variant)
    calls = [(*call_, TEMPERATURE) for call_ in deal(make_batch(seed=9), SPLITS_TWO["even"])]

    def step(seed: int, *release: Held) -> Any:
        for held in release:
            two.run(call, "release", held)
        scored = two.run(call, "numbers", per_rank=calls)
        some_updates(two, range(seed, seed + 1))
        return scored

    plain = [step(seed) for seed in range(3)]
    wanted = two.run(state) + (two.run(masters) if has_masters else [])
    two.run(build_as, folders["untied"], stage, variant, offload)
    if not has_masters:
        two.run(resizable)
    again = [step(0), step(1, Held.WEIGHTS, Held.NOTHING), step(2, Held.NOTHING, Held.NOTHING)]
    for a, b in zip(plain, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    before = two.run(everything)
    for rank, (weights_bytes, left, shapes) in enumerate(two.run(released)):
        assert sum(x.size for x in before[rank].values()) > 1.5 * weights_bytes
        assert left <= (0 if offload is Offload.all else 1.01 * weights_bytes), shapes
    two.run(call, "save", str(tmp_path))  # brings everything back
    for rank, kept in enumerate(two.run(everything)):
        assert {x.tobytes() for x in kept.values()} == {x.tobytes() for x in before[rank].values()}
    found = two.run(state) + (two.run(masters) if has_masters else [])
    for got, want in zip(found, wanted, strict=True):
        assert_equal(got, want)


def frozen_and_back(here: Any, path: str, stage: int, shard: TrainBatch, micro: list[list[int]]) -> list[Any]:
    here.before, here.worker = large_storages(), (worker := ReferenceWorker())
    engine = EngineConfig(zero_stage=stage, offload=Offload.all)
    worker._engine = TrainEngine(path, ModelConfig(path=path), engine, "cpu", trainable=False)
    if stage < 3:
        resizable(here)
    scored = [worker.numbers(shard, micro, TEMPERATURE)]
    return [*scored, released(here)[1], worker.numbers(shard, micro, TEMPERATURE)]


@pytest.mark.parametrize("stage", [0, 3])
def test_frozen_weights_return_from_the_host(two: Ranks, folders: Any, stage: int) -> None:
    calls = deal(make_batch(seed=9), SPLITS_TWO["even"])
    for before, left, after in two.run(frozen_and_back, folders["untied"], stage, per_rank=calls):
        assert left == 0
        assert np.array_equal(before, after)


def deepspeeds_own(here: Any) -> str:
    try:
        here.worker.engine._engine.offload_states(pin_memory=False)
    except (AssertionError, AttributeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("stage", "why"), [(0, "no attribute 'offload_states'"), (3, "only for DeepSpeed FusedAdam")])
def test_deepspeeds_own_offloading_does_not_serve(one: Ranks, folders: Any, stage: int, why: str) -> None:
    """If this fails, `actors.training.offload` may use it."""
    one.run(build, folders["untied"], stage)
    assert why in one.run(deepspeeds_own)[0]


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("kind", ["policy", "reference"])
def test_logprobs_are_those_of_a_plain_forward(two: Ranks, folders: Any, stage: int, kind: str) -> None:
    batch = make_batch(seed=9)
    tensors = TensorBatch.from_train_batch(batch)
    with torch.no_grad():
        wanted = token_logprobs(Plain(folders["untied"]).logits(tensors), tensors.tokens, TEMPERATURE).numpy()
    wanted = np.where(real(tensors.tokens, tensors.lengths).numpy(), wanted, 0.0)
    two.run(build, folders["untied"], stage)
    for split in SPLITS_TWO.values():
        calls = deal(batch, split)
        if kind == "policy":
            pieces = two.run(call, "numbers", per_rank=[(shard, micro, TEMPERATURE) for shard, micro in calls])
        else:
            answers = two.run(frozen_logprobs, folders["untied"], stage, per_rank=calls)
            pieces = [piece for piece, _ in answers]
            assert answers[1][1]["rank"] == 1
        for (rows, micro), piece in zip(split, pieces, strict=True):
            assert piece.dtype == np.float32
            order = [rows[i] for part in micro for i in part]
            padded = batch.select(order).padded(piece)
            assert np.abs(padded - wanted[order][:, : padded.shape[1]]).max(initial=0.0) < 1e-5


def some_updates(ranks: Ranks, seeds: range) -> None:
    split = (SPLITS_ONE if ranks.size == 1 else SPLITS_TWO)["uneven"]
    for seed in seeds:
        batch = make_batch(seed=seed)
        ranks.run(update, RL.denominator(batch), "rl", per_rank=deal(batch, split))


@pytest.mark.parametrize(
    ("stage", "variant"), usual(VARIANTS, (0, "float32"), (2, "bfloat16"), (3, "float32"), (3, "offload"))
)
def test_a_loaded_checkpoint_goes_on_bit_for_bit(
    two: Ranks, folders: Any, tmp_path: Path, stage: int, variant: str
) -> None:
    two.run(build_as, folders["tied"], stage, variant)
    some_updates(two, range(2))
    two.run(call, "save", str(tmp_path))
    saved = two.run(state)[0]
    some_updates(two, range(2, 6))
    uninterrupted = two.run(state)
    two.run(build_as, folders["tied"], stage, variant)
    two.run(call, "load", str(tmp_path))
    assert_equal(two.run(state)[0], saved)
    some_updates(two, range(2, 6))
    for got, wanted in zip(two.run(state), uninterrupted, strict=True):
        assert_equal(got, wanted)
    assert_equal(uninterrupted[0], uninterrupted[1])
    assert any(not np.array_equal(uninterrupted[0][n], saved[n]) for n in saved)


@pytest.mark.parametrize("stage", STAGES)
def test_every_rank_hashes_what_it_has_written(two: Ranks, folders: Any, tmp_path: Path, stage: int) -> None:
    two.run(build, folders["untied"], stage)
    of_ranks = two.run(call, "save", str(tmp_path))
    for rank, sums in enumerate(of_ranks):
        assert f"random-{rank}.pt" in sums
        assert content_problems(tmp_path, sums) == []
    assert not of_ranks[0].keys() & of_ranks[1].keys()
    of_engine = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "engine").iterdir()}
    assert of_engine <= of_ranks[0].keys() | of_ranks[1].keys()
    assert (len([n for n in of_ranks[1] if n.startswith("engine/")]) > 0) == (stage > 0)


def draw(here: Any) -> list[float]:
    import random

    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_random_states_come_back(two: Ranks, folders: Any, tmp_path: Path) -> None:
    two.run(build, folders["untied"], 0)
    two.run(call, "save", str(tmp_path))
    first = two.run(draw)
    assert two.run(draw) != first
    two.run(call, "load", str(tmp_path))
    assert two.run(draw) == first


LAYOUTS = [(1, 0), (2, 0), (1, 2), (2, 2), (2, 3), (1, 3), (2, 1)]


@pytest.mark.parametrize(("source", "target"), list(zip(LAYOUTS, LAYOUTS[1:] + LAYOUTS[:1], strict=True)), ids=str)
@pytest.mark.parametrize("name", ["untied", pytest.param("tied", marks=SLOW)])
def test_a_checkpoint_of_another_layout_goes_on_as_its_own_would(
    request: Any, folders: Any, tmp_path: Path, source: tuple[int, int], target: tuple[int, int], name: str
) -> None:
    """Weights, master weights, moments and step count: three more updates end in the same weights."""
    ranks = {1: request.getfixturevalue("one"), 2: request.getfixturevalue("two")}
    before, after = ranks[source[0]], ranks[target[0]]
    before.run(build, folders[name], source[1])
    some_updates(before, range(3))
    before.run(call, "save", str(tmp_path))
    saved = before.run(state)[0]
    some_updates(before, range(3, 6))
    after.run(build, folders[name], target[1])
    some_updates(after, range(20, 22))  # what was there before the load must leave no trace
    after.run(call, "load", str(tmp_path))
    for rank in after.run(state):
        assert_equal(rank, saved)
    some_updates(after, range(3, 6))
    for rank in after.run(state):
        assert_close(rank, before.run(state)[0], 1e-4)


@pytest.mark.parametrize(("source", "target"), [((2, 0), (1, 2)), ((1, 3), (2, 2)), ((2, 2), (1, 3))], ids=str)
def test_bfloat16_keeps_its_master_weights_in_another_layout(
    request: Any, folders: Any, tmp_path: Path, source: tuple[int, int], target: tuple[int, int]
) -> None:
    ranks = {1: request.getfixturevalue("one"), 2: request.getfixturevalue("two")}
    before, after = ranks[source[0]], ranks[target[0]]
    before.run(build_as, folders["untied"], source[1], "bfloat16")
    some_updates(before, range(3))
    before.run(call, "save", str(tmp_path))
    masters, saved = before.run(master_weights)[0], before.run(state)[0]
    after.run(build_as, folders["untied"], target[1], "bfloat16")
    after.run(call, "load", str(tmp_path))
    assert_equal(after.run(master_weights)[0], masters)
    assert_equal(after.run(state)[0], saved)


def weights_without_optimizer(here: Any, path: str, stage: int, dtype: str, checkpoint: str) -> dict[str, Any]:
    """Weights of a checkpoint in a worker for evaluation."""
    model, engine = ModelConfig(path=path, dtype=DType[dtype]), EngineConfig(zero_stage=stage)
    here.worker = PolicyWorker()
    here.worker._engine = TrainEngine(path, model, engine, "cpu", optimizer=False)
    here.worker.load(checkpoint)
    assert here.worker.describe()["optimizer"] is False
    return state(here)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=SLOW)])
@pytest.mark.parametrize(("source", "target"), list(zip(LAYOUTS, LAYOUTS[1:] + LAYOUTS[:1], strict=True)), ids=str)
def test_weights_are_loaded_without_an_optimizer(
    request: Any, folders: Any, tmp_path: Path, source: tuple[int, int], target: tuple[int, int], dtype: str
) -> None:
    ranks = {1: request.getfixturevalue("one"), 2: request.getfixturevalue("two")}
    before, after = ranks[source[0]], ranks[target[0]]
    before.run(build_as, folders["tied"], source[1], dtype)
    start = before.run(state)[0]
    some_updates(before, range(3))
    before.run(call, "save", str(tmp_path))
    saved = before.run(state)[0]
    assert any(not np.array_equal(start[name], saved[name]) for name in saved)
    after.run(build, folders["untied"], 0)  # the processes of `after` have joined
    for rank in after.run(weights_without_optimizer, folders["tied"], target[1], dtype, str(tmp_path)):
        assert_equal(rank, saved)


def master_weights(here: Any) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param

    named = here.worker.engine.scorer.named_parameters()
    return numpy({name: safe_get_full_fp32_param(parameter) for name, parameter in named})


def test_a_checkpoint_of_the_start_has_no_moments_to_give(two: Ranks, one: Ranks, folders: Any, tmp_path: Path) -> None:
    two.run(build, folders["untied"], 2)
    two.run(call, "save", str(tmp_path))
    one.run(build, folders["untied"], 0)
    some_updates(one, range(2))
    one.run(call, "load", str(tmp_path))
    assert one.run(optimizer_state)[0] == [0.0] * len(one.run(optimizer_state)[0])
    assert_equal(one.run(state)[0], two.run(state)[0])


def test_a_checkpoint_of_another_model_is_refused(one: Ranks, folders: Any, tmp_path: Path) -> None:
    one.run(build, folders["untied"], 0)
    one.run(call, "save", str(tmp_path))
    one.run(build, folders["tied"], 0)
    with pytest.raises(AssertionError, match=r"ValueError: .*was saved with parameters \d+ \(here \d+\)"):
        one.run(call, "load", str(tmp_path))
    with pytest.raises(AssertionError, match="FileNotFoundError"):
        one.run(call, "load", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW), 3])
def test_reset_optimizer_equals_a_fresh_engine(two: Ranks, folders: Any, tmp_path: Path, stage: int) -> None:
    two.run(build, folders["untied"], stage)
    some_updates(two, range(2))
    two.run(call, "export", str(tmp_path))
    two.run(call, "reset_optimizer")
    some_updates(two, range(2, 4))
    after_reset = two.run(state)[0]
    two.run(build, str(tmp_path), stage)
    some_updates(two, range(2, 4))
    assert_equal(two.run(state)[0], after_reset)


@pytest.mark.parametrize(("stage", "variant"), usual(VARIANTS, (0, "float32"), (2, "offload"), (3, "bfloat16")))
def test_reset_optimizer_leaves_nothing(two: Ranks, folders: Any, stage: int, variant: str) -> None:
    two.run(build_as, folders["untied"], stage, variant)
    some_updates(two, range(1))
    assert all(min(held) > 0 for held in two.run(optimizer_state))
    two.run(call, "reset_optimizer")
    assert all(max(held) == 0 for held in two.run(optimizer_state))


def optimizer_state(here: Any) -> list[float]:
    return [float(v.abs().max()) for held in here.worker.engine._adam.state.values() for v in held.values()]


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("name", ["untied", "tied"])
def test_export_and_buckets(two: Ranks, folders: Any, tmp_path: Path, stage: int, name: str) -> None:
    two.run(build, folders[name], stage)
    some_updates(two, range(1))
    two.run(call, "export", str(tmp_path))
    trained = two.run(state)[0]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.float32
    assert_equal(numpy({n: p.detach() for n, p in loaded.named_parameters(remove_duplicate=False)}), trained)
    assert "lm_head.weight" in trained
    assert np.array_equal(trained["lm_head.weight"], trained["model.embed_tokens.weight"]) == (name == "tied")
    assert (tmp_path / "tokenizer_config.json").read_text() == '{"kept": true}'
    original = AutoModelForCausalLM.from_pretrained(folders[name], dtype="auto").state_dict()
    assert any(not np.array_equal(original[n].numpy(), trained[n]) for n in original)

    limit = 10_000
    for sizes in two.run(bucket_sizes, limit):  # every rank sees the same buckets
        names = [n for bucket in sizes for n, _ in bucket]
        assert len(names) == len(set(names)) == len(trained)
        assert len(sizes) > 3
        for bucket in sizes:
            weights_in = len(bucket) - (name == "tied" and any(n == "lm_head.weight" for n, _ in bucket))
            assert weights_in == 1 or sum(size for _, size in bucket) <= limit


@pytest.mark.parametrize(
    ("stage", "variant", "bad"),
    usual(
        [*((*v, np.nan) for v in VARIANTS), (0, "float32", np.inf), (3, "float32", np.inf)],
        (0, "float32", np.nan),
        (2, "bfloat16", np.nan),
        (3, "offload", np.nan),
        (3, "float32", np.inf),
    ),
)
def test_a_step_that_is_not_finite_is_skipped(two: Ranks, folders: Any, stage: int, variant: str, bad: float) -> None:
    two.run(build_as, folders["untied"], stage, variant)
    before = two.run(state)[0]
    batch = make_batch(seed=4)
    batch.advantages = np.where(batch.loss_mask, bad, 0).astype(np.float32)
    batch.advantages[batch.offsets[1] :] = 0.0  # one row, on one rank
    call_args = deal(batch, SPLITS_TWO["even"])
    metrics = M.values(M.merge(m for m, _, _ in two.run(update, 10.0, "rl", per_rank=call_args)))
    assert metrics["actor/skipped_steps"] == 1
    for held in two.run(state):
        assert_equal(held, before)
    some_updates(two, range(1))
    after = two.run(state)[0]
    two.run(build_as, folders["untied"], stage, variant)
    some_updates(two, range(1))
    assert_equal(two.run(state)[0], after)


def test_gradient_checkpointing_changes_nothing(one: Ranks, folders: Any) -> None:
    batch = make_batch(seed=2)
    calls = deal(batch, SPLITS_ONE["uneven"])
    for stage in (0, 3):
        gradients = []
        for on in (False, True):
            one.run(build_checkpointed if on else build, folders["untied"], stage)
            gradients.append(one.run(update, RL.denominator(batch), "rl", per_rank=calls)[0][1])
        assert_close(gradients[1], gradients[0], 1e-6)


def build_checkpointed(here: Any, path: str, stage: int) -> None:
    build(here, path, stage, gradient_checkpointing=True)
    assert here.worker.engine.module.training


def build_low(here: Any, path: str, stage: int, float32_head: bool = False) -> dict[str, Any]:
    optimizer = OptimizerConfig(max_grad_norm=0.0)
    build(here, path, stage, dtype=DType.bfloat16, optimizer=optimizer, float32_head=float32_head)
    assert next(here.worker.engine.module.parameters()).dtype == torch.bfloat16
    return here.worker.describe()


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bfloat16_keeps_float32_master_weights(two: Ranks, folders: Any, stage: int) -> None:
    """Steps below the resolution of bfloat16 add up; without master weights a weight of 1.0 would never move."""
    described = two.run(build_low, folders["untied"], stage)[0]
    assert described["zero_stage"] == (stage or 1)
    start = two.run(state)[0]["model.norm.weight"]
    assert (start == 1.0).all()
    for seed in range(8):
        batch = make_batch(seed=1)
        two.run(update, RL.denominator(batch), "rl", per_rank=deal(batch, SPLITS_TWO["even"]))
        moved = np.abs(two.run(state)[0]["model.norm.weight"] - start)
        if seed == 0:
            assert moved.max() == 0.0  # 1e-3, and 1.0 has neighbours at 2e-3 below half of which it rounds back
    assert np.median(moved) > 3e-3


@pytest.mark.parametrize("float32_head", [pytest.param(False, marks=SLOW), True])
def test_bfloat16_gradient_is_near_that_of_float32(two: Ranks, folders: Any, float32_head: bool) -> None:
    batch = make_batch(seed=6)
    _, wanted, _ = Plain(folders["untied"]).update(batch, "sft")
    for stage in (0, 2, 3):
        two.run(build_low, folders["untied"], stage, float32_head)
        calls = deal(batch, SPLITS_TWO["empty rank"])
        chunk = two.run(chunks_of, 3 * VOCABULARY)[0]
        _, got, _ = two.run(update, float(batch.num_loss_tokens), "sft", per_rank=calls)[0]
        two.run(chunks_of, chunk)
        a, b = (np.concatenate([g[n].ravel() for n in wanted]) for g in (wanted, got))
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def chunks_of(here: Any, elements: int) -> int:
    """Sets the logits of one chunk of the output layer, and returns the number before."""
    before, ops.CHUNK_ELEMENTS = ops.CHUNK_ELEMENTS, elements
    return before


def test_ranks_that_disagree_are_told(two: Ranks, folders: Any) -> None:
    two.run(build, folders["untied"], 2)
    shard = make_batch()
    with pytest.raises(AssertionError, match=r"ValueError: the number of micro-batches must be equal.*\[1, 2\]"):
        two.run(update, 1.0, "rl", per_rank=[(shard, [[0]]), (shard, [[0], [1]])])
    with pytest.raises(AssertionError, match="KeyError: 'dpo'"):
        two.run(update, 1.0, "dpo", per_rank=[(shard, [[0]])] * 2)


def test_no_compiler_was_needed(one: Ranks, folders: Any) -> None:
    one.run(build, folders["untied"], 0)
    assert one.run(loaded_extensions)[0] == []


def loaded_extensions(here: Any) -> list[str]:
    """Shared objects that torch's extension builder compiled and this process loaded."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "torch_extensions" in line]
