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
    host = "host"
    nccl = "nccl"
    ipc = "ipc"


@dataclass
class TinyModelConfig:
    """A Qwen2 built from nothing with a character tokenizer, for tests and the quickstart."""

    num_layers: int = bounded(4, ge=1)
    hidden_size: int = bounded(128, ge=1)
    num_heads: int = bounded(4, ge=1)
    intermediate_size: int = bounded(344, ge=1)
    max_positions: int = bounded(256, ge=1)
    tie_embeddings: bool = False


@dataclass
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the policy; the weight sync sends merged weights."""

    rank: int = bounded(0, ge=0)  # 0: all weights are trained
    alpha: float = bounded(32.0, gt=0)
    dropout: float = bounded(0.0, ge=0, le=0.99)
    targets: list[str] = field(default_factory=list)  # names of linear layers; empty: all but the output layer


@dataclass
class ModelConfig:
    path: str | None = None  # a Hugging Face folder or hub id; None: build `tiny`
    gguf_file: str | None = None  # file inside `path`, converted once into the run folder
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)
    dtype: DType = DType.float32  # of the forward pass; the optimizer holds float32 master weights
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class OptimizerConfig:
    # 0.95, as language models are trained since GPT-3 (arXiv 2005.14165, appendix B): with 0.999 the quickstart's model
    # came out so sharp that float32 rounding alone moved log-probs by over 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = bounded(1e-8, gt=0)
    weight_decay: float = bounded(0.0, ge=0)
    max_grad_norm: float = bounded(1.0, gt=0, le=math.inf)


@dataclass
class EngineConfig:
    """DeepSpeed."""

    zero_stage: int = bounded(0, ge=0, le=3)
    packing: bool = False  # rows of a micro-batch in one sequence without padding, instead of side by side
    offload_optimizer: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    extra: dict[str, Any] = field(default_factory=dict)  # merged into the DeepSpeed config as it is


@dataclass
class RolloutConfig:
    """vLLM."""

    tensor_parallel_size: int = bounded(1, ge=1)
    max_new_tokens: int = bounded(256, ge=1)
    temperature: float = bounded(1.0, gt=0)
    top_p: float = 1.0
    top_k: int = 0
    stop: list[str] = field(default_factory=list)
    max_model_len: int | None = bounded(None, ge=1)  # None: longest prompt plus max_new_tokens
    max_num_seqs: int = bounded(256, ge=1)
    gpu_memory_utilization: float = bounded(0.6, gt=0, le=1)
    cpu_kv_cache_gib: float = bounded(1.0, gt=0)
    enforce_eager: bool = False
    prefix_caching: bool = True
    sleep_level: int = bounded(0, ge=0, le=2)  # 1 or 2: free the engine's GPU memory while training (colocated layouts)
    weight_sync: WeightSyncBackend = WeightSyncBackend.auto
    sync_bucket_mb: int = bounded(256, ge=1)
    max_restarts: int = bounded(3, ge=0)  # of one engine within six hours
    extra: dict[str, Any] = field(default_factory=dict)  # further vLLM engine arguments


@dataclass
class RoleConfig:
    num_workers: int = bounded(1, ge=0)
    gpus_per_worker: float = bounded(0, ge=0)
    cpus_per_worker: float = bounded(1, ge=0)
    colocate_with: str | None = None  # another role, whose placement group is shared


@dataclass
class RolesConfig:
    policy: RoleConfig = field(default_factory=RoleConfig)
    rollout: RoleConfig = field(default_factory=RoleConfig)
    reference: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # 0: role not used
    critic: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))
    reward: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the reward model
    judge: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # a frozen model that compares
    verifier: RoleConfig = field(default_factory=lambda: RoleConfig(cpus_per_worker=0))  # hosts of verifier processes


@dataclass
class DeadlinesConfig:
    """Seconds. Every wait has one; the error names the phase, the actor and its node."""

    connect_s: float = bounded(60.0, gt=0)  # joining a running Ray cluster
    placement_s: float = bounded(120.0, gt=0)
    start_s: float = bounded(600.0, gt=0)
    generate_s: float = bounded(1800.0, gt=0)  # without a single finished group
    train_s: float = bounded(1800.0, gt=0)  # one optimizer step
    sync_s: float = bounded(600.0, gt=0)
    checkpoint_s: float = bounded(1800.0, gt=0)


@dataclass
class ClusterConfig:
    address: str | None = None  # of a running Ray cluster; None: RAY_ADDRESS, else a local one is started
    device: Device = Device.auto
    threads_per_worker: int = bounded(1, ge=1)  # OpenMP threads of a CPU worker
    roles: RolesConfig = field(default_factory=RolesConfig)
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)


@dataclass
class Config:
    name: str = "quickstart"
    seed: int = bounded(0, ge=0, le=2**32 - 1)
    run_dir: str = "runs/${name}-seed${seed}"
    resume: Resume = Resume.auto
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)  # of `rlcore rounds` alone
