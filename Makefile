# Two commands on a bare machine with Python 3.11+: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit bench clean

demo: $(VENV)/.installed ## install, and run the main job against the simulator
	$(BIN)/batchmill run examples/prompts.jsonl --simulate --fresh

test: lint types unit ## lint, types, all tests, coverage

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy
	$(BIN)/mypy bench/*.py

unit: $(VENV)/.installed-dev
	$(BIN)/pytest -n 2 --dist worksteal -m "not drill" --cov --cov-report=
	$(BIN)/pytest -m drill --cov --cov-append --cov-report=term

bench: $(VENV)/.installed-dev ## the tables of docs/performance.md (about ten minutes)
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/gate.py
	$(BIN)/python bench/routing.py

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "batchmill needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
