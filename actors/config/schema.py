"""The root config and the settings of the actors. Dataclasses hold every default; YAML holds only differences."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from rlcore.algorithms.config import AlgorithmConfig
from rlcore.data.sources.config import DataConfig
from rlcore.loops.config import Resume, TrainerConfig
from rlcore.problems import bounded
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.plan.config import RoundsConfig
from rlcore.tracking.config import TrackingConfig


class Device(str, enum.Enum):
    auto = "auto"  # cuda when the cluster has GPUs
    cpu = "cpu"
    cuda = "cuda"


class DType(str, enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class WeightSyncBackend(str, enum.Enum):
    auto = "auto"  # host on CPU, ipc when policy and rollout share GPUs, nccl otherwise
    host = "host"  # through host memory and Ray's object store
    ipc = "ipc"  # CUDA IPC between processes on one GPU
    nccl = "nccl"  # a group of policy rank 0 and every engine
    gloo = "gloo"  # the same group on CPU


@dataclass
class TinyModelConfig:
    """A Qwen2 built from nothing with a character tokenizer, for tests and the quickstart."""

    num_layers: int = bounded(4, ge=1)  # transformer layers
    hidden_size: int = bounded(128, ge=1)  # width of the model
    num_heads: int = bounded(4, ge=1)  # attention heads of a layer
    intermediate_size: int = bounded(344, ge=1)  # width of the feed-forward layers
    max_positions: int = bounded(256, ge=1)  # longest sequence
    tie_embeddings: bool = False  # share the weights of input and output embeddings


@dataclass
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the policy; the weight sync sends merged weights."""

    rank: int = bounded(0, ge=0)  # 0: all weights are trained
    alpha: float = bounded(32.0, gt=0)  # scale: the adapters' output times alpha / rank
    dropout: float = bounded(0.0, ge=0, le=0.99)  # of the adapters' input while training
    targets: list[str] = field(default_factory=list)  # names of linear layers; empty: all but the output layer


@dataclass
class ModelConfig:
    path: str | None = None  # a Hugging Face folder or hub id; None: build `tiny`
    gguf_file: str | None = None  # file inside `path`, converted once into the run folder
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)
    dtype: DType = DType.float32  # of the forward pass; the optimizer holds float32 master weights
    attention: str = "sdpa"  # implementation in transformers: sdpa, eager, flash_attention_2
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    trust_remote_code: bool = False  # run the Python code that comes with the model folder
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class OptimizerConfig:
    # 0.95, as language models are trained since GPT-3 (arXiv 2005.14165, appendix B): with 0.999 the quickstart's model
    # came out so sharp that float32 rounding alone moved log-probs by over 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = bounded(1e-8, gt=0)  # of Adam's denominator
    weight_decay: float = bounded(0.0, ge=0)  # decoupled, as in AdamW
    max_grad_norm: float = bounded(1.0, gt=0, le=math.inf)  # gradients are scaled down to this norm


@dataclass
class EngineConfig:
    """DeepSpeed."""

    zero_stage: int = bounded(0, ge=0, le=3)  # of DeepSpeed ZeRO: what is split over the ranks
    packing: bool = False  # rows of a micro-batch in one sequence without padding, instead of side by side
    offload_optimizer: bool = False  # hold optimizer states in host memory, under ZeRO 1 to 3 on GPUs
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW
    extra: dict[str, Any] = field(default_factory=dict)  # merged into the DeepSpeed config as it is


