# Each target sets up what it needs; running one again reuses it. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs lint typecheck format readme setup clean help
.DEFAULT_GOAL := demo

setup: $(VENV)/.ready  ## make .venv and install everything

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

demo: setup  ## draw scenes, pretrain, fine-tune, print the AP table (the default)
	$(BIN)/detco run demo

test: setup  ## run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

docs: setup  ## build the documentation site into build/site; fails on a broken link
	@$(BIN)/python -c 'import furo, myst_parser, sphinx' 2> /dev/null || $(BIN)/pip install -qq --editable '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -n -d build/site-cache docs build/site
	@echo "build/site/index.html"

lint: setup  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/typecheck.py

typecheck: setup  ## mypy; fails where a folder has more errors than pyproject.toml allows
	$(BIN)/python tools/typecheck.py

format: setup  ## format the code
	$(BIN)/ruff format .

# The README's result block, from the records in results/demo; FROM=demo takes those of a run over first.
readme: setup  ## write the README's result block; FROM=demo takes the records of that run
	$(BIN)/python -m detco.results.readme README.md results/demo $(FROM)

clean:  ## remove .venv and build
	rm -rf $(VENV) build *.egg-info

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
