# Two commands do everything on a fresh machine: `make simulate` and `make test`.
# Each target makes its own .venv when it is missing; nothing is installed outside of it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPTIONS ?=  # more for intramural-simulate, e.g. OPTIONS="--rounds 3"

.PHONY: simulate test test-fast test-crash check bench format install clean

simulate: $(READY)  ## Rehearse the main job: four hospitals on embedded data, with differential privacy
	$(BIN)/intramural-simulate --baselines $(OPTIONS)

test: $(READY)  ## All tests but the long crash matrix
	$(BIN)/python -m pytest -q -m "not crash"

test-fast: $(READY)  ## The tests that take no more than a moment
	$(BIN)/python -m pytest -q -m "not slow and not e2e and not crash"

test-crash: $(READY)  ## Real processes that are killed, cut off and attacked, and a table of what held
	$(BIN)/python -m pytest -q -m crash

check: $(READY)  ## What CI runs: format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(MAKE) test

bench: $(READY)  ## Overhead of a round, start-up, speed and memory of the engines, a deployment beside bare Flower
	$(BIN)/python tests/benchmarks/rounds.py
	$(BIN)/python tests/benchmarks/consortium.py
	$(BIN)/python tests/benchmarks/engine.py

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
