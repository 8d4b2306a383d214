#!/usr/bin/env bash
# Trains every preset from the same warmed-up quickstart model, then prints the table.
#   examples/algorithms/run.sh                      all presets, seed 0
#   SEEDS="0 1 2" examples/algorithms/run.sh ppo grpo dapo rloo online_dpo
# Runs are written to runs/algorithms; finished runs there are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
RLCORE=${RLCORE:-.venv/bin/rlcore}
OUT=runs/algorithms
STEPS=${STEPS:-60}
export WANDB_MODE=${WANDB_MODE:-offline}
ALL=(ppo grpo dr_grpo dapo gspo cispo rloo reinforce reinforce_pp reinforce_pp_baseline mdloo
     online_dpo online_ipo online_rpo online_simpo xpo nash_md)

# Overrides on top of the preset and the quickstart's settings.
settings() {
  case $1 in
    ppo) echo "cluster=laptop_critic trainer.critic_learning_rate.peak=5e-4 algorithm.critic_warmup_steps=3" ;;
    grpo | dr_grpo | dapo | cispo | online_simpo) echo "" ;;
    gspo) echo "algorithm.clip_low=0.2 algorithm.clip_high=0.28" ;; # the paper's range is for steps of 1e-6
    rloo | reinforce) echo "trainer.updates_per_step=1" ;;
    nash_md) echo "cluster=laptop_reference trainer.updates_per_step=1" ;;
    *) echo "cluster=laptop_reference" ;;
  esac
}

presets=("$@")
[[ $# -gt 0 ]] || presets=("${ALL[@]}")
for seed in ${SEEDS:-0}; do
  start=$OUT/start-seed$seed
  "$RLCORE" train seed="$seed" run_dir="$start" trainer.steps=0
  for preset in "${presets[@]}"; do
    # shellcheck disable=SC2046
    "$RLCORE" train algorithm="$preset" seed="$seed" run_dir="$OUT/$preset-seed$seed" \
      model.path="$start/model" trainer.warmup.steps=0 trainer.steps="$STEPS" $(settings "$preset")
  done
done
"${RLCORE%rlcore}python" examples/algorithms/table.py "$OUT"
