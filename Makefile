# `make demo` and `make test` are all that a fresh machine needs: they make the virtual environment themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Tests disable Ray's token authentication: they are alone on this machine, and must not write to the home directory.
TEST_ENV := RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore::DeprecationWarning:ray

.PHONY: help demo ui test test-fast test-smoke test-rest test-all lint types contracts bench format clean

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

# Tests that start clusters, servers, browsers or worker processes. They use two thirds of a core each, so three of them
# run on two cores; a file's tests share what they start. All other tests use the cores fully.
HEAVY := ray or gloo or server or browser or cluster
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest --durations=20 --durations-min=1
# The fast and the slow tests wait for the disk for a tenth of their time, where there is no memory to spare.
MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 2>/dev/null \
          && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)

test: lint types contracts test-fast test-smoke  ## what a change must pass; at most ten minutes on two cores

test-fast: $(READY)  ## no Ray cluster, no server, no browser, no worker processes: under two minutes
	$(MEMORY) $(PYTEST) -n auto --dist worksteal -m "not slow and not ($(HEAVY))" tests/unit tests/contracts

test-smoke: $(READY)  ## about ten real cases: a demo, kills, a full disk, a lost node, PostgreSQL, S3
	$(PYTEST) -n 3 --dist loadfile -m smoke

test-rest: $(READY)  ## what test-all has and test does not
	$(MEMORY) $(PYTEST) -n auto --dist worksteal -m "slow and not smoke and not ($(HEAVY))"
	$(PYTEST) -n 3 --dist loadfile -m "($(HEAVY)) and not smoke"

test-all: test test-rest  ## everything; the aim is thirty minutes on two cores

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict, tests and benchmarks included
	$(BIN)/mypy

contracts: $(READY)  ## a layer imports only lower layers
	$(BIN)/lint-imports --no-logo

bench: $(READY)  ## the table of ratios; minutes
	$(BIN)/python -m benchmarks.run

format: $(READY)  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches; workspaces stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
