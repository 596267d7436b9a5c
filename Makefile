# Every target makes its own environment in .venv; all that is needed is make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= envs,evosax,xland,dev,docs
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint types docs check clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The demo needs the package alone; the rest needs the tools too.
$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quickstudy needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing quickstudy into $(VENV) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "installing the tools into $(VENV) ..."
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.core  ## meta-train an agent on 2-D navigation, test it on goals it has never seen, write the report
	@rm -rf runs/demo
	$(BIN)/quickstudy train navigation-maml --meta-steps 80 --test-tasks 200 --out runs/demo
	@echo "open runs/demo/report.html"

# By file, for tests of a file share what is trained and compiled for them.
test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

check: lint types docs test  ## all of CI

clean:
	rm -rf $(VENV) site runs .pytest_cache .ruff_cache
