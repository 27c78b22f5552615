# Everything is made in this folder: .venv holds the packages, demo/ what the demonstration writes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IS_RECENT := -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo yes
export COWRIEPROC_COWRIE_VENV ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench torture docs samples requirements services clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.runtime ## load the samples and print a report
	$(BIN)/cowrieprocessor demo

test: check services ## all tests, on SQLite and PostgreSQL, with a real Cowrie; on two cores
	COWRIEPROC_REQUIRE_POSTGRES=1 COWRIEPROC_REQUIRE_COWRIE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## ratios against floors and peers
	$(BIN)/python -m benchmarks.bench

torture: $(VENV)/.dev services ## what is marked `torture`, with its full counts: kill -9 at many points, random sequences
	COWRIEPROC_TORTURE=1 COWRIEPROC_REQUIRE_POSTGRES=1 $(BIN)/python -m pytest -m torture -n 2 --dist loadfile

docs: $(VENV)/.dev ## write docs/reference.md and the picture of the report again
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_pictures.py

samples: services ## make samples/ again with a real Cowrie
	$(BIN)/python -m tests.e2e.make_samples

services: $(VENV)/.dev ## PostgreSQL, strace and Cowrie, which the tests start themselves
	tests/install_postgres.sh
	tests/install_strace.sh
	tests/e2e/install_cowrie.sh

requirements: $(VENV)/.dev ## pin the packages again
	requirements/compile.sh

# Asked when the environment is made or renewed, before anything is written.
define require_python
$(if $(wildcard $(BIN)/python),\
	$(if $(shell $(BIN)/python $(IS_RECENT)),,$(error $(VENV) is of a Python before 3.11, or of one that has gone: make clean)),\
	$(if $(shell $(PYTHON) $(IS_RECENT)),,$(error Python 3.11 or later is needed, and $(PYTHON) is not: make demo PYTHON=python3.11)))
endef

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml
	$(require_python)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

clean: ## remove what was made here
	rm -rf $(VENV) demo bench-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
