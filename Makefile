# Every target that runs Python first makes the virtual environment it needs. Another interpreter gets an
# environment of its own:  make test VENV=.venv-py313 PYTHON=python3.13
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
JOBS ?= 2
ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := $(wildcard conftest.py rnn_jax tests experiments benchmarks)

.PHONY: help demo test lint bench clean

help:
	@echo 'make demo    run the digits experiment; its figures and verdicts go to results/'
	@echo 'make test    run the test suite and the doctests, in float32 and float64'
	@echo 'make lint    ruff check, ruff format --check, mypy'
	@echo 'make bench   measure every benchmark, small; records go to results/benchmarks'
	@echo 'make clean   remove the virtual environments, caches and build outputs; results/ stays'
	@echo
	@echo 'PYTHON=python3.13  interpreter of a new environment ($(PYTHON))'
	@echo 'VENV=.venv-py313   where the environment is made ($(VENV))'
	@echo 'EXTRAS=dev,cuda13  extras installed into a new environment ($(EXTRAS))'
	@echo 'JOBS=4             test processes ($(JOBS))'
	@echo 'ARGS="-k loop"     further arguments of pytest, for `make test`'

demo: $(INSTALLED)
	$(BIN)/python -m experiments run digits

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks all

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so an interrupted install is taken up again; bin/pip is the last thing venv writes.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rnn_jax needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.12 VENV=.venv-py312 ...")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@
