# One command for everything: set-up, build, and then the benchmarks (`make bench`), the tests (`make test`), the
# documentation (`make docs`), the figures that it quotes (`make figures`) or the formatters (`make lint`, `make format`).
# Set-up steps are stamped: a second run does only what has changed.
#
#   PYTHON  the interpreter that a new environment is made of
#   VENV    the environment to make or, where there is one, to use; a torch that is in it stays
#   ARGS    further arguments, as in `make bench ARGS="--images photos"` or `make test ARGS="-k unpool"`
#
# `make gpu OUT=folder [PART=test|sanitize|bench|profile]` is apart: on a machine with a GPU it does all that needs one,
# under PYTHON itself, and writes what it finds to the folder.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PART ?= all
OUT ?= gpu-report

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMPS := $(VENV)/.segext

NATIVE := setup.py pyproject.toml $(shell find csrc -type f)
CXX_SOURCES := $(shell find csrc examples tests benchmarks \
  -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
PY_SOURCES := setup.py segext benchmarks docs examples tests
# The pinned versions of the extra `lint`, read from pyproject.toml, so that linting needs no build.
LINTERS = $(shell sed -n 's/^lint = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')

.PHONY: bench test docs figures gpu lint format clean
.DEFAULT_GOAL := bench
.DELETE_ON_ERROR:

# Without a GPU, benchmarks need nothing of the CUDA part, which takes most of the time to build.
bench: $(STAMPS)/$(if $(wildcard /dev/nvidiactl $(STAMPS)/build),build,cpu)
	$(BIN)/python -m benchmarks $(ARGS)

# A file of tests to a process, for what a file compiles and runs is shared by its tests; `ARGS="-n 0"` takes one
# process. Threads that wait by spinning would keep the other processes from the cores: maps of tests are small.
test: export OMP_WAIT_POLICY ?= passive
test: $(STAMPS)/build
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

# Built anew, so that a warning is one every time.
docs: $(STAMPS)/build
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# In README and docs, from benchmarks/results.
figures: $(STAMPS)/build
	$(BIN)/python -m docs.figures

# Builds in place under PYTHON as it is, installs nothing and needs no network: a machine with a GPU may have none.
gpu:
	$(PYTHON) -m benchmarks.gpu $(PART) --out '$(OUT)' $(ARGS)

lint: $(STAMPS)/lint
	$(BIN)/ruff check $(PY_SOURCES)
	$(BIN)/ruff format --check $(PY_SOURCES)
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(STAMPS)/lint
	$(BIN)/ruff check --fix $(PY_SOURCES)
	$(BIN)/ruff format $(PY_SOURCES)
	$(BIN)/clang-format -i $(CXX_SOURCES)

# Editable, so that tests and benchmarks run what the checkout holds.
$(STAMPS)/build: $(STAMPS)/requirements $(NATIVE)
	$(PIP) install --no-build-isolation --editable '.[bench,docs,test]'
	touch $@

$(STAMPS)/cpu: $(STAMPS)/requirements $(NATIVE)
	SEGEXT_CUDA=0 $(PIP) install --no-build-isolation --editable '.[bench]'
	touch $@

$(STAMPS)/requirements: | $(STAMPS)/environment
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install torch==2.13.0
	$(PIP) install 'setuptools>=77' wheel ninja numpy 'pybind11>=2.13' matplotlib
	touch $@

$(STAMPS)/lint: pyproject.toml | $(STAMPS)/environment
	$(PIP) install $(LINTERS)
	touch $@

$(STAMPS)/environment:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

clean:
	rm -rf build docs/_build segext/*.so *.egg-info $(STAMPS)/build $(STAMPS)/cpu
