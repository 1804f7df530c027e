# One list of habits; CI runs the same targets. `make help` prints them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QEXP := $(BIN)/qexp
SCALE ?= small
RESULTS ?= runs
WORKERS ?= auto
SEEDS ?=
LAUNCHER ?= local
# The pins are for Python 3.11 and later; an older Python takes the ranges of pyproject.toml.
PINS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format typecheck check bench table report reproduce-all clean

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet $(PINS) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.ready ## Make the environment, then fine-tune, quantize and compare two methods on embedded data
	$(QEXP) reproduce quickstart results_dir=$(RESULTS)

# Ray is large, and only its tests want it.
$(VENV)/.test: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(PINS) -e '.[ray]' || echo "no Ray to be had: its tests are skipped"
	@touch $@

test: $(VENV)/.test ## Make the environment, then run every test
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/.ready ## Check formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.ready ## Format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: $(VENV)/.ready ## Check types (mypy, strict)
	$(BIN)/mypy

check: $(VENV)/.ready ## Recompute small experiments; fail when a figure moved beyond its tolerance
	$(QEXP) check

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet $(PINS) -e '.[bench]'
	@touch $@

bench: $(VENV)/.bench ## Measure speed and memory beside peers (40 minutes; NAMES=: some only); writes docs/performance.md
	$(BIN)/python benchmarks/run.py $(NAMES)

table: $(VENV)/.ready ## Table every record below RESULTS
	$(QEXP) table --results-dir $(RESULTS)

report: $(VENV)/.ready ## Every table, claim and figure as one page, report.html
	$(QEXP) report --results-dir $(RESULTS)

reproduce-all: $(VENV)/.ready ## Run every table at SCALE (small) with SEEDS or its own by LAUNCHER (local, slurm, ray), then write the report
	$(QEXP) reproduce all --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) launcher=$(LAUNCHER) results_dir=$(RESULTS) --output $(RESULTS)/tables; status=$$?; \
	$(QEXP) report --results-dir $(RESULTS) --to $(RESULTS)/report.html; exit $$status

clean: ## Remove the environment and caches (never records)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
