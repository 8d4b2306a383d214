"""Builds the running world of a config: model folder, data, Ray, placement, actors, handles; and tears it down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actors.config.schema import Config, Device, Offload
from actors.generation.handle import RolloutHandle
from actors.generation.judge import CONCURRENCY, JudgeWorker, start_judge
from actors.generation.rollout import RolloutWorker
from actors.placement.gpu_sharing import GpuSharing
from actors.placement.group import ActorGroup, Pending, WorkerError
from actors.placement.memory import model_shape, reserved_bytes
from actors.placement.placement import Placement, together
from actors.placement.ray_connection import check_address, connected
from actors.placement.restarts import RestartPolicy
from actors.training.critic import CriticWorker
from actors.training.handles import LanguageModelHandle, ModelHandle, ObjectStore, RewardModelHandle, ValueHandle
from actors.training.models import (
    ModelError,
    embedding_problem,
    load_tokenizer,
    other_tokenizer,
    prepare_model,
    rope_problem,
)
from actors.training.reward_model import RewardModelWorker
from actors.training.worker import LanguageModelWorker, ModelWorker, PolicyWorker, ReferenceWorker, StartSpec
from actors.verifying.handle import RewardHandle
from actors.verifying.verifier import VerifierWorker
from actors.weights.handle import WeightHandle
from actors.weights.sender import GROUP_BACKENDS, choose_backend
from rlcore.agents.environments import Description
from rlcore.agents.setup import describe, make_rollouts
from rlcore.algorithms.config import Opponent
from rlcore.data.batching.collate import collate_groups
from rlcore.data.sources.load import PromptData, load_data
from rlcore.data.sources.prompts import PromptStream
from rlcore.interfaces import RewardScorer, RolloutEngine, Tracker, World
from rlcore.processes.zygote import LOAD_TIMEOUT_S
from rlcore.rewards.composed import ComposedScorer
from rlcore.rewards.judge.config import JudgeKind
from rlcore.rewards.judge.endpoint import EndpointCompleter
from rlcore.rewards.judge.prompts import Completer
from rlcore.rewards.pool import MIN_CHUNK
from rlcore.rewards.registry import RewardError
from rlcore.rewards.scorers import JudgeScorer, RewardModelScorer, Terms, verifier_config
from rlcore.storage.checkpoint import Checkpoints
from rlcore.types import Status

H = TypeVar("H", bound=ModelHandle)
VERIFIER_RESTARTS = 3  # restarts per host, see `RestartPolicy`
REWARD_SLACK_S = 60.0  # in addition to the timeouts of samples: start of a verifier process, queueing


@dataclass
class Inputs:
    """Inputs that are prepared and checked before any actor starts, because that is cheap and fails often."""

    model_path: Path
    tokenizer: Any
    data: PromptData
    environment: Description | None = None  # of `environment.fn`


def prepare(config: Config, run_dir: Path) -> Inputs:
    """Prepares model, environment and data. Raises: ClusterError, ModelError, InvalidEnvironment, DataError."""
    check_address(config.cluster)
    model_path = prepare_model(config.model, run_dir, config.seed)
    tokenizer = load_tokenizer(model_path, config.model.trust_remote_code)
    trust = config.model.trust_remote_code
    if text := rope_problem(model_path, config.context, trust):
        raise ModelError(text)
    environment = None
    if config.environment.fn is not None:
        environment = describe(config.environment, config.data.chat_template, os.getcwd())
    data = load_data(config.data, tokenizer, config.seed, None if environment is None else environment.schemas)
    prompts = [*data.train, *data.eval]
    if text := embedding_problem(model_path, tokenizer, prompts, trust):
        raise ModelError(text)
    return Inputs(model_path, tokenizer, data, environment)


@dataclass
class Built:
    world: World
    inputs: Inputs
    device: str
    rollout: ActorGroup[RolloutWorker]


@contextmanager
def open_world(
    config: Config, run_dir: Path, inputs: Inputs, tracker: Tracker, optimizers: bool = True
) -> Iterator[Built]:
    """Starts everything that a run needs, and stops it on exit, also after errors.

    Args:
        optimizers: False: models are loaded to score and to send their weights, for evaluation.

    Raises:
        ClusterError: Ray cannot be joined or started.
        PlacementError: the cluster is too small or too busy; no actor was started.
        ActorError: a worker did not start.
        RewardError: the reward failed on the first row; no GPU was used.
    """
    with ExitStack() as stack:
        stack.enter_context(connected(config.cluster, tracker.message))
        device = resolve_device(config)
        placement = Placement.create(config.cluster)
        stack.callback(placement.remove)
        tracker.message(placement.render())
        builder = Builder(config, inputs, placement, device, stack, optimizers)
        with tracker.phase("start"):
            world, rollout = builder.build(run_dir, tracker)
        yield Built(world, inputs, device, rollout)


def resolve_device(config: Config) -> str:
    if config.cluster.device is not Device.auto:
        return str(config.cluster.device.value)
    return "cuda" if config.cluster.roles.policy.gpus_per_worker > 0 else "cpu"


def weight_backend(config: Config, device: str) -> str:
    """See `choose_backend`. A reference that sends weights uses the backend of the policy.

    Raises:
        ValueError: no backend works for all senders in this layout.
    """
    roles = config.cluster.roles
    backend = choose_backend(config.rollout, device, together(roles, "policy", "rollout"))
    if config.algorithm.preference.opponent is Opponent.reference and roles.reference.num_workers:
        other = choose_backend(config.rollout, device, together(roles, "reference", "rollout"))
        if other != backend:
            raise ValueError(
                f"the policy would send weights by {backend}, the reference by {other}: set "
                "rollout.weight_sync=host, or colocate both with the rollout, or none of them"
            )
    return backend


@dataclass
class Groups:
    """The groups of actors, wired by `Builder`."""

    rollout: ActorGroup[RolloutWorker]
    policy: ActorGroup[PolicyWorker]
    reference: ActorGroup[ReferenceWorker] | None = None
    critic: ActorGroup[CriticWorker] | None = None
    reward: ActorGroup[RewardModelWorker] | None = None


class Builder:
    """Starts the groups in parallel and connects them."""

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        placement: Placement,
        device: str,
        stack: ExitStack,
        optimizers: bool = True,
    ) -> None:
        self.config, self.inputs, self.placement, self.device, self.stack = config, inputs, placement, device, stack
        self.optimizers, self.store = optimizers, ObjectStore()
        self.deadlines = config.cluster.deadlines
        self.threads = config.cluster.threads_per_worker
        self.backend = weight_backend(config, device)
        self.reserved = reserved_bytes(config, model_shape(config.model)) if device == "cuda" else 0.0

    def build(self, run_dir: Path, tracker: Tracker) -> tuple[World, ActorGroup[RolloutWorker]]:
        config = self.config
        verifiers = self.start_rewards(tracker.message)  # detect a broken reward before a model is loaded
        judge = self.start_judge(tracker.message)
        groups, sharing = self.start_models(tracker.message)
        weights, restarts = self.wire_weights(groups, sharing, tracker.message)
        handle, sampled = partial(self.handle, sharing, weights), {"temperature": config.rollout.temperature}
        slots = int(config.rollout.extra.get("max_num_seqs", config.rollout.max_num_seqs))
        rollout = RolloutHandle(groups.rollout, sharing, self.deadlines.generate_s, restarts, slots)
        self.stack.callback(rollout.close)
        reward_model = None
        if groups.reward:
            reward_model = handle(RewardModelHandle, groups.reward)
            self.load_reward_model(reward_model)
        rewards = self.compose(verifiers, reward_model, judge)
        world = World(
            prompts=PromptStream(self.inputs.data.train, config.seed, config.data.shuffle),
            rollout=self.start_environments(rollout),
            engines=rollout,
            rewards=rewards,
            policy=handle(LanguageModelHandle, groups.policy, **sampled),
            weights=weights,
            checkpoints=Checkpoints(run_dir / "checkpoints", config.trainer.checkpoint.keep),
            tracker=tracker,
            reference=handle(LanguageModelHandle, groups.reference, **sampled) if groups.reference else None,
            critic=handle(ValueHandle, groups.critic) if groups.critic else None,
            reference_weights=weights if weights.reference else None,
            reward_model=reward_model,
            judge=judge,
        )
        return world, groups.rollout

    def handle(
        self, sharing: GpuSharing, weights: WeightHandle, kind: type[H], group: ActorGroup[Any], **options: Any
    ) -> H:
        shared = sharing if together(self.config.cluster.roles, group.name, "rollout") else None
        max_tokens, renewed = self.config.trainer.max_tokens_per_micro_batch, partial(weights.renewed, group)
        return kind(group, max_tokens, self.deadlines, shared, renewed, self.store, **options)

    def start_rewards(self, message: Callable[[str], None]) -> RewardHandle:
        """The verifiers, after a check of the reward on the first row."""
        verifier = self.group(VerifierWorker, "verifier")
        config = verifier_config(self.config.reward)
        self.start(verifier, VerifierWorker.start, lambda rank: (config, os.getcwd())).result()

        def restart(ranks: Sequence[int]) -> None:
            verifier.restart(ranks, VerifierWorker.start, lambda rank: (config, os.getcwd()), self.deadlines.start_s)

        key = f"at most {VERIFIER_RESTARTS} restarts"
        restarts = RestartPolicy(verifier, restart, VERIFIER_RESTARTS, key, message, expendable=True)
        rewards = RewardHandle(verifier, self.reward_deadline, restarts, self.deadlines.start_s)
        self.stack.callback(rewards.close)
        limit = self.reward_deadline(1)
        seen = Terms.of(self.config.reward).split(self.inputs.data.train[0]).verified
        if seen is not None:
            try:
                result = verifier.one(0, VerifierWorker.smoke, seen, timeout_s=limit, phase="reward check")
            except WorkerError as error:
                if isinstance(error.__cause__, RewardError):  # the message is complete without the worker's traceback
                    raise error.__cause__ from None
                raise
            if result.status is Status.ERROR:
                policy = self.config.reward.on_failure.value
                message(f"reward check: {result.info['error']} (reward.on_failure={policy})")
        return rewards

    def start_environments(self, engines: RolloutHandle) -> RolloutEngine:
        """Rollouts of several turns on the engines, if the config has an environment."""
        config, inputs = self.config, self.inputs
        if inputs.environment is None:
            return engines
        settings = config.environment, inputs.environment, config.data
        rollouts = make_rollouts(engines, *settings, inputs.tokenizer, config.context, os.getcwd())
        self.stack.callback(rollouts.close)
        return rollouts

    def load_reward_model(self, model: RewardModelHandle) -> None:
        """The reward model of the config; in rounds each stage names its own.

        Raises:
            ModelError: its tokenizer differs from the policy's.
        """
        path = self.config.reward.model
        if path is None:
            return
        folder = Path(path).expanduser()
        other = load_tokenizer(folder if folder.is_dir() else path, self.config.model.trust_remote_code)
        if text := other_tokenizer(self.inputs.tokenizer, other):
            raise ModelError(f"reward.model={path}: {text}; it gets the policy's token ids, so both must be equal")
        model.initialize(folder.absolute() if folder.is_dir() else Path(path))

    def start_judge(self, message: Callable[[str], None]) -> JudgeScorer | None:
        """The judge of the config: a frozen engine of the role `judge`, or an endpoint."""
        judge = self.config.reward.judge
        if judge.kind is JudgeKind.none:
            return None
        completer: Completer
        if judge.kind is JudgeKind.engine:
            group = self.group(JudgeWorker, "judge", max_concurrency=CONCURRENCY)
            limit = self.deadlines.start_s
            completer = start_judge(group, judge.engine, self.device, self.threads, self.config.seed, limit, message)
        else:
            completer = EndpointCompleter(judge.endpoint)
        scorer = JudgeScorer(completer, judge)
        self.stack.callback(scorer.close)
        return scorer

    def compose(
        self, verifiers: RewardHandle, reward_model: RewardModelHandle | None, judge: JudgeScorer | None
    ) -> RewardScorer:
        """The verifiers, with a reward model and a judge if the config or the rows use them."""
        if reward_model is None and judge is None:
            return verifiers
        model_scorer = None
        if reward_model is not None:
            sharing = reward_model.sharing
            ready = sharing.wait_for_generation if sharing else None
            model_scorer = RewardModelScorer(reward_model.rewards, self.deadlines.train_s, collate_groups, ready)
            self.stack.callback(model_scorer.close)
        return ComposedScorer(verifiers, model_scorer, judge, self.config.reward)

    def start_models(self, message: Callable[[str], None]) -> tuple[Groups, GpuSharing]:
        """Starts engines and models in parallel. On shared GPUs engines start first, because vLLM reserves a share of
        the free memory, then models, in the memory that sleeping engines release.
        """
        roles = self.config.cluster.roles
        rollout, policy = self.group(RolloutWorker, "rollout", max_concurrency=32), self.group(PolicyWorker, "policy")
        groups = Groups(rollout, policy)
        models = [policy]
        for role, worker in {"reference": ReferenceWorker, "critic": CriticWorker, "reward": RewardModelWorker}.items():
            if getattr(roles, role).num_workers:
                setattr(groups, role, group := self.group(worker, role))
                models.append(group)
        shared = [group for group in models if together(roles, group.name, "rollout")]
        level, offloads = self.config.rollout.sleep_level, self.config.engine.offload is not Offload.none
        sharing = GpuSharing(groups.rollout, level, self.deadlines.sync_s, shared, offloads)
        starting = [self.start(groups.rollout, RolloutWorker.start, self.rollout_arguments)]
        if self.device == "cuda":
            message("rollout engines are starting; on a new machine vLLM first compiles for several minutes")
            if shared:
                starting.pop().result()
                sharing.for_training()
        starting += [self.start_ranks(group) for group in models]
        for pending in starting:
            pending.result()
        return groups, sharing

    def wire_weights(
        self, groups: Groups, sharing: GpuSharing, message: Callable[[str], None]
    ) -> tuple[WeightHandle, RestartPolicy]:
        """Sets up weight transfer to the engines, and restarts of failed engines."""
        rollout, limit = groups.rollout, self.config.rollout.max_restarts

        def restart(ranks: Sequence[int]) -> None:
            rollout.restart(ranks, RolloutWorker.start, self.rollout_arguments, self.deadlines.start_s)
            weights.rejoin(ranks)

        restarts = RestartPolicy(rollout, restart, limit, f"rollout.max_restarts={limit}", message)
        sends = self.config.algorithm.preference.opponent is Opponent.reference
        weights = WeightHandle(
            groups.policy,
            rollout,
            self.deadlines.sync_s,
            sharing,
            restarts,
            connect=lambda senders: self.connect_weights(senders, rollout),
            reference=groups.reference if sends else None,
            exclusive=self.backend in GROUP_BACKENDS,
            checksums=self.config.rollout.checksums,
        )
        weights.join()
        sharing.resend = weights.resend
        return weights, restarts

    def group(self, worker: type[Any], role: str, max_concurrency: int = 1) -> ActorGroup[Any]:
        env = {"OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        group = ActorGroup.create(worker, self.placement.slots[role], role, env, max_concurrency)
        self.stack.callback(group.shutdown)
        return group

    def start(
        self, group: ActorGroup[Any], method: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]
    ) -> Pending[Any]:
        calls = [arguments(rank) for rank in range(len(group))]
        return group.submit_scatter(method, calls, timeout_s=self.deadlines.start_s, phase=f"start {group.name}")

    def start_ranks(self, group: ActorGroup[Any]) -> Pending[Any]:
        """Starts the ranks of one process group, after the address of rank 0 is known."""
        address, port = group.one(0, ModelWorker.address, timeout_s=self.deadlines.start_s, phase=f"start {group.name}")
        config, size = self.config, len(group)

        def arguments(rank: int) -> tuple[Any, ...]:
            spec = StartSpec(
                rank, size, address, port, self.device, str(self.inputs.model_path), config.model, config.engine,
                config.seed, self.threads, self.deadlines.start_s, self.optimizers,
            )  # fmt: skip
            return (spec,)

        return self.start(group, ModelWorker.start, arguments)

    def rollout_arguments(self, rank: int) -> tuple[Any, ...]:
        config, rollout = self.config, self.config.rollout
        return (
            str(self.inputs.model_path), rollout, self.device, config.model.dtype.value, config.context, self.threads,
            config.seed + rank, self.reserved, config.model.float32_head,
        )  # fmt: skip

    def connect_weights(self, senders: ActorGroup[Any], rollout: ActorGroup[RolloutWorker]) -> None:
        config = self.config.rollout
        senders.broadcast(
            LanguageModelWorker.connect, self.backend, rollout.handles, self.config.model.dtype.value,
            config.sync_bucket_mb * 2**20, self.deadlines.sync_s, config.tensor_parallel_size,
            timeout_s=self.deadlines.start_s, phase="connect weight sync",
        )  # fmt: skip

    def reward_deadline(self, num_samples: int) -> float:
        reward = self.config.reward
        rounds = -(-num_samples // reward.processes_per_worker) + MIN_CHUNK  # a pool never splits smaller lists
        return REWARD_SLACK_S + LOAD_TIMEOUT_S + reward.timeout_s * rounds
