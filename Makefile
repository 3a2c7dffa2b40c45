# Everything that is done with Scion by hand. `make help` lists it. Needs make, git, a C compiler
# and Python 3.11 or 3.12; all else is installed, from locks, into .tools, .venv and envs/*/.venv.
#   make PYTHON=3.12 test           another Python: a version, a name or a path
#   make SERVING=serve-cuda setup   another serving environment: a folder of envs/
#   make KUBERNETES=1 setup         what profiles/kubernetes needs as well

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# pyenv puts names on the PATH whose version is not switched on, so each candidate is tried.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& echo $$p && break; done; true)
endif
override PYTHON := $(or $(patsubst 3.%,python3.%,$(PYTHON)),python3)

# `nix develop` has built the environments.
BIN := $(if $(SCION_ENVIRONMENTS),$(patsubst %/python,%,$(shell command -v python)),.venv/bin)
SERVING := serve-cpu
# snakefmt looks for its shfmt on the PATH.
SNAKEFMT := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakefmt
# The environments are called by path, so an activated one or a PYTHONPATH must not leak in.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
# Without it, all that stages and tests start would compile Scion anew.
unexport PYTHONDONTWRITEBYTECODE

NIX := nix --extra-experimental-features 'nix-command flakes'

SNAKEMAKE_CODE := $(wildcard Snakefile rules)

.PHONY: help setup run test unit check docs reference format lock bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Install the locked environments (all other targets do this first)
	@$(PYTHON) tools/setup.py --serving $(SERVING) $(if $(KUBERNETES),--kubernetes)

run: setup  ## Make the default release, and tell what came of it
	@$(BIN)/snakemake --cores all

# The files in their order: the long ones of tests/e2e begin, the short ones fill what is left.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20 \
	$(if $(SCION_ENVIRONMENTS),-k "not browser")

test:  ## Run every test (installs envs/sglang too, which nothing else needs)
	@$(PYTHON) tools/setup.py --serving $(SERVING) --tests
	$(PYTEST)

unit:  ## Run the tests of tests/unit alone: no run of the workflow, no server of an engine
	@$(PYTHON) tools/setup.py --serving $(SERVING) --tests
	$(PYTEST) tests/unit

check: setup docs  ## Formatters, linters (snakemake --lint too), types, layers, spelling, locks, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(SNAKEFMT) --check $(SNAKEMAKE_CODE)
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/lint_rules.py
	$(BIN)/typos
	$(PYTHON) tools/lock.py check
	$(BIN)/python tools/elf_needs.py check

# From nothing each time: Sphinx warns only of the pages that it reads.
docs: setup  ## Build the documentation in site/; a link that leads nowhere fails
	@rm -rf site
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs -b html . site

reference: setup  ## Write what README.md and docs/ hold of the code and of the records anew
	$(BIN)/python tools/reference.py

format: setup  ## Format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .
	$(SNAKEFMT) $(SNAKEMAKE_CODE)

lock:  ## Lock anew: uv, its neutral form, the flake, what wheels need (UPGRADE=1: newest versions)
	@$(PYTHON) tools/setup.py --uv-only
	$(PYTHON) tools/lock.py update $(if $(UPGRADE),--upgrade)
	@if command -v nix >/dev/null; then set -x; $(NIX) flake $(if $(UPGRADE),update,lock); \
	else echo "flake.lock: left as it is, for there is no nix here" >&2; fi
	@$(PYTHON) tools/setup.py --serving $(SERVING)
	$(BIN)/python tools/elf_needs.py scan

bench: setup  ## Run the benchmarks one after another; each ends with a line of JSON
	@for script in bench/*.py; do echo "== $$script" >&2; $(BIN)/python "$$script"; done

# Folders of artifacts are read-only. The files keep their modes: some are links of a source's own.
clean:  ## Remove what runs made (asks; YES=1 does not); environments and a store elsewhere stay
	@if [[ -d results && "$(YES)" != 1 ]]; then \
	  shopt -s nullglob; sealed=(results/*/release); \
	  echo "results/ takes $$(du -sh results | cut -f1); releases in it: $${sealed[*]:-none}" >&2; \
	  if [[ ! -t 0 ]]; then echo "nothing was removed: make clean YES=1 removes it" >&2; exit 1; fi; \
	  read -rp "Remove results, logs and benchmarks? [y/N] " answer; \
	  [[ $$answer == [yY]* ]] || { echo "nothing was removed" >&2; exit 1; }; \
	fi
	@if [[ -d results ]]; then find results -type d ! -perm -u=w -exec chmod u+w {} +; fi
	rm -rf results logs benchmarks site .snakemake .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path '*/.venv/*' -prune -exec rm -rf {} +
