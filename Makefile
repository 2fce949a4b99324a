# Everything here runs in .venv, which is made from a hash-pinned lock at first use. `make help` lists the targets.
# PYTHON=... names another interpreter, ARGS=... goes to the command that a target runs.

PYTHON ?= python3.13 python3.12 python3.11 python3
ARGS ?=
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
COMPILE := $(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links $(UPGRADE)

PEERS := $(addprefix app/bench/peers/requirements/,bytewax pathway quix)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types integration bench lock clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## see transactions scored on this machine: needs Python and nothing else
	@$(BIN)/riskwire demo $(ARGS)

test: $(VENV)/.test ## all tests; those that need a real Kafka say so loudly where Java 17 and Maven lack
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: lint types test ## what must hold before a change lands: lint, types and tests

lint: $(VENV)/.test ## style and likely mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.test ## static types, strict
	@$(BIN)/mypy

integration: $(VENV)/.test ## only the tests against a real Kafka and Redis
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/integration $(ARGS)

bench: $(VENV)/.demo ## Riskwire and its peers on one broker: throughput and CPU a transaction
	@$(BIN)/riskwire bench throughput $(ARGS)

lock: ## write requirements/*.txt anew from pyproject.toml (UPGRADE=--upgrade: newest versions; needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv (https://docs.astral.sh/uv)" >&2; exit 1; }
	$(COMPILE) requirements/build.in -o requirements/build.txt
	$(COMPILE) pyproject.toml requirements/build.in -c requirements/build.txt \
		--extra cpu --extra demo --extra train --extra bench --extra dev -o requirements/test.txt
	$(COMPILE) pyproject.toml requirements/build.in -c requirements/test.txt \
		--extra cpu --extra demo -o requirements/demo.txt
	$(COMPILE) pyproject.toml -c requirements/test.txt --extra cpu -o requirements/worker-cpu.txt
	$(COMPILE) pyproject.toml -c requirements/test.txt --extra gpu -o requirements/worker-gpu.txt
	for peer in $(PEERS); do $(COMPILE) $$peer.in -o $$peer.txt || exit 1; done

clean: ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock of the tests holds that of the demo, so after it both are there.
$(VENV)/.test: $(VENV)/.python requirements/test.txt pyproject.toml
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) install --require-hashes -r requirements/test.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@echo "compiling its loops for this processor (once, about half a minute)"
	@$(BIN)/riskwire warm-up
	@touch $(VENV)/.demo $@

$(VENV)/.demo: $(VENV)/.python requirements/demo.txt pyproject.toml
	@echo "installing Riskwire into $(VENV) (once, about a minute)"
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@echo "compiling its loops for this processor (once, about half a minute)"
	@$(BIN)/riskwire warm-up
	@touch $@

# Looked at in every run, since the interpreter behind a .venv may be gone; touched only when made anew.
$(VENV)/.python: FORCE
	@if [ -e $@ ] && $(BIN)/python -c '$(FITS)' 2>/dev/null; then exit 0; fi; \
	found=; seen=; \
	for name in $(PYTHON); do \
		$$name -c '' 2>/dev/null && seen="$$seen $$($$name -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
		if $$name -c '$(FITS)' 2>/dev/null; then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Riskwire needs Python 3.11, 3.12 or 3.13 with its venv module; found:$${seen:- none}." >&2; \
		echo "Debian and Ubuntu: apt-get install python3 python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$found"; \
	$$found -m venv --clear $(VENV) && touch $@
