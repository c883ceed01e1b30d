PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# A private compile cache: a second run starts in seconds. Nothing depends on it being there.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: help run test test-slow test-matrix bench notebooks lint clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# One stamp an extra: what is installed stays, and `make lint` adds its tools.
$(VENV)/.installed-%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e ".[$*]"
	touch $@

run: $(VENV)/.installed-test  ## train the demo and write runs/demo/report.md
	$(BIN)/python -m experiments.demo --workdir=runs/demo

test: $(VENV)/.installed-test  ## the test suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: $(VENV)/.installed-test  ## the long checks
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

test-matrix:  ## every supported Python and jax, and the transforms on jax 0.7
	bash tests/matrix.sh

bench: $(VENV)/.installed-test  ## time and bytes of every catalogued optimizer beside optax.adamw
	$(BIN)/python -m benchmarks.step_time

notebooks: $(VENV)/.installed-test  ## run the notebooks' sources and store them with their outputs
	PYTHONPATH=. $(BIN)/python notebooks/_build.py

lint: $(VENV)/.installed-dev  ## format, lint and types, as pre-commit runs them
	$(BIN)/python -m ruff format --check . && $(BIN)/python -m ruff check . && $(BIN)/python -m pyrefly check --python-interpreter-path $(BIN)/python

clean:  ## remove what make created, runs aside
	rm -rf $(VENV) .cache
