# `make demo` and `make test` need only Python (3.10 to 3.13), pip and make: they set up .venv themselves.

PYTHON ?= python3
# Where the CPU build of torch comes from. For CUDA: make TORCH_INDEX=https://pypi.org/simple
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Processes that run the tests, of one thread each; 0 runs them in pytest's own process.
JOBS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := .venv/.installed

.PHONY: help demo test test-all lint ui ui-if-node docs gpu gpu-wheels clean

help:
	@echo "make demo      simulate a small cohort, preprocess it, fit gm ~ age + sex + tiv, print where to look"
	@echo "make test      style, types, import rules, and all tests that take no whole scan"
	@echo "make test-all  everything, whole scans too"
	@echo "make ui        build the page of \`vbmstat ui\` (node 20 or newer)"
	@echo "make docs      the documentation as web pages, in site/ (Python 3.11 or newer)"
	@echo "make gpu       CUDA tests, differences from the CPU, and speed, on a machine with a GPU (at most 8 minutes)"
	@echo "make clean     remove the environment, caches and the demo's output"

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: lint ui-if-node
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(JOBS) --dist worksteal

test-all: lint ui-if-node
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

PAGE := vbmstat/ui/static/licences.txt
ui: $(PAGE)

$(PAGE): ui/package-lock.json ui/tsconfig.json ui/build.mjs $(wildcard ui/src/*)
	cd ui && npm ci --prefer-offline --fetch-retries=1 --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent check && npm run --silent build

# The tests in a browser skip where the page is not built.
ui-if-node:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory ui || echo "the page was not built: its tests will skip" >&2; fi

docs: $(STAMP)
	$(PIP) install -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/columns.py
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/architecture.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@# Reading it asks nobody for anything.
	@! grep -rnE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site --include=*.html
	@echo "open site/index.html (to search in it, too: $(BIN)/python -m http.server -d site)"

gpu:
	$(PYTHON) benchmarks/gpu/run.py $(if $(wildcard .whl/*.whl),--wheels .whl)

# What a bare machine with torch, scipy, pandas, numba, matplotlib, statsmodels, scikit-learn and pytest lacks.
GPU_WHEELS := nibabel nilearn formulaic interface-meta wrapt narwhals deepbet deepmriprep connected-components-3d \
  fill-voids fastremap pooch platformdirs isal tfce typer shellingham pytest-timeout
gpu-wheels: $(STAMP)
	$(PIP) download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
	  --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	  -c constraints.txt -d .whl $(GPU_WHEELS)
	@du -sh .whl

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv (a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "vbmstat needs Python 3.10 to 3.13, but $(PYTHON) is `$(PYTHON) -V`; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	@# Where this index cannot be reached, the next line takes torch from PyPI.
	-$(PIP) install --retries 1 --timeout 20 --no-deps -c constraints.txt --index-url $(TORCH_INDEX) torch
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .whl .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-out build dist site ui/node_modules vbmstat/ui/static
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
