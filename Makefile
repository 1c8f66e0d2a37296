# Two commands do everything on a fresh machine with Python 3: `make demo` and `make test`.
#
#   make demo        set up, then the main job on embedded data, up to a running, answering container
#   make test        set up, then lint, types and the quick tests (at most 10 minutes on 2 cores)
#   make test-ci     what CI runs: those that take seconds each, too
#   make test-all    the long ones too: many kills, every reference network, 20,000 broken requests; and the status page
#                    in a browser, for which Chromium is installed where there is none (root), saying so
#   make test-arm64  builds for 64-bit ARM, emulated here; sets up QEMU and a base image first (root), saying so
#   make test-gpu    builds and runs engines on this machine's NVIDIA GPU; skipped, with the reason, where there is none
#   make lint        ruff, mypy, codespell
#   make docs        the documents as a site, in build/site
#   make soak        load on a server for MINUTES (15) of SUBJECT, an image or an artifact folder (the demo's image)
#   make clean       remove what the above made
#
# Variables: PYTHON (an interpreter), VENV (default .venv), ENGINE=skip (never set up a Docker engine),
# CHROMIUM (a browser), BROWSER=skip (do without one),
# TORCH_INDEX (PyTorch's CPU wheels, e.g. https://download.pytorch.org/whl/cpu; the plain index may give CUDA builds).
SHELL := /bin/bash
VENV ?= .venv
TORCH_INDEX ?=
ENGINE ?=
BROWSER ?=
MINUTES ?= 15
SUBJECT ?= digits:0.1.0-cpu
BIN := $(VENV)/bin
export TORCH_INDEX PYTHON ENGINE BROWSER

.PHONY: demo test test-ci test-all test-arm64 test-gpu lint soak docs setup setup-dev clean

demo: setup
	@scripts/demo.sh $(VENV)

test: setup-dev lint
	@scripts/test.sh $(VENV) -m "not slow and not long and not arm64"

test-ci: setup-dev lint
	@scripts/test.sh $(VENV) -m "not long and not arm64"

test-all: setup-dev lint
	@scripts/browser.sh
	@scripts/test.sh $(VENV) -m "not arm64"

test-arm64: setup-dev
	@scripts/engine.sh
	@scripts/base_image.sh arm64 >/dev/null
	$(BIN)/python -m pytest -m arm64

test-gpu: setup-dev
	$(BIN)/python -m pytest -m gpu

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

soak: setup
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) $(SUBJECT)

docs:
	@scripts/setup.sh $(VENV) docs
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

setup:
	@scripts/setup.sh $(VENV)

setup-dev:
	@scripts/setup.sh $(VENV) dev

clean:
	rm -rf $(VENV) .deploy build dist .mypy_cache .ruff_cache .pytest_cache
