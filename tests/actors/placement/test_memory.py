"""Memory of the roles on a GPU, for models of known size, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from actors.commands.plan import plan
from actors.config.compose import compose
from actors.config.rules import problems
from actors.placement.memory import (
    GIB,
    Shape,
    engine_share,
    free_share,
    gpu_rows,
    memory_problem,
    model_shape,
    reserved_bytes,
    total,
    trainer_bytes,
)

# parameters of Qwen2.5: embedding, (attention with its biases, MLP, two norms) a layer, norm, output head where untied
SIZES = {
    "1.5B": ({"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                  "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}, 1_543_714_304),
    "32B": ({"vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
                 "num_attention_heads": 40, "num_key_value_heads": 8, "tie_word_embeddings": False}, 32_763_876_352),
    "7B": ({"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}, 7_615_616_512),
}  # fmt: skip


def given(folder: Path, size: str) -> list[str]:
    Qwen2Config(**SIZES[size][0], max_position_embeddings=32768).save_pretrained(folder)
    (folder / "prompts.jsonl").write_text('{"prompt": "1 + 1", "reference": "2"}\n')
    return [f"model.path={folder}", f"data.train={folder / 'prompts.jsonl'}"]


# GB (1e9 bytes) on one GPU of 85.899 GB (80 GiB), bfloat16, N parameters. Policy: weights 2 N, float32 gradients 4 N,
# masters 4 N, two moments 8 N, on 8 GPUs with ZeRO-3 an eighth of each, and a reduction bucket of 5e8 x 4 bytes = 2.0.
# `reserved` is what the policy keeps while the engine samples: everything, the weights, or nothing. The engine gets
# 0.94 of what is left after two CUDA processes of 1.5 GiB (3.221), a share rounded down to 0.001; its weights are 2 N.
#   1.5B, 1 GPU, none:      18 N = 27.787;          (85.899 - 3.221 - 27.787) x 0.94 = 51.598 -> 0.600 = 51.540 - 3.087
#   1.5B, 1 GPU, optimizer:  2 N =  3.087;          (85.899 - 3.221 -  3.087) x 0.94 = 74.815 -> 0.870 = 74.732 - 3.087
#   7B, 8 GPUs, none:   18 N / 8 = 17.135, + 2.0;   (85.899 - 3.221 - 19.135) x 0.94 = 59.730 -> 0.695 = 59.700 - 15.231
#   any, all:                        0;             (85.899 - 3.221)          x 0.94 = 77.717 -> 0.904 = 77.653 - 2 N
HAND = [  # size, GPUs, offload, reserved, share, KV cache
    ("1.5B", 1, "none", 27.787, 0.600, 48.452),
    ("1.5B", 1, "optimizer", 3.087, 0.870, 71.645),
    ("1.5B", 1, "all", 0.0, 0.904, 74.565),
    ("1.5B", 8, "none", 5.473, 0.844, 69.411),
    ("1.5B", 8, "optimizer", 0.386, 0.900, 74.222),
    ("1.5B", 8, "all", 0.0, 0.904, 74.565),
    ("7B", 1, "none", 137.081, 0.0, 0.0),
    ("7B", 1, "optimizer", 15.231, 0.738, 48.162),
    ("7B", 1, "all", 0.0, 0.904, 62.422),
    ("7B", 8, "none", 19.135, 0.695, 44.469),
    ("7B", 8, "optimizer", 1.904, 0.883, 60.618),
    ("7B", 8, "all", 0.0, 0.904, 62.422),
]

# GB of an update, 16,384 tokens, gradient checkpointing. Bytes per token: inputs of 28 layers (28 x 2 hidden), and one
# layer: 2 (6 hidden + 2 KV + 4 intermediate) + 8 hidden. Logits: 110 positions, and their gradient.
#   1.5B: 28 x 2 x 1536 = 86,016;  2 (9,216 + 512 + 35,840) + 12,288 = 103,424;    2 x 110 x 151,936 x 2 bytes = 0.067
#   7B:   28 x 2 x 3584 = 200,704; 2 (21,504 + 1,024 + 75,776) + 28,672 = 225,280;  2 x 110 x 152,064 x 2 bytes = 0.067
ONE_LAYER, ACTIVATIONS, LOGITS = {"1.5B": 1.694, "7B": 3.691}, {"1.5B": 3.104, "7B": 6.979}, 0.067
SYNC_BUCKETS, PROCESSES, GB = 0.805, 3.221, 1e9  # three of 256 MiB; two CUDA processes


@pytest.mark.parametrize(("size", "gpus", "offload", "reserved", "share", "cache"), HAND)
def test_what_lies_on_a_gpu_in_each_phase(
    tmp_path: Path, size: str, gpus: int, offload: str, reserved: float, share: float, cache: float
) -> None:
    name, n = {1: "gpu_1", 8: "gpu_8_colocated"}[gpus], SIZES[size][1] / GB
    config = compose([f"+experiment={name}", f"engine.offload={offload}", *given(tmp_path, size)])
    shape = model_shape(config.model)
    assert shape.parameters == SIZES[size][1]
    assert reserved_bytes(config, shape) == pytest.approx((reserved + PROCESSES / 2) * GB, abs=2e-3 * GB)
    assert engine_share(config, shape, 80 * GIB) == share
    rows = gpu_rows(config, shape, ("policy", "rollout"), 80 * GIB)
    assert rows.get(("rollout", "KV cache"), {}).get("sampling", 0.0) == pytest.approx(cache * GB, abs=2e-3 * GB)
    everything = 18 * n / gpus + (2.0 if gpus == 8 else 0.0)
    scoring = everything if offload == "none" else 2 * n / gpus
    assert {phase: used / GB for phase, used in total(rows.values()).items()} == pytest.approx({
        "sampling": reserved + PROCESSES + 2 * n + cache,
        "log-probs": scoring + PROCESSES + ONE_LAYER[size],
        "update": everything + PROCESSES + ACTIVATIONS[size] + LOGITS,
        "sync": scoring + PROCESSES + 2 * n + SYNC_BUCKETS,
    }, abs=3e-3)  # fmt: skip
    problem = memory_problem(config, shape, [("policy", "rollout")], 80 * GIB)
    assert (problem is None) == (size != "7B" or gpus == 8)


def test_what_does_not_fit_is_refused_with_a_change_that_fits(tmp_path: Path) -> None:
    """7B on one GPU: an update needs 137 GB of state whatever is moved while the engine samples."""
    overrides = ["+experiment=gpu_1", *given(tmp_path, "7B")]
    for offload, phase in (("none", "sampling"), ("optimizer", "update"), ("all", "update")):
        made = plan(compose([*overrides, f"engine.offload={offload}"]))
        (problem,) = [p for p in made.problems if p.key == "cluster.gpu_memory_gib"]
        assert not made.ok
        assert problem.text.startswith(f"{phase} needs 1")
        assert "policy Adam states 56.7" in problem.text
    change = problem.cure.removeprefix("it fits with ").split()
    assert change == ["engine.offload_optimizer=true", "engine.zero_stage=1"]
    assert not [p for p in plan(compose([*overrides, *change])).problems if p.key == "cluster.gpu_memory_gib"]
    text = plan(compose([*overrides, "cluster.gpu_memory_gib=178"])).text  # a B200
    assert "GPUs of 178 GiB (cluster.gpu_memory_gib)" in text
    assert "needs" not in text


def test_an_engine_that_stays_awake_leaves_room_for_the_update(tmp_path: Path) -> None:
    config = compose(["+experiment=gpu_1", "cluster=gpu1_shared", "rollout.sleep_level=0", *given(tmp_path, "1.5B")])
    shape = model_shape(config.model)
    # state, activations, logits, buckets and one process; 0.75 of the rest for the engine
    held = 27.787 + ACTIVATIONS["1.5B"] + LOGITS + SYNC_BUCKETS + PROCESSES
    assert engine_share(config, shape, 80 * GIB) == pytest.approx(0.75 * (85.899 - held) / 85.899, abs=1e-3)
    assert memory_problem(config, shape, [("policy", "rollout")], 80 * GIB) is None
    assert not [p for p in problems(config) if not p.warning]


def test_roles_on_the_engines_gpu_count_with_their_training_state(tmp_path: Path) -> None:
    """Critic and reward model are trained as the policy is; the reference has weights only."""
    roles = [f"cluster.roles.{role}={{num_workers:1,gpus_per_worker:1,colocate_with:policy}}"
             for role in ("critic", "reward", "reference")]  # fmt: skip
    state, process = 18 * SIZES["1.5B"][1], 1.5 * GIB
    for offload, held in (("none", 3 * state + state / 9), ("optimizer", 4 * state / 9), ("all", 0)):
        config = compose(["+experiment=gpu_1", *roles, f"engine.offload={offload}", *given(tmp_path, "1.5B")])
        assert reserved_bytes(config, model_shape(config.model)) == pytest.approx(held + 4 * process)


def test_adapters_train_a_small_part(tmp_path: Path) -> None:
    config = compose(["+experiment=gpu_1", "model.lora.rank=16", *given(tmp_path, "7B")])
    # rank x (in + out): queries and output 2 x 7168, keys and values 2 x 4096, feed-forward 3 x 22528, in 28 layers
    adapters = 16 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    held = trainer_bytes(config, model_shape(config.model))
    assert (held["Adam states"], held["master weights"]) == (8 * adapters, 4 * adapters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_backward_pass_of_a_layer_reads(dtype: torch.dtype) -> None:
    """Counted in a real forward pass: storages that autograd saves, of one more layer."""
    heads, kv_heads, tokens = 4, 2, 96

    def saved(layers: int) -> int:
        model = Qwen2Model(Qwen2Config(
            vocab_size=50, hidden_size=64, intermediate_size=352, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads,
        )).to(dtype)  # fmt: skip
        own, seen = {p.untyped_storage()._cdata for p in model.parameters()}, dict[int, torch.UntypedStorage]()

        def pack(x: torch.Tensor) -> torch.Tensor:
            if x.untyped_storage()._cdata not in own:
                seen[x.untyped_storage()._cdata] = x.untyped_storage()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(input_ids=torch.zeros(1, tokens, dtype=torch.long))
            return sum(storage.nbytes() for storage in seen.values())

    shape = Shape(0, 50, 1, kv_width=32, hidden=64, intermediate=352)
    assert saved(3) - saved(2) == pytest.approx(tokens * shape.layer_bytes(dtype.itemsize), rel=0.01)


def test_an_engine_alone_takes_the_usual_share() -> None:
    assert free_share(0.0, 80 * GIB, turns=False) == 0.92
    config = compose(["cluster=gpu8", "rollout.gpu_memory_utilization=0.5"])
    assert engine_share(config, model_shape(config.model), 80 * GIB) == 0.5


@pytest.mark.parametrize(
    ("name", "size"), [("gpu_1", "1.5B"), ("gpu_8_colocated", "7B"), ("gpu_8_split", "7B"), ("gpu_64", "32B")]
)
def test_experiments_on_gpus_set_everything_and_fit(tmp_path: Path, name: str, size: str) -> None:
    config = compose([f"+experiment={name}", *given(tmp_path, size)])
    assert not problems(config)
    assert "cluster.gpu_memory_gib" not in {problem.key for problem in plan(config).problems}
    assert config.cluster.device.value == "cuda"
    assert not config.rollout.enforce_eager
    assert config.model.dtype.value == "bfloat16"
    assert config.model.gradient_checkpointing
    assert config.rollout.max_new_tokens >= 1024
    assert config.trainer.parity.mean_tolerance == 0.05
    assert "Weight sync: " + ("ipc" if name in ("gpu_1", "gpu_8_colocated") else "nccl") in plan(config).text
