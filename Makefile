# Everything happens in .venv; the install is repeated only when setup.cfg or pyproject.toml change.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
INPUT := setup.cfg pyproject.toml

.PHONY: demo demo-attention test test-slurm lint types unit clean

demo: .venv/installed
	$(BIN)/python benchmarks/demo.py --out "$(OUT)"

demo-attention: .venv/installed
	$(BIN)/python benchmarks/demo_attention.py --out "$(OUT)-attention" $(if $(WEIGHTS),--weights "$(WEIGHTS)")

test: lint types unit

lint: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developer
	$(BIN)/mypy

unit: .venv/developer
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

# Starts a real Slurm on this machine and ends it; needs root and Slurm's programs, and says so.
test-slurm: .venv/developer
	$(BIN)/python -m pytest tests/slurm

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gigabag needs Python 3.10 or newer; say which with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: $(INPUT) | .venv/bin/python
	@echo "Installing into .venv: PyTorch is some 6 GB, this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/developer: $(INPUT) | .venv/bin/python
	@echo "Installing into .venv: PyTorch is some 6 GB, this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@ .venv/installed
