# Everything sets itself up in .venv on a machine that has Python 3.10 or newer; nothing is installed outside it.
# Another interpreter: make PYTHON=python3.12 …      More options for pytest: make test ARGS='-k order -x'

PYTHON ?= python3
VENV := .venv
SITE := build/site
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# Two tests more at once than there are cores, as many of them wait, and no more than four: most start processes of
# their own. worksteal keeps neighbours together, which share fixtures, and survives a process that crashes.
JOBS = $(shell $(VENV)/bin/python -c 'import os; print(min(4, 2 + (os.cpu_count() or 1)))')
PYTEST = $(VENV)/bin/pytest -n $(JOBS) --dist worksteal --durations 10

.PHONY: help demo test test-all crash-test lint proto docs pictures clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo      train on 1,347 digits with and without pruning, and compare (DEMO_ARGS=--help for options, DEMO_ARGS="--nproc 2" for two ranks)'
	@echo 'make test      run the tests: minutes on two cores (ARGS=… goes to pytest)'
	@echo 'make test-all  those and the rest of the long matrices'
	@echo 'make crash-test  kill a server at 100 random moments, cut its power at 10,000, and compare what it recovers (ROUNDS=…, STATES=…, SEED=…)'
	@echo 'make lint      ruff, mypy, pyright, and whether the generated code is fresh'
	@echo 'make proto     regenerate infobatch_stream/v1 from proto/'
	@echo 'make docs      build the site into build/site; a dead link or an unknown name fails'
	@echo 'make pictures  draw docs/pictures/*.svg'
	@echo 'make clean     remove .venv, caches and builds'

demo: $(VENV)/demo.stamp
	$(VENV)/bin/infobatch demo $(DEMO_ARGS)

test: $(VENV)/dev.stamp
	$(PYTEST) -m 'not long' $(ARGS)

test-all: $(VENV)/dev.stamp
	$(PYTEST) $(ARGS)

ROUNDS = 100
STATES = 10000
SEED = 1

crash-test: $(VENV)/dev.stamp
	$(VENV)/bin/python -m tests.server.crash.rounds --rounds $(ROUNDS) --seed $(SEED)
	$(VENV)/bin/python -m tests.server.power.cuts --states $(STATES) --seed $(SEED)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	cd examples/cifar10 && MYPYPATH=. ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml *.py
	cd examples/clip && MYPYPATH=. ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml *.py
	cd examples/frameworks && MYPYPATH=. ../../$(VENV)/bin/mypy --config-file ../../pyproject.toml *.py
	$(VENV)/bin/pytest -q tests/docs/test_types.py
	$(VENV)/bin/python tools/generate_proto.py --check

proto: $(VENV)/dev.stamp
	$(VENV)/bin/python tools/generate_proto.py

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir $(abspath $(SITE))
	$(VENV)/bin/python tools/docs/check_site.py $(SITE)

pictures:
	$(PYTHON) tools/draw_pictures.py

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo 'no $(PYTHON) here: install Python 3.10 or newer, or make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) -V): Python 3.10 or newer is needed; try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet 'pip>=23'

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/docs.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[docs]'
	@touch $@
