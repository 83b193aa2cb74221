# `make` alone lists the targets. Each of them sets up .venv by itself, with the versions of constraints.txt.

PYTHON  = python3
# nproc would answer with OMP_NUM_THREADS where that is set.
WORKERS = $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo auto)

PROMPT = a small red cube left of a shiny blue sphere, at night
STEPS  = 20
SEED   = 0
OUT    = demo/scenes.png

BIN     := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: export PROMPT := $(PROMPT)# as it is, quotes included
demo: .venv/.base  ## draw what a sentence says (PROMPT="a red cube at night" STEPS=20 SEED=0 OUT=demo/scenes.png)
	@mkdir -p "$(dir $(OUT))"
	$(BIN)/noisette generate "$$PROMPT" -n 16 --grid --steps $(STEPS) --seed $(SEED) -o "$(OUT)" \
		$(if $(filter demo/scenes.png,$(OUT)),--overwrite)
	@echo "The pictures are in $(abspath $(OUT))"

test: .venv/.dev  ## run the tests that take no minutes (WORKERS=number of processes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

check: .venv/.dev  ## formatting, lint, types, and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv-bench/.done  ## measure against the peers and write bench/RESULTS.md (hours)
	.venv-bench/bin/python -m bench.run

docs: .venv/.dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The first page is $(abspath site/index.html)"

clean:  ## remove what the tools leave behind, the environment too
	rm -rf .venv .venv-bench build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The set-up. Each stamp is touched last, so an interrupted install is taken up again.
.venv/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "noisette needs Python 3.11 or newer: name one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'"; exit 1; }
	@echo "Setting up .venv (a few minutes, once) ..."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(INSTALL) torch==2.13.0
	$(INSTALL) -e .
	@touch $@

.venv/.dev: .venv/.base
	$(INSTALL) -e '.[test,check,docs]'
	@touch $@

# The peers import torchvision, whose wheel has no operators for a CPU build of torch: in an environment of
# its own it cannot disturb what the tests import. It comes without what it asks for itself.
.venv-bench/.done: pyproject.toml constraints.txt
	@echo "Setting up .venv-bench (a few minutes, once) ..."
	@.venv-bench/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet -c constraints.txt torch==2.13.0
	.venv-bench/bin/python -m pip install --quiet -c constraints.txt --no-deps torchvision
	.venv-bench/bin/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@
