#!/usr/bin/env bash
# GRPO on your own math problems:  bash examples/math/run.sh MODEL [FILE.jsonl] [overrides of rlcore train]
# MODEL: a Hugging Face folder or hub id with a chat template. FILE: rows with `question` and `answer`, as GSM8K has them.
set -euo pipefail
model=${1:?which model? a Hugging Face folder or hub id}
[ -d "$model" ] && model=$(realpath "$model")
shift
file=examples/math/problems.jsonl
if [[ "${1:-}" == *.jsonl ]]; then file=$(realpath -m "$1") && shift; fi
cd "$(dirname "$0")/../.."
[ -x .venv/bin/rlcore ] && PATH="$PWD/.venv/bin:$PATH"
exec rlcore train name=math model=hf "model.path=$model" trainer=default reward=math reward.math.answer=boxed \
  data=jsonl "data.train=$file" data.num_eval=4 data.columns.prompt=question data.columns.reference=answer \
  "data.prompt_template='{prompt} Reason step by step and put the final answer into \\boxed{}.'" \
  rollout.max_new_tokens=256 trainer.steps=20 trainer.prompts_per_step=4 trainer.samples_per_prompt=8 \
  trainer.max_tokens_per_micro_batch=2048 "$@"