@dataclass
class RolloutConfig:
    """vLLM."""

    tensor_parallel_size: int = bounded(1, ge=1)  # GPUs, or on CPU processes, of one engine
    max_new_tokens: int = bounded(256, ge=1)  # longest response
    temperature: float = bounded(1.0, gt=0)  # of sampling in training
    top_p: float = 1.0  # must be 1: other values bias every importance ratio
    top_k: int = 0  # must be 0, for the same reason
    stop: list[str] = field(default_factory=list)  # texts that end a response
    max_model_len: int | None = bounded(None, ge=1)  # None: longest prompt plus max_new_tokens
    max_num_seqs: int = bounded(256, ge=1)  # responses that one engine generates at the same time
    gpu_memory_utilization: float | None = bounded(None, gt=0, le=1)  # of a GPU; None: what the roles on it leave
    cpu_kv_cache_gib: float = bounded(1.0, gt=0)  # KV cache of an engine on CPU
    enforce_eager: bool = False  # no compiled graphs: a quicker start, slower generation on a GPU
    prefix_caching: bool = True  # compute the common beginning of prompts once
    sleep_level: int = bounded(0, ge=0, le=2)  # 1 or 2: free the engine's GPU memory while training (colocated layouts)
    weight_sync: WeightSyncBackend = WeightSyncBackend.auto  # how weights reach the engines
    sync_bucket_mb: int = bounded(256, ge=1)  # size of the pieces in which weights are sent
    max_restarts: int = bounded(3, ge=0)  # of one engine within six hours
    extra: dict[str, Any] = field(default_factory=dict)  # further vLLM engine arguments


@dataclass
class RoleConfig:
    num_workers: int = bounded(1, ge=0)  # actors of this role; 0: not used
    gpus_per_worker: float = bounded(0, ge=0)  # GPUs of each, or a share of one
    cpus_per_worker: float = bounded(1, ge=0)  # CPUs that Ray reserves for each
    colocate_with: str | None = None  # another role, whose placement group is shared


@dataclass
class RolesConfig:
    policy: RoleConfig = field(default_factory=RoleConfig)  # the model that is trained
    rollout: RoleConfig = field(default_factory=RoleConfig)  # vLLM engines that generate
    reference: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # 0: role not used
    critic: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the value model of PPO
    reward: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the reward model
    judge: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # a frozen model that compares
    verifier: RoleConfig = field(default_factory=lambda: RoleConfig(cpus_per_worker=0))  # hosts of verifier processes


@dataclass
class DeadlinesConfig:
    """Seconds. Every wait has one; the error names the phase, the actor and its node."""

    connect_s: float = bounded(60.0, gt=0)  # joining a running Ray cluster
    placement_s: float = bounded(120.0, gt=0)  # waiting for room on the cluster
    start_s: float = bounded(600.0, gt=0)  # start of the workers, models loaded
    generate_s: float = bounded(1800.0, gt=0)  # without a single finished group
    train_s: float = bounded(1800.0, gt=0)  # one optimizer step
    sync_s: float = bounded(600.0, gt=0)  # one transfer of the weights
    checkpoint_s: float = bounded(1800.0, gt=0)  # writing or reading one checkpoint


@dataclass
class ClusterConfig:
    address: str | None = None  # of a running Ray cluster; None: RAY_ADDRESS, else a local one is started
    device: Device = Device.auto  # where models run
    threads_per_worker: int = bounded(1, ge=1)  # OpenMP threads of a CPU worker
    roles: RolesConfig = field(default_factory=RolesConfig)  # number and size of the workers, by role
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)


@dataclass
class MeasureConfig:
    """Of `rlcore eval` alone; how it samples is `trainer.eval`."""

    # a name such as step-000050, or a path; start: the run's start model. None: the newest checkpoint
    checkpoint: str | None = None


@dataclass
class Config:
    name: str = "quickstart"  # of the run, part of its folder's name
    seed: int = bounded(0, ge=0, le=2**32 - 1)  # of everything that is drawn: order of prompts, sampling, new weights
    run_dir: str = "runs/${name}-seed${seed}"  # folder of checkpoints, metrics and the trained model
    resume: Resume = Resume.auto  # what to do with checkpoints in run_dir
    model: ModelConfig = field(default_factory=ModelConfig)  # the model to train
    data: DataConfig = field(default_factory=DataConfig)  # prompts and reference answers
    reward: RewardConfig = field(default_factory=RewardConfig)  # what a response is worth
    rollout: RolloutConfig = field(default_factory=RolloutConfig)  # generation (vLLM)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)  # advantages, loss and KL
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # batch sizes, learning rates, schedules
    cluster: ClusterConfig = field(default_factory=ClusterConfig)  # placement on machines and GPUs
    tracking: TrackingConfig = field(default_factory=TrackingConfig)  # what is logged, and where
    rounds: RoundsConfig = field(default_factory=RoundsConfig)  # of `rlcore rounds` alone
    eval: MeasureConfig = field(default_factory=MeasureConfig)
