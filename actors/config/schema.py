"""The root config and the settings of the actors. Dataclasses define all defaults; YAML holds only differences."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from rlcore.agents.config import EnvironmentConfig
from rlcore.algorithms.config import AlgorithmConfig
from rlcore.data.sources.config import DataConfig
from rlcore.loops.config import Resume, TrainerConfig
from rlcore.problems import bounded
from rlcore.rewards.config import RewardConfig
from rlcore.rounds.plan.config import RoundsConfig
from rlcore.tracking.config import TrackingConfig


class Device(str, enum.Enum):
    auto = "auto"  # cuda if the cluster has GPUs
    cpu = "cpu"
    cuda = "cuda"


class DType(str, enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Offload(str, enum.Enum):
    none = "none"
    optimizer = "optimizer"  # master weights, Adam states and gradients
    all = "all"  # the weights too


class WeightSyncBackend(str, enum.Enum):
    auto = "auto"  # host on CPU, ipc when policy and rollout share GPUs, nccl otherwise
    host = "host"  # through host memory and Ray's object store
    ipc = "ipc"  # CUDA IPC between processes on the same GPU
    nccl = "nccl"  # a NCCL group of policy rank 0 and all engines
    gloo = "gloo"  # the same over gloo, on CPU


class KvAfterUpdate(str, enum.Enum):
    keep = "keep"  # running requests continue with the KV cache of the weights that computed it
    recompute = "recompute"  # it is computed again with the new weights, which costs a prefill of every running request


@dataclass
class TinyModelConfig:
    """A randomly initialised Qwen2 with a byte tokenizer, for tests and the quickstart."""

    num_layers: int = bounded(4, ge=1)  # transformer layers
    hidden_size: int = bounded(128, ge=1)  # width of the model
    num_heads: int = bounded(4, ge=1)  # attention heads per layer
    intermediate_size: int = bounded(344, ge=1)  # width of the feed-forward layers
    max_positions: int = bounded(256, ge=1)  # maximum sequence length
    tie_embeddings: bool = False  # share weights of input and output embeddings


@dataclass
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the policy; the weight sync sends merged weights."""

    rank: int = bounded(0, ge=0)  # rank of the adapters; 0: train all weights
    alpha: float = bounded(32.0, gt=0)  # the output of adapters is scaled by alpha / rank
    dropout: float = bounded(0.0, ge=0, le=0.99)  # dropout on the input of adapters in training
    targets: list[str] = field(default_factory=list)  # names of linear layers; empty: all but the output layer


@dataclass
class ModelConfig:
    path: str | None = None  # a Hugging Face folder or hub id; None: build `tiny`
    gguf_file: str | None = None  # file inside `path`, converted once into the run folder
    tiny: TinyModelConfig = field(default_factory=TinyModelConfig)
    dtype: DType = DType.float32  # dtype of the forward pass; the optimizer keeps float32 master weights
    # compute logits and log-probs in float32 also in bfloat16, in training and in the engines (MiniMax-M1, arXiv
    # 2506.13585, section 3.2); slower on GPUs
    float32_head: bool = False
    attention: str = "sdpa"  # implementation in transformers: sdpa, eager, flash_attention_2
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: uses less memory, but is slower
    trust_remote_code: bool = False  # run Python code from the model folder
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class OptimizerConfig:
    # 0.95 as in GPT-3 (arXiv 2005.14165, appendix B): with 0.999 the quickstart's model became so sharp that float32
    # rounding changed log-probs by more than 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = bounded(1e-8, gt=0)  # epsilon in Adam's denominator
    weight_decay: float = bounded(0.0, ge=0)  # decoupled weight decay, as in AdamW
    max_grad_norm: float = bounded(1.0, gt=0, le=math.inf)  # maximum gradient norm


@dataclass
class EngineConfig:
    """Settings of DeepSpeed."""

    zero_stage: int = bounded(0, ge=0, le=3)  # ZeRO: 1 splits optimizer states, 2 also gradients, 3 also weights
    packing: bool = False  # pack the rows of a micro-batch into one sequence without padding
    compile: bool = False  # compile the layers (torch.compile): faster on GPUs, first pass minutes longer; ZeRO 0 to 2
    offload: Offload = Offload.none  # to host memory while engines sample on the same GPUs; needs a sleep_level
    offload_optimizer: bool = False  # keep and update optimizer states in host memory; needs ZeRO 1 to 3 on GPUs
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW
    extra: dict[str, Any] = field(default_factory=dict)  # merged into the DeepSpeed config


