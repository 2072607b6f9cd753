# What a contributor runs. Each target sets up what it needs in .venv; a second call does no work twice.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
SOURCES := proto/python clients/python daemon agent
PYTEST_WORKERS ?= auto
MINUTES ?= 30

.PHONY: help setup quickstart test test-fast check format bench bench-scale crash soak proto clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml scripts/bootstrap.sh
	@scripts/bootstrap.sh $(VENV)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what checks and tests need ..."
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable . --group dev
	@touch $@

setup: $(VENV)/.installed-dev ## Install runyard and the tools of a contributor into .venv

quickstart: $(VENV)/.installed ## Install runyard, then train a real model with it
	@scripts/quickstart.sh $(abspath $(BIN))

test: $(VENV)/.installed-dev ## Run all tests
	@$(BIN)/pytest --numprocesses $(PYTEST_WORKERS) --dist worksteal

test-fast: $(VENV)/.installed-dev ## Run the tests of the inner loop, under two minutes
	@$(BIN)/pytest --numprocesses $(PYTEST_WORKERS) --dist worksteal -m "not slow" tests/unit tests/model tests/contract

check: $(VENV)/.installed-dev ## Format, lint, types, contract, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/buf lint proto
	@scripts/check-contract.sh $(BIN)
	@$(BIN)/lint-imports --config .importlinter --no-cache

format: $(VENV)/.installed-dev ## Format the code and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev ## Measure against physical floors and peers; figures belong in docs/benchmarks.md
	@$(BIN)/python -m compileall -q $(SOURCES)
	@benchmarks/peers/install.sh .bench $(BIN)/uv
	@$(BIN)/python benchmarks/run_all.py

bench-scale: $(VENV)/.installed-dev ## Measure large logs, outputs and databases (takes gigabytes of disk for some minutes)
	@$(BIN)/python -m compileall -q $(SOURCES)
	@$(BIN)/python benchmarks/run_all.py --scale

soak: $(VENV)/.installed-dev ## Mixed work for half an hour: nothing may grow, nothing may be lost (MINUTES=…)
	@$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

# make crash ONLY=daemon-kill-random:7 SEED=1 repeats one case; COUNT=3 makes each campaign short.
crash: $(VENV)/.installed-dev ## Kill, starve and lie to it, many times over; figures belong in docs/reliability.md
	@$(BIN)/python -m compileall -q $(SOURCES)
	@cd tests && $(abspath $(BIN))/python -m crash.campaign $(foreach name,$(ONLY),--only $(name)) \
		$(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

proto: ## Write the stubs of the contract again
	@proto/generate.sh

clean: ## Remove what the targets made
	@rm -rf $(VENV) .proto-venv .bench dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find $(SOURCES) tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
