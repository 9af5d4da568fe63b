# `make run` and `make test` do everything on a machine with Python 3.11 or newer and make.
# Variables: PYTHON=python3.12  ARGS="sharing=soft -m seed=0,1"  TORCH_INDEX=… (an index of smaller builds of torch, without CUDA)

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
TORCH_INDEX ?=
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help run test lint types bench ui clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.installed ## install, and run the default experiment (ARGS="…" changes it)
	$(BIN)/mtl-run $(ARGS)

test: $(VENV)/.installed-test ## install, and run all tests, the slow ones included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "" $(ARGS)

lint: $(VENV)/.installed-test ## check style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test ## check types
	$(BIN)/mypy

bench: $(VENV)/.installed ## time the training step, plain and with every weighting, against a hand-written loop, and a sweep against its steps
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/weighting.py $(ARGS)
	$(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/imbalance.py
	$(BIN)/python benchmarks/dense_memory.py
	$(BIN)/python benchmarks/sweep.py --jobs 4 --seconds 3

ui: $(VENV)/.installed ## show the runs in MLflow, at 127.0.0.1
	$(BIN)/mtl ui $(ARGS)

clean: ## remove the environment, caches and builds (runs stay)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable '.[test]'
	@touch $@
