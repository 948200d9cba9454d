# Everything a person or a CI machine does with this repository. `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SEEDS ?= 0
RUNS ?= runs
# A tiny step does not gain from several threads, and several processes lose by them.
TESTING := OMP_NUM_THREADS=1

.PHONY: help install demo test lint doctest docs bench report clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,sweep]'
	touch $@

install: $(INSTALLED) ## a virtual environment in .venv with exact versions

demo: $(INSTALLED) ## plain training, CutMix and De-DA without generation on rendered birds, compared (5 minutes on 2 cores)
	$(BIN)/python run.py -m experiment=demo method=vanilla,cutmix,deda_mixing seed=$(SEEDS)
	$(BIN)/python -m genaug.reports $(RUNS)/toybirds

test: $(INSTALLED) ## all tests
	$(TESTING) $(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctest: $(INSTALLED) ## the examples in the docstrings
	$(TESTING) $(BIN)/python -m pytest -q --doctest-modules src/genaug

docs: $(INSTALLED) ## the pages of docs/, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(INSTALLED) ## measurements, side by side with what one would use instead
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/online_combination.py
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/synthesis.py
	$(BIN)/python benchmarks/synthesis.py --work objects
	$(BIN)/python benchmarks/textual_inversion.py
	$(BIN)/python benchmarks/explain.py

report: $(INSTALLED) ## compare the runs under RUNS (default: runs), in the terminal and as a page
	$(BIN)/python -m genaug.reports $(RUNS) --html $(firstword $(RUNS))/report.html

clean: ## remove what building and testing left, never runs or stores
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache src/*.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
