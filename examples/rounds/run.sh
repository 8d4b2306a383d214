#!/usr/bin/env bash
# One recipe, or all of them:  bash examples/rounds/run.sh [RECIPE] [overrides of rlcore rounds]
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -x .venv/bin/rlcore ] && PATH="$PWD/.venv/bin:$PATH"
[ -f examples/rounds/data/preferences.jsonl ] || python examples/rounds/make_data.py
recipes=(instructgpt llama2 llama3 nemotron apple tulu3 r1_zero constitutional)
if [ $# -gt 0 ] && [[ "$1" != *=* ]]; then recipes=("$1"); shift; fi
for recipe in "${recipes[@]}"; do
  rlcore rounds "+experiment=$recipe" "$@"
done
