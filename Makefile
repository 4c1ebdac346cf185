# `make demo` and `make test` are all that a fresh machine needs: they make the virtual environment themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Tests disable Ray's token authentication: they are alone on this machine, and must not write to the home directory.
TEST_ENV := RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore::DeprecationWarning:ray

.PHONY: help demo ui test test-fast lint types contracts bench format clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Exact versions; extras for development included, so that one environment serves demo and tests.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)  ## render clips, run the demo study, print the comparison
	$(BIN)/remix-study demo

ui: $(READY)  ## open MLflow on the demo's runs
	$(BIN)/remix-study ui

# A cluster, a server, a browser or worker processes want the machine for themselves; of all others as many run at once
# as there are cores.
ALONE := ray or gloo or server or browser or cluster

test: lint types contracts test-fast $(READY)  ## everything that CI checks
	$(TEST_ENV) $(BIN)/python -m pytest -n auto -m "slow and not ($(ALONE))"
	$(TEST_ENV) $(BIN)/python -m pytest --durations=40 --durations-min=5 -m "$(ALONE)"

test-fast: $(READY)  ## no Ray cluster, no server, no browser, no worker processes: under two minutes
	$(TEST_ENV) $(BIN)/python -m pytest -n auto -m "not slow and not ($(ALONE))"

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict, tests and benchmarks included
	$(BIN)/mypy

contracts: $(READY)  ## a floor imports only lower floors
	$(BIN)/lint-imports --no-logo

bench: $(READY)  ## the table of ratios; minutes
	$(BIN)/python -m benchmarks.run

format: $(READY)  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches; workspaces stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
