"""A language model with a head, under DeepSpeed: forward, backward, step, save, export, gather.

This module reverts two behaviours of DeepSpeed:

- it averages gradients over ranks and divides by the number of accumulation steps. `backward` scales so that the
  gradient is that of the plain sum of all losses over micro-batches and ranks;
- it ends a step after a fixed number of micro-batches. `backward(last=...)` marks the last one of a step.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from actors.config.schema import DType, EngineConfig, ModelConfig
from actors.placement.process import random_states, set_random_states
from actors.training import checkpoint_format, lora, reshard
from actors.training.compilation import compile_layers
from actors.training.flops import model_flops
from actors.training.masters import restore_masters, write_masters
from actors.training.model_folder import check_export, save_model
from actors.training.offload import Held, ModelMemory
from actors.training.scorer import Scorer, load_causal
from actors.training.streaming import Place, streamed
from rlcore.objective import Outputs, TensorBatch
from rlcore.ragged import trim
from rlcore.storage.durable import FileSums, new_folder, synced_sums

GATHER_BYTES = 32 << 20  # of weights in one all-gather, for which DeepSpeed needs as much memory again


def zero_stage(model: ModelConfig, engine: EngineConfig) -> int:
    """The effective stage. Stage 0 in bfloat16 runs as stage 1, which keeps float32 master weights and accumulates in
    float32; DeepSpeed's stage 0 would accumulate gradients in bfloat16.
    """
    return 1 if engine.zero_stage == 0 and model.dtype is DType.bfloat16 else engine.zero_stage


def deepspeed_config(model: ModelConfig, engine: EngineConfig, trainable: bool = True) -> dict[str, Any]:
    """The DeepSpeed configuration, `engine.extra` merged in last.

    Raises:
        ValueError: a stage that does not exist, or optimizer offload without ZeRO.
    """
    stage, low = zero_stage(model, engine), model.dtype is DType.bfloat16
    if engine.zero_stage not in range(4):
        raise ValueError(f"engine.zero_stage={engine.zero_stage}: there are stages 0, 1, 2 and 3")
    if engine.offload_optimizer and stage == 0:
        raise ValueError("engine.offload_optimizer=true needs engine.zero_stage of 1, 2 or 3")
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # required by DeepSpeed, but not used
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        "gradient_clipping": engine.optimizer.max_grad_norm if stage else 0.0,  # stage 0 is clipped by `step`
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage},
    }
    if low:
        config |= {"bf16": {"enabled": True, "check_grad_overflow": True}, "communication_data_type": "fp32"}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if engine.offload_optimizer and trainable:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return _merged(config, engine.extra)


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if nested else value
    return result


class TrainEngine:
    """One rank of a model, sharded by its ZeRO stage. Every method but the properties is a collective.

    Without optimizer it is below ZeRO-3 a plain module, under ZeRO-3 sharded inference.

    Args:
        model_path: a Hugging Face folder or hub id.
        device: "cpu" or "cuda".
        trainable: False: a frozen model, without adapters and optimizer.
        load: reads the model and puts its head on; takes `model_path`, `model` and `trainable`.
        optimizer: False: `load` reads only the weights of a checkpoint, and there is no `step` and `save`.

    Raises:
        ValueError: see `deepspeed_config` and `load`.
    """

    def __init__(
        self,
        model_path: str,
        model: ModelConfig,
        engine: EngineConfig,
        device: str,
        trainable: bool = True,
        load: Callable[[str, ModelConfig, bool], Scorer] = load_causal,
        optimizer: bool = True,
    ) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda:0" if device == "cuda" else "cpu")
        self.stage, self.dtype, self.trainable = zero_stage(model, engine), model.dtype, trainable and optimizer
        self._path, self._max_norm, self._packing = model_path, engine.optimizer.max_grad_norm, engine.packing
        config = deepspeed_config(model, engine, self.trainable)
        with streamed(self._place(config)):
            self.scorer = load(model_path, model, trainable)
        self.module = self.scorer.hf  # its parameters' names are those of `buckets` and `export`
        self._trained = [name for name, p in self.scorer.named_parameters() if p.requires_grad]
        self.num_parameters = sum(int(getattr(p, "ds_numel", p.numel())) for p in self.scorer.parameters())
        self.flops = model_flops(self.module)
        if engine.compile:
            compile_layers(self.module)
        self._memory = ModelMemory(engine.offload, self.scorer, self.device)
        self._has_adapters, self._dropouts = bool(lora.adapted_layers(self.module)), lora.dropouts(self.module)
        self._engine: Any = None
        self._adam: torch.optim.AdamW | None = None
        if self.trainable or self.stage == 3:
            self._initialize(config, engine)
        else:
            self.scorer.requires_grad_(False).to(self.device)
        if self._has_masters:
            restore_masters(self.module, model_path, model)
        self.scorer.check(self._packing, self.device)
        if self.trainable and self.rank == 0:
            check_export(self.module, model_path)
        trim()

    def _place(self, config: dict[str, Any]) -> Place:
        """Where a weight that was read goes: to the device, and under ZeRO-3 this rank's part of it alone."""
        if self.stage != 3:
            return lambda name, parameter: setattr(parameter, "data", parameter.data.to(self.device))
        import deepspeed

        init = deepspeed.zero.Init(config_dict_or_path=config)

        def shard(name: str, parameter: Any) -> None:  # zero.Init's own way has rank 0 send what every rank has read
            parameter.data = parameter.data.to(init.local_device)
            init._convert_to_deepspeed_param(parameter)
            parameter.partition()

        return shard

    def _initialize(self, config: dict[str, Any], engine: EngineConfig) -> None:
        import deepspeed

        if self.stage == 3:  # what was not read from the folder: tied weights, new heads and adapters
            deepspeed.zero.Init(module=self.scorer, config_dict_or_path=config)
        if self.trainable:
            o = engine.optimizer
            trained = [p for p in self.scorer.parameters() if p.requires_grad]
            # torch's own fused kernel: DeepSpeed's would be compiled at first use
            self._adam = torch.optim.AdamW(trained, 0.0, tuple(o.betas), o.eps, o.weight_decay, fused=True)  # type: ignore[arg-type]
        mode = self.module.training
        with redirect_stdout(io.StringIO()):  # it prints memory use, whatever the log level
            self._engine, *_ = deepspeed.initialize(model=self.scorer, optimizer=self._adam, config=config)
        self.scorer.train(mode)
        if self.stage == 3 and self.trainable and not self._engine.optimizer.offload_optimizer:
            for flat in self._engine.optimizer.fp32_partitioned_groups_flat:
                flat.grad = None  # zeros, as large as a part of the gradients, which the first step replaces
        if self.stage == 0 and self.world_size == 1:  # flattening gradients to sum them over one rank is a mere copy
            self._engine.enable_backward_allreduce = False

    def forward(
        self, batch: TensorBatch, temperature: float = 1.0, first: int = 1, entropy: bool = False
    ) -> Outputs:
        """The head's outputs for each row; with gradient unless torch.no_grad() is on.

        Args:
            batch: on the engine's device, padded on the right with any id.
            temperature, first, entropy: see `CausalScorer.score`; other heads ignore them.

        Returns:
            Log-probs or values of each token, or scores of each row; 0 at padding.
        """
        self._memory.need(Held.ALL if torch.is_grad_enabled() else Held.WEIGHTS)
        for dropout in self._dropouts:  # adapters use dropout only with gradients
            dropout.training = torch.is_grad_enabled()
        # scoring goes past DeepSpeed's own forward, which readies a backward; ZeRO-3's hooks sit on the module itself
        module = self._engine if self._engine is not None and torch.is_grad_enabled() else self.scorer
        options = {"temperature": temperature, "first": first, "entropy": entropy, "packed": self._packing}
        found: Tensor = module(batch.tokens, batch.lengths, **options)
        return Outputs(*found) if entropy else Outputs(found)

    # ---- training

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds the gradient of one micro-batch. After the `last` one it is the gradient of the sum over all ranks.

        A loss that is not finite makes the whole gradient not finite, on every rank, so that `step` skips.
        """
        factor = torch.where(torch.isfinite(loss.detach()), float(self.world_size), torch.nan)
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * factor, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clips and takes the optimizer step, unless the gradient is not finite.

        Returns:
            The gradient's 2-norm before clipping and whether the step was taken; both equal on every rank.
        """
        assert self._adam is not None
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        if self.stage == 0:
            return self._step_unsharded()
        self._engine.step()
        return float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied())

    def _step_unsharded(self) -> tuple[float, bool]:
        parameters = [p for p in self.scorer.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):
            self._engine.zero_grad()
            return float(norm), False
        if self._max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_norm, norm)
        self._engine.step()
        return float(norm), True

    def reset_optimizer(self) -> None:
        """Resets Adam's moments and step count, as if training started from the current weights."""
        assert self._adam is not None
        self._memory.need(Held.ALL)
        for state in self._adam.state.values():
            for value in state.values():
                if isinstance(value, Tensor):  # in place, because DeepSpeed keeps views of these
                    value.zero_()

    # ---- weights

    def buckets(self, max_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
        """All weights in checkpoint format; see `checkpoint_format.buckets`.

        Under ZeRO-3 a bucket is gathered on every rank and freed when the next is requested: copy tensors you keep, and
        iterate on all ranks.
        """
        self._memory.need(Held.WEIGHTS)
        for bucket in checkpoint_format.buckets(self.module, max_bytes, self._gathered):
            yield bucket
            bucket.clear()
        trim()

    def _gathered(self, parameters: Sequence[Tensor], modifier_rank: int | None = None) -> Any:
        stack = ExitStack()
        if self.stage == 3:
            import deepspeed

            size = lambda p: int(getattr(p, "ds_numel", p.numel())) * p.element_size()  # noqa: E731
            for some in checkpoint_format.cut(parameters, size, GATHER_BYTES):
                stack.enter_context(deepspeed.zero.GatheredParameters(some, modifier_rank))
        return stack

    def export(self, directory: str | Path, masters: bool = False) -> None:
        """Writes a Hugging Face folder (safetensors, config, tokenizer, generation config) in the model's dtype.

        Rank 0 writes; every rank must call. An earlier folder is replaced when the new one is complete.

        Args:
            masters: in bfloat16, write the float32 master weights too (`masters`), so that a training that starts from
                the folder continues from exactly these.
        """
        self._memory.need(Held.ALL if masters else Held.WEIGHTS)
        try:
            with new_folder(Path(directory)) if self.rank == 0 else nullcontext() as folder:
                try:
                    save_model(self.module, self._path, folder, self._gathered)
                finally:  # with the other ranks, also where this one could not write
                    if masters and self._has_masters:
                        write_masters(self.module, folder)
        finally:
            trim()
            dist.barrier()

    @property
    def _has_masters(self) -> bool:
        """True if there are float32 weights in addition to the model's own. Adapters are merged and have none."""
        low = self.trainable and self.dtype is DType.bfloat16
        return low and self.scorer.KEEPS_MASTERS and not self._has_adapters

    # ---- checkpoints

    def _identity(self) -> dict[str, Any]:
        parts = (self.world_size, self.stage, self.dtype.value, self.num_parameters)
        return dict(zip(("world_size", "zero_stage", "dtype", "parameters"), parts, strict=True))

    def save(self, directory: str | Path) -> FileSums:
        """Writes weights, master weights, optimizer and this rank's random states into a folder all ranks share.

        Returns:
            The sums of the files that this rank has written, which are fsynced.
        """
        self._memory.need(Held.ALL)
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        # the base model of adapters is not trained, and is loaded from its folder again
        options = {"exclude_frozen_parameters": self._has_adapters}
        self._engine.save_checkpoint(str(target), tag="engine", save_latest=False, **options)
        torch.save(random_states(), target / f"random-{self.rank}.pt")
        if self.rank == 0:
            (target / "engine.json").write_text(json.dumps(self._identity()))
        own = [path for path in (target / "engine").iterdir() if reshard.rank_of(path) == self.rank]
        own += [target / f"random-{self.rank}.pt", *([target / "engine.json"] if self.rank == 0 else [])]
        sums = synced_sums(target, [path.relative_to(target).as_posix() for path in own])
        dist.barrier()
        return sums

    def load(self, directory: str | Path) -> None:
        """Restores the state of `save` exactly; with another number of ranks or ZeRO stage, up to rounding. Without
        optimizer only the weights.

        Raises:
            FileNotFoundError: no checkpoint of an engine in `directory`.
            ValueError: saved with another dtype or model size.
        """
        self._memory.need(Held.ALL)
        source = Path(directory)
        saved, own = json.loads((source / "engine.json").read_text()), self._identity()
        if fixed := [key for key in ("dtype", "parameters") if saved.get(key) != own[key]]:
            shown = ", ".join(f"{key} {saved.get(key)} (here {own[key]})" for key in fixed)
            raise ValueError(f"the checkpoint in {source} was saved with {shown}")
        if not self.trainable:
            reshard.read_weights(source / "engine", self.scorer, self._trained, self._gathered)
            return
        assert self._adam is not None
        reshard.restore(source / "engine", self.scorer, self._engine.optimizer, self._adam, self.stage)
        if (states := source / f"random-{self.rank}.pt").exists():  # a new rank keeps its own
            set_random_states(torch.load(states, weights_only=False))
        trim()
        dist.barrier()

    # ---- the rest

    def release(self, held: Held) -> None:
        """See `ModelMemory.release`. Not a collective; the memory returns when a method needs it."""
        self._memory.release(held, None if self._engine is None else self._engine.optimizer)

    def check_agreement(self, value: int, what: str) -> None:
        """Raises ValueError on every rank if the ranks' values differ, instead of a collective that never ends."""
        if self.world_size == 1:
            return
        seen = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(seen, torch.full_like(seen[0], value))
        numbers = [int(x) for x in seen]
        if len(set(numbers)) > 1:
            raise ValueError(f"{what} must be equal on every rank, it is {numbers}")

    def describe(self) -> dict[str, Any]:
        where = {"rank": self.rank, "device": str(self.device), "optimizer": self._adam is not None}
        return where | self._identity()
