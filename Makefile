# Two commands do everything on a fresh machine: `make simulate` and `make test`.
# Each target makes its own .venv when it is missing; nothing is installed outside of it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPTIONS ?=  # more for intramural-simulate, e.g. OPTIONS="--rounds 3"
# Two files of tests at a time, one a core, the long ones first; the crash matrix has real processes and goes alone.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The wheels and their hashes, from which a machine without network is installed (docs/supply-chain.md).
WHEELHOUSE ?= wheelhouse

.PHONY: simulate test test-fast test-crash check bench format install wheelhouse install-offline sbom clean

simulate: $(READY)  ## Rehearse the main job: four hospitals on embedded data, with differential privacy
	$(BIN)/intramural-simulate --baselines $(OPTIONS)

test: $(READY)  ## All tests but the long crash matrix
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not crash"

test-fast: $(READY)  ## The tests that take no more than a moment
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not slow and not e2e and not crash"

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

wheelhouse: $(READY)  ## Every wheel that the product needs on this kind of machine, pinned by hash; about 3 GB
	$(BIN)/python deploy/wheelhouse.py $(WHEELHOUSE)

install-offline:  ## The product from the wheelhouse, without network and without the development tools
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --find-links $(WHEELHOUSE) \
		--require-hashes --requirement $(WHEELHOUSE)/requirements.txt

sbom: $(READY)  ## The bill of materials of the product: CycloneDX, with the wheelhouse's hashes where there is one
	$(BIN)/python deploy/sbom.py sbom.cdx.json --requirements $(WHEELHOUSE)/requirements.txt

$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info
