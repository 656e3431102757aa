# make demo, make test, make lint: each sets up what it needs; running one again reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint readme setup clean
.DEFAULT_GOAL := demo

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (PyTorch: several GB, a few minutes)"
	@$(BIN)/pip install -qq --upgrade pip
	@$(BIN)/pip install -qq --editable '.[dev]'
	@$(MAKE) --no-print-directory detectron2
	@touch $@

# Detectron2 is in no package registry (hence --no-index: nobody else's package of that name); a wheel of one's own in
# a folder that `pip config` lists under find-links is taken.
.PHONY: detectron2
detectron2:
	@if $(BIN)/python -c 'import detectron2' 2> /dev/null; then true; \
	elif $(BIN)/pip download --quiet --no-index --no-deps --dest $(VENV)/wheels detectron2 > /dev/null 2>&1; then \
		echo "installing the detectron2 wheel that pip found"; $(BIN)/pip install --quiet $(VENV)/wheels/detectron2-*.whl; \
	else echo "no detectron2 wheel found: the engine 'torchvision' is used (detco doctor tells more)"; fi

demo: setup
	$(BIN)/detco run demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .

# The README's result block, from the records in results/demo; FROM=demo takes those of a run over first.
readme: setup
	$(BIN)/python -m detco.results.readme README.md results/demo $(FROM)

clean:
	rm -rf $(VENV) build *.egg-info
