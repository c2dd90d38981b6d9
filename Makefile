# `make demo` and `make test` set up all they need. What runs where is in AGENTS.md.

PYTHON ?= python3
export PYTHON
# TORCH_SPEC=... chooses the torch to install, for instance TORCH_SPEC="torch==2.13.0"
export TORCH_SPEC
# VLLM_SPEC=... chooses the vLLM of `make install-vllm`
export VLLM_SPEC

BIN := .venv/bin
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Test processes, each with one torch thread; 1 runs the tests in a single process
WORKERS ?= 2

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(filter-out 1,$(WORKERS)),-n $(WORKERS))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast test-vllm install install-vllm lint types contracts wheel bench check format clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-14s%s\n", $$1, $$2 }'

demo: install  ## Watch the whole method work on a small model (options: DEMO_ARGS="--level medium --seed 1")
	$(BIN)/sgsd demo $(DEMO_ARGS)

test: install  ## Run every test
	$(PYTEST) $(PYTEST_ARGS)

test-fast: install  ## Run the tests that take seconds
	$(PYTEST) -m "not slow and not vllm" $(PYTEST_ARGS)

test-vllm: install install-vllm  ## Run the tests that compare with vLLM, which `make test` skips without .venv-vllm
	SGSD_VLLM=required OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m vllm $(PYTEST_ARGS)

install:  ## Put everything but vLLM into .venv (nothing to do when it is up to date)
	@scripts/setup_env.sh .venv

install-vllm:  ## Make .venv-vllm, an environment of its own for generation with vLLM
	@scripts/setup_env.sh .venv-vllm vllm

lint: install  ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install  ## Check types, strictly
	$(BIN)/mypy

contracts: install  ## Check the import directions, and that the check notices a forbidden import
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_contracts.py

wheel: install  ## Build the wheel and run it from elsewhere
	$(BIN)/python scripts/check_wheel.py

bench: install  ## Measure a training step beside its obvious restatement and its limit, at two shapes
	$(BIN)/python scripts/bench_step.py --threads 1 $(BENCH_ARGS)
	$(BIN)/python scripts/bench_step.py --threads 1 --vocab 151936 --completion 128 $(BENCH_ARGS)

check:  ## Run all that CI runs
	.ci/run

format: install  ## Rewrite the code in the house's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove caches and build output (environments and runs stay)
	rm -rf build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find sgsd skillbank tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
