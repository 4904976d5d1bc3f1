# Everything on a bare machine with Python >= 3.11: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow scores speed clean

demo: .venv/core
	$(BIN)/python examples/demo.py

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# Every system learns a batch of real mixtures by heart: some minutes.
test-slow: .venv/test
	$(BIN)/pytest -m slow -s

# The scores of the shipped model: make scores DATA=path/to/corpus
scores: .venv/test
	$(BIN)/python benchmarks/separation_scores.py $(DATA)

# Speed, memory and start-up of the shipped model, and speed of training, on this machine.
speed: .venv/test
	$(BIN)/python benchmarks/separation_speed.py
	$(BIN)/python benchmarks/training_speed.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ .venv/core

clean:
	rm -rf .venv demo
