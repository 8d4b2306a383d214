"""Names of settings in other trainers (TRL, verl, OpenRLHF) and their equivalents here, for error messages."""

from __future__ import annotations

BATCH = "trainer.prompts_per_step (prompts of a step) and trainer.samples_per_prompt (responses to each)"
LEARNING_RATE = "trainer.learning_rate.peak"

ALIASES = {
    "batch_size": BATCH, "train_batch_size": BATCH, "rollout_batch_size": BATCH, "generation_batch_size": BATCH,
    "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": "trainer.updates_per_step",
    "ppo_mini_batch_size": "trainer.updates_per_step", "mini_batch_size": "trainer.updates_per_step",
    "num_mini_batches": "trainer.updates_per_step", "ppo_epochs": "trainer.epochs_per_step",
    "num_iterations": "trainer.epochs_per_step", "max_epochs": "trainer.epochs_per_step",
    "micro_batch_size": "trainer.max_tokens_per_micro_batch",
    "micro_train_batch_size": "trainer.max_tokens_per_micro_batch",
    "ppo_micro_batch_size_per_gpu": "trainer.max_tokens_per_micro_batch",
    "ppo_max_token_len_per_gpu": "trainer.max_tokens_per_micro_batch",
    "num_generations": "trainer.samples_per_prompt", "n_samples_per_prompt": "trainer.samples_per_prompt",
    "group_size": "trainer.samples_per_prompt", "n": "trainer.samples_per_prompt",
    "lr": LEARNING_RATE, "learning_rate": LEARNING_RATE, "actor_learning_rate": LEARNING_RATE,
    "critic_learning_rate": "trainer.critic_learning_rate.peak", "critic_lr": "trainer.critic_learning_rate.peak",
    "lr_scheduler_type": "trainer.learning_rate.schedule", "lr_scheduler": "trainer.learning_rate.schedule",
    "warmup_steps": "trainer.learning_rate.warmup_steps", "lr_warmup_steps": "trainer.learning_rate.warmup_steps",
    "max_steps": "trainer.steps", "total_steps": "trainer.steps", "num_train_steps": "trainer.steps",
    "num_train_epochs": "trainer.steps", "num_episodes": "trainer.steps", "total_epochs": "trainer.steps",
    "eval_steps": "trainer.eval.every", "test_freq": "trainer.eval.every", "save_steps": "trainer.checkpoint.every",
    "save_freq": "trainer.checkpoint.every", "save_total_limit": "trainer.checkpoint.keep",
    "output_dir": "run_dir", "default_local_dir": "run_dir", "save_path": "run_dir", "run_name": "name",
    "experiment_name": "name", "project_name": "tracking.wandb.project", "report_to": "tracking.wandb.mode",
    "max_prompt_length": "data.max_prompt_tokens", "prompt_max_len": "data.max_prompt_tokens",
    "max_completion_length": "rollout.max_new_tokens", "max_response_length": "rollout.max_new_tokens",
    "generate_max_len": "rollout.max_new_tokens", "max_tokens": "rollout.max_new_tokens",
    "model_name_or_path": "model.path", "pretrain": "model.path", "model_name": "model.path",
    "train_files": "data.train", "prompt_data": "data.train", "dataset": "data.train", "dataset_name": "data.train",
    "val_files": "data.eval", "eval_dataset": "data.eval", "input_key": "data.columns.prompt",
    "prompt_key": "data.columns.prompt", "label_key": "data.columns.reference",
    "apply_chat_template": "data.chat_template", "reward_funcs": "reward.fn", "reward_fn": "reward.fn",
    "reward_function": "reward.fn", "custom_reward_function": "reward.fn", "remote_rm_url": "reward.judge.endpoint",
    "reward_pretrain": "reward.model", "kl_loss_coef": "algorithm.kl_coef", "init_kl_coef": "algorithm.kl_coef",
    "kl_estimator": "algorithm.kl_kind", "use_kl_loss": "algorithm.kl_in", "use_kl_in_reward": "algorithm.kl_in",
    "beta": "algorithm.kl_coef (for preferences: algorithm.preference.beta)", "epsilon": "algorithm.clip_low",
    "epsilon_high": "algorithm.clip_high", "eps_clip": "algorithm.clip_low", "clip_ratio": "algorithm.clip_low",
    "clip_ratio_low": "algorithm.clip_low", "clip_ratio_high": "algorithm.clip_high",
    "adv_estimator": "algorithm.advantage", "advantage_estimator": "algorithm.advantage",
    "loss_type": "algorithm.loss", "loss_agg_mode": "algorithm.aggregation", "gpus": "cluster.roles.policy.num_workers",
    "n_gpus_per_node": "cluster.roles.policy.num_workers", "num_gpus": "cluster.roles.policy.num_workers",
    "tp": "rollout.tensor_parallel_size", "vllm_tensor_parallel_size": "rollout.tensor_parallel_size",
    "vllm_gpu_memory_utilization": "rollout.gpu_memory_utilization", "bf16": "model.dtype",
    "torch_dtype": "model.dtype", "attn_implementation": "model.attention", "flash_attn": "model.attention",
    "lora_rank": "model.lora.rank", "lora_r": "model.lora.rank", "lora_alpha": "model.lora.alpha",
    "zero_stage": "engine.zero_stage", "adam_offload": "engine.offload_optimizer",
    "max_grad_norm": "engine.optimizer.max_grad_norm", "grad_clip": "engine.optimizer.max_grad_norm",
    "max_norm": "engine.optimizer.max_grad_norm", "weight_decay": "engine.optimizer.weight_decay",
    "log_completions": "tracking.samples_every",
}  # fmt: skip

# Hints for a value that is not a preset of its group.
OWN = {
    "model": "for a model folder or hub id: model=hf model.path=...",
    "data": "for a file: data=jsonl data.train=... (or data=parquet)",
    "reward": "for a function: reward=custom reward.fn=path/to/file.py:function",
    "algorithm": "for advantages and losses in a file: algorithm.files=[path.py]",
}


def alias(key: str) -> str:
    """The equivalent of another trainer's key; "" if unknown."""
    return ALIASES.get(key.replace("-", "_").rpartition(".")[2].lower(), "")
