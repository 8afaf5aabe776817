# Needs python3 (3.11 or later) and make; everything else goes into .venv by itself.
# `make test PYTHON=python3.12` picks the interpreter .venv is made from; the pins are for 3.11.
# `make gpu PY=python3` uses an interpreter that has everything already, and installs nothing.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
JOBS ?= 2
CASES ?= 200
VENV := .venv
PY := $(VENV)/bin/python

# The checkout's place is part of a stamp's name: a copied .venv is no ready one.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.ready
ifneq ($(origin PY),command line)
RUNTIME := $(STAMP)-runtime-$(PLACE)
DEV := $(STAMP)-dev-$(PLACE)
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: study test test-all check bench docs gpu clean torture help

study: $(RUNTIME) ## train the digits study and write its report
	$(VENV)/bin/whet study digits

test: check ## every check and test
	$(PY) -m pytest -n $(JOBS)

test-all: export WHET_TEST_ALL := 1
test-all: test ## the same with the complete matrix of pairs of methods

check: $(DEV) ## linters, types, import order
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo

bench: $(DEV) ## measure costs; writes benchmarks/results.json
	$(PY) -m benchmarks

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DEV) ## build the site into site/; a warning is an error
	$(PY) -m mkdocs build --strict --quiet

gpu: $(DEV) ## the tests that need an accelerator
	@$(PY) -c 'import sys, torch; sys.exit(not torch.accelerator.is_available())' || \
		{ echo "make gpu: torch sees no accelerator here; none of the gpu tests ran"; exit 1; }
	$(PY) -m pytest -m gpu

torture: $(DEV) ## CASES random recipes, interrupted and resumed to the bit
	OMP_NUM_THREADS=1 $(PY) -m tests.torture $(CASES)

clean: ## remove .venv, caches and builds; studies and runs stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.ready-runtime-%: pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" $(VENV) -e .
	@touch $@

$(VENV)/.ready-dev-%: pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" $(VENV) -e '.[dev]'
	@touch $(RUNTIME) $@