@dataclass
class RolloutConfig:
    """Settings of vLLM."""

    tensor_parallel_size: int = bounded(1, ge=1)  # GPUs (on CPU: processes) per engine
    max_new_tokens: int = bounded(256, ge=1)  # maximum response length, in tokens
    temperature: float = bounded(1.0, gt=0)  # sampling temperature in training
    top_p: float = 1.0  # must be 1: other values bias every importance ratio
    top_k: int = 0  # must be 0, for the same reason
    stop: list[str] = field(default_factory=list)  # strings that end a response
    max_model_len: int | None = bounded(None, ge=1)  # context; None: data.max_prompt_tokens + max_new_tokens
    max_num_seqs: int = bounded(256, ge=1)  # concurrent responses per engine
    gpu_memory_utilization: float | None = bounded(None, gt=0, le=1)  # of a GPU; None: what other roles leave
    cpu_kv_cache_gib: float = bounded(1.0, gt=0)  # KV cache of an engine on CPU
    enforce_eager: bool = False  # disable compiled graphs: faster start, slower generation on a GPU
    prefix_caching: bool = True  # reuse the KV cache of common prompt beginnings
    kv_after_update: KvAfterUpdate = KvAfterUpdate.keep  # KV cache of running requests after new weights arrived
    sleep_level: int = bounded(0, ge=0, le=2)  # 1 or 2: free the engine's GPU memory while training (colocated layouts)
    weight_sync: WeightSyncBackend = WeightSyncBackend.auto  # transport of weights to the engines
    sync_bucket_mb: int = bounded(256, ge=1)  # bucket size of weight transfer
    # compare vLLM's checksums of all engines after each transfer: seconds per GB; needs several engines, vLLM 0.32
    checksums: bool = False
    max_restarts: int = bounded(3, ge=0)  # restarts per engine within six hours
    extra: dict[str, Any] = field(default_factory=dict)  # additional vLLM engine arguments


@dataclass
class RoleConfig:
    num_workers: int = bounded(1, ge=0)  # number of actors; 0: role not used
    gpus_per_worker: float = bounded(0, ge=0)  # GPUs per actor, or a fraction of one
    cpus_per_worker: float = bounded(1, ge=0)  # CPUs that Ray reserves per actor
    colocate_with: str | None = None  # role to share a placement group with


@dataclass
class RolesConfig:
    policy: RoleConfig = field(default_factory=RoleConfig)  # the trained model
    rollout: RoleConfig = field(default_factory=RoleConfig)  # vLLM engines that generate
    reference: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # 0: role not used
    critic: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the value model of PPO
    reward: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the reward model
    judge: RoleConfig = field(default_factory=lambda: RoleConfig(num_workers=0))  # the frozen judge model
    verifier: RoleConfig = field(default_factory=lambda: RoleConfig(cpus_per_worker=0))  # hosts of verifier processes


@dataclass
class DeadlinesConfig:
    """Timeouts in seconds. Every wait has one; errors name the phase, the actor and its node."""

    connect_s: float = bounded(60.0, gt=0)  # joining a running Ray cluster
    placement_s: float = bounded(120.0, gt=0)  # waiting for resources of the cluster
    start_s: float = bounded(600.0, gt=0)  # start of the workers, including model loading
    generate_s: float = bounded(1800.0, gt=0)  # time without a finished group in generation
    train_s: float = bounded(1800.0, gt=0)  # one optimizer step
    sync_s: float = bounded(600.0, gt=0)  # one transfer of the weights
    checkpoint_s: float = bounded(1800.0, gt=0)  # writing or reading one checkpoint


@dataclass
class ClusterConfig:
    address: str | None = None  # address of a Ray cluster; None: RAY_ADDRESS, otherwise a local cluster is started
    device: Device = Device.auto  # device of the models
    gpu_memory_gib: float | None = bounded(None, gt=0)  # of a GPU, for `rlcore plan`; None: this machine's GPU, or 80
    threads_per_worker: int = bounded(1, ge=1)  # OpenMP threads per CPU worker
    roles: RolesConfig = field(default_factory=RolesConfig)  # number and resources of workers per role
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)


@dataclass
class MeasureConfig:
    """Settings of `rlcore eval`; `trainer.eval` has the sampling settings."""

    # checkpoint name (step-000050) or path; start: the start model of the run; None: the latest checkpoint
    checkpoint: str | None = None


@dataclass
class Config:
    name: str = "quickstart"  # name of the run, part of the folder name
    seed: int = bounded(0, ge=0, le=2**32 - 1)  # seed of the prompt order, sampling and new weights
    run_dir: str = "runs/${name}-seed${seed}"  # folder for checkpoints, metrics and the trained model
    resume: Resume = Resume.auto  # treatment of existing checkpoints in run_dir
    model: ModelConfig = field(default_factory=ModelConfig)  # the trained model
    data: DataConfig = field(default_factory=DataConfig)  # prompts and reference answers
    reward: RewardConfig = field(default_factory=RewardConfig)  # scoring of responses
    rollout: RolloutConfig = field(default_factory=RolloutConfig)  # generation (vLLM)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)  # tools and turns
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)  # advantages, loss and KL
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # batch sizes, learning rates, schedules
    cluster: ClusterConfig = field(default_factory=ClusterConfig)  # placement on machines and GPUs
    tracking: TrackingConfig = field(default_factory=TrackingConfig)  # logging
    rounds: RoundsConfig = field(default_factory=RoundsConfig)  # stages of `rlcore rounds`
    eval: MeasureConfig = field(default_factory=MeasureConfig)

    def __post_init__(self) -> None:
        parity = self.trainer.parity
        if parity.tolerance is None and self.model.dtype is DType.bfloat16:
            parity.tolerance = 1.0
            parity.mean_tolerance = 0.05 if parity.mean_tolerance is None else parity.mean_tolerance

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: prompt and response, or a whole rollout of several turns."""
        r, turns = self.rollout, self.environment
        if turns.fn is None:
            return self.data.max_prompt_tokens + r.max_new_tokens
        # results of tools are as long as the turns, if nothing else is known
        guess = self.data.max_prompt_tokens + 2 * turns.max_turns * r.max_new_tokens
        return turns.max_tokens or r.max_model_len or guess

    @property
    def context(self) -> int:
        """Tokens of the engines' context."""
        return self.rollout.max_model_len or self.longest
