"""Help texts of the commands."""

from __future__ import annotations

USAGE = """rlcore: online RL training for language models on Ray, vLLM and DeepSpeed

  rlcore train [overrides]    train a model
  rlcore plan [overrides]     check the config; show placement, batches and memory; start nothing
  rlcore eval [RUN_DIR]       accuracy of a run's newest checkpoint or model, or of model.path=..., on held-out prompts
  rlcore rounds [overrides]   several rounds of sampling, filtering, SFT, preferences and RL
  rlcore rounds status [...]  the tree of its stages, and what each round gained
  rlcore report RUN_DIR       summary and learning curve of a run
  rlcore rewards list         the rewards a config can name
  rlcore rewards score FILE.jsonl --reward NAME --out OUT.jsonl
                              score stored completions by one of them
  rlcore doctor               what this machine has, what is missing and how to fix it
  rlcore init [FILE.yaml]     write a commented config file to start from
  rlcore keys [PREFIX]        reference of all config keys

rlcore COMMAND --help explains a command; rlcore --version prints the version.
Overrides are key=value and group=preset. Without any, the quickstart runs. --config FILE.yaml reads them from a file.
"""

_COMMON = """
Settings
  --config FILE.yaml           keys from a YAML file; overrides on the command line win (rlcore init writes one)
  --config-dir DIR             a folder of further presets: DIR/algorithm/mine.yaml is algorithm=mine
  key=value                    one key; `rlcore keys` lists all, `rlcore keys trainer` those of a group
  group=preset                 algorithm=grpo, model=hf, data=jsonl, reward=math, rollout=cpu, cluster=laptop, ...
  +experiment=NAME             a whole recipe: smollm2, r1_zero, tulu3, llama3, ...

Keys a new user meets
  model.path                   Hugging Face folder or hub id (with model=hf)
  data.train, data.eval        files (with data=jsonl or data=parquet); data.columns.prompt names the column
  reward.fn                    path/to/file.py:function (with reward=custom)
  trainer.steps                steps of the run
  trainer.prompts_per_step     prompts of a step; each gets trainer.samples_per_prompt responses
  trainer.learning_rate.peak   learning rate of the policy
  rollout.max_new_tokens       longest response
  data.max_prompt_tokens       longest prompt
  cluster                      laptop (CPU), gpu1_colocated, gpu8, gpu64, ...
  run_dir                      folder of checkpoints, metrics and model; by default runs/MODEL-DATA[-ALGORITHM]-seed0
"""

COMMANDS_HELP = {
    "train": f"""rlcore train [--config FILE.yaml] [overrides]: train a model. Rerun the same command to resume.
{_COMMON}
Hydra's flags: --cfg job prints the composed config, --multirun runs one job per value (seed=0,1,2).

Examples
  rlcore train                                   the quickstart: two-digit addition on a CPU, a few minutes
  rlcore train algorithm=rloo trainer.steps=50
  rlcore train --config my.yaml trainer.learning_rate.peak=1e-6
  rlcore train model=hf model.path=my/model data=jsonl data.train=train.jsonl reward=custom \\
      reward.fn=my_reward.py:my_reward
""",
    "plan": f"""rlcore plan [--config FILE.yaml] [overrides]: check a config without starting anything.

Shows errors and warnings, placement, batches, memory and weight sync. Reads the data and scores one row with the
reward. Exit code: 0 when the config can run, 1 when something must be fixed or does not fit.
{_COMMON}
Example
  rlcore plan --config my.yaml && sbatch job.sh
""",
    "eval": f"""rlcore eval [RUN_DIR] [--config FILE.yaml] [overrides]: measure a model on held-out prompts.

With RUN_DIR the config is the run's, and the model its newest checkpoint (or, without one, its trained model).
With model.path=... that model is measured; then data=... must say on what.

  eval.checkpoint=NAME         step-000050, or a path: a checkpoint other than the newest
  trainer.eval.num_samples     responses per prompt; trainer.eval.temperature: 0 is greedy
  trainer.eval.max_prompts     maximum number of prompts
{_COMMON}
Examples
  rlcore eval runs/quickstart-seed0
  rlcore eval model=hf model.path=my/model data=jsonl data.train=train.jsonl data.eval=test.jsonl
""",
    "rounds": f"""rlcore rounds [--config FILE.yaml] [overrides]: run the stages of `rounds.stages` in rounds.
rlcore rounds status [...]: the tree of stages and what each round gained; give the run folder, or the same config.
{_COMMON}
Examples
  rlcore rounds +experiment=llama3 rounds.count=1
  rlcore rounds --config my_rounds.yaml
""",
    "report": """rlcore report RUN_DIR: write and print the summary of a run, and draw its learning curve.

Example
  rlcore report runs/quickstart-seed0
""",
    "rewards": """rlcore rewards list: the rewards a config can name.
rlcore rewards score FILE.jsonl --reward NAME --out OUT.jsonl: score stored completions, one JSON object per line.

NAME is a registered reward or path/to/file.py:function. `rlcore rewards score` without arguments lists its options.

Example
  rlcore rewards score examples/math/completions.jsonl --reward math --out scored.jsonl
""",
    "doctor": """rlcore doctor: what this machine has, what is missing and how to fix it.

Exit code 1 when something fails.
""",
    "init": """rlcore init [FILE.yaml]: write a commented config file for your own model, data and reward.

The default name is rlcore.yaml. An existing file is not overwritten.
""",
    "keys": """rlcore keys [PREFIX ...]: every config key with its type, default, bounds and meaning.

Examples
  rlcore keys trainer
  rlcore keys max_new_tokens
""",
}
