# Everything a fresh machine with Python 3.11 and make needs: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Telemetry of every dependency is off; two threads unless somebody says otherwise.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false

.PHONY: setup demo demo-images test check check-browser bench lint types imports format schemas

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	mkdir -p demo && cd demo && ../$(BIN)/understudy init --example flights --force && ../$(BIN)/understudy release recipe.yaml

demo-images: setup
	cd examples && ../$(BIN)/understudy init --example digits --force && ../$(BIN)/understudy release digits.yaml

# Two processes of one thread each: half the time of one process of two threads.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: setup format lint types imports test

# Every page in a real browser: needs chromium, node and npm; pictures go to build/browser.
check-browser: setup
	@command -v npm > /dev/null || { echo "the check needs npm, however: it is not installed; apt-get install npm"; exit 1; }
	npm ci --prefix tests/browser --ignore-scripts --no-audit --no-fund --silent
	$(BIN)/python -m tests.browser.pages build/browser
	node tests/browser/check.mjs build/browser build/browser

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

# What a person may write, as JSON Schemas for editors and as a page; a test holds them against the models.
schemas: setup
	$(BIN)/python -m tests.fields

bench: setup
	@test -n "$(DATA)" || { echo "say where the benchmark data lies: make bench DATA=/path/to/data"; exit 2; }
	$(BIN)/python benchmarks/house.py "$(DATA)"
