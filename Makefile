# `make help` lists the targets. PYTHON picks the interpreter, VENV the folder of the environment.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types test-gpu soak bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed ## the environment: .venv with pinned versions

demo: setup ## the whole way on the embedded corpus, in minutes: prints where the report is
	$(BIN)/isotok run experiment=demo

test: setup ## all tests that run on a CPU
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak and not gpu"

check: setup lint types ## before every commit: lint, types, fast tests (under two minutes)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not soak and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test-gpu: setup ## tests that need CUDA; skips aloud without it
	$(BIN)/python -m pytest -m gpu -rs

soak: setup ## long tests: random kills, coverage of intervals
	$(BIN)/python -m pytest -m soak

bench: setup ## speed as ratios to peers; not part of the tests
	$(BIN)/python tests/benchmarks/bench_loop.py
	$(BIN)/python tests/benchmarks/bench_streams.py
	$(BIN)/python tests/benchmarks/bench_stochastok.py
	$(BIN)/python tests/benchmarks/bench_meta.py
	$(BIN)/python tests/benchmarks/bench_merges.py
	$(BIN)/python tests/benchmarks/bench_encode.py
	$(BIN)/python tests/benchmarks/bench_scoring.py

clean: ## remove the environment and caches; artefacts in runs/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
