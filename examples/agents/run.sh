#!/usr/bin/env bash
# One example: bash examples/agents/run.sh calculator|guess_number|code_interpreter [overrides of rlcore train]
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -x .venv/bin/rlcore ] && PATH="$PWD/.venv/bin:$PATH"
example=${1:?name an example: calculator, guess_number or code_interpreter}; shift
seed=0
for override in "$@"; do [[ $override == seed=* ]] && seed=${override#seed=}; done
[ -d "examples/agents/$example/data" ] || (cd "examples/agents/$example" && python make_data.py)
start=runs/$example-start-seed$seed
rlcore rounds "+experiment=${example}_start" "run_dir=$start" "seed=$seed"  # from demonstrations; finished stages are skipped
rlcore train "+experiment=$example" "model.path=$(ls -d "$start"/artefacts/r01-sft-*/model)" "$@"
