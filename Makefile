# Everything on a bare machine with Python >= 3.11: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lowest coverage docs web fuzz audit scores speed clean

demo: .venv/core
	$(BIN)/python examples/demo.py

# One process per core, each with one thread: more threads than cores wait for each other.
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

# Which lines the tests run. Apart from `make test`, which would take a quarter longer.
coverage: .venv/test
	$(BIN)/pytest --cov --cov-report=term:skip-covered

# Every system overfits a batch of real mixtures: some minutes.
test-slow: .venv/test
	$(BIN)/pytest -m slow -s

# Damaged audio, models, recipes, manifests and results: make fuzz SECONDS=3600 SEED=2
SECONDS ?= 60
SEED ?= 0
fuzz: .venv/test
	$(BIN)/python tests/hostile/fuzz.py --seconds $(SECONDS) --seed $(SEED) --keep fuzz-faults

# Known faults of the libraries that are installed here.
audit: .venv/test
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

# The suite with the lowest versions of the dependencies, PyTorch excepted.
lowest: .venv/test
	$(BIN)/python -m pip install --quiet --no-deps --target .lowest -r tests/lowest.txt
	PYTHONPATH=.lowest $(BIN)/python -m pytest

# The docs site, in the folder site: open site/index.html. Links that do not resolve are errors.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The page that needs no server, in the folder web/site.
web: .venv/test web/node_modules
	$(BIN)/python web/build.py

# The scores of the default model: make scores DATA=path/to/corpus
scores: .venv/test
	$(BIN)/python benchmarks/separation_scores.py $(DATA)

# Speed, memory and start-up of the default model, and speed of training, on this machine.
speed: .venv/test
	$(BIN)/python benchmarks/separation_speed.py
	$(BIN)/python benchmarks/training_speed.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# matplotlib draws the demo's spectrograms.
.venv/core: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . "matplotlib>=3.9"
	touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ .venv/core

.venv/docs: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

web/node_modules: web/package-lock.json
	npm ci --prefix web --ignore-scripts --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv demo site web/site web/node_modules
