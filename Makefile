# Everything is run through the targets below; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 9090
VENV := .venv
BIN := $(VENV)/bin
# Which cases `make parity` runs, as pytest's -k takes it: all.
PARITY ?=
PROTO := proto/segment_anything/v1/segment_anything.proto
C_SOURCES := $(wildcard inference/sam_core/*.c inference/sam_core/*.h)
PYTHON_SOURCES := clients/python/sam_client gateway inference tests benchmarks training

# Node.js of the system where there is one, else the one in the development environment.
export PATH := $(PATH):$(CURDIR)/$(BIN)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

# A stamp a set of extras, rebuilt when the dependencies or the C sources change.
$(VENV)/.run: pyproject.toml $(C_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable '.[worker]'
	touch $@

$(VENV)/.dev: pyproject.toml $(C_SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.PHONY: run
run: $(VENV)/.run ## Set up and start the gateway with its own worker on $(HOST):$(PORT)
	$(BIN)/sam-gateway --host $(HOST) --port $(PORT)

.PHONY: setup
setup: $(VENV)/.dev ## Set up the development environment

.PHONY: test
test: $(VENV)/.dev ## Set up and run the test suite with coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m 'not e2e and not large and not triton'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: parity
parity: $(VENV)/.dev ## Compare SAM ViT-B, L and H with the official package (an hour, 12 GB; PARITY chooses)
	$(BIN)/pytest -m large -k '$(PARITY)' tests/models

# Its packages need an older NumPy than ours.
.cache/triton/.installed:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet nvidia-pytriton==0.7.0 onnxruntime
	touch $@

.PHONY: triton
triton: $(VENV)/.dev .cache/triton/.installed ## Set up and use a real Triton Inference Server
	$(BIN)/pytest -m triton tests/models

.PHONY: lint
lint: $(VENV)/.dev ## Check style and types of Python, C and proto
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/hadolint inference/Dockerfile gateway/Dockerfile

.PHONY: format
format: $(VENV)/.dev ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_SOURCES)
	$(BIN)/buf format --write proto

.PHONY: proto
proto: $(VENV)/.dev ## Generate the Python and TypeScript stubs from the contract
	$(BIN)/python -m grpc_tools.protoc -I sam_api/v1=proto/segment_anything/v1 \
		--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
		--python_out=clients/python --mypy_out=quiet:clients/python \
		--grpc_python_out=clients/python --mypy_grpc_out=quiet:clients/python \
		sam_api/v1/segment_anything.proto
	cd clients/typescript && npm ci --silent --no-audit --no-fund && npm run --silent generate

.PHONY: sanitize
sanitize: $(VENV)/.dev ## Run the C core's tests under AddressSanitizer and UBSan
	PYTHON=$(BIN)/python tools/sanitize.sh

.PHONY: bench
bench: $(VENV)/.dev ## Measure the C core beside its peers
	$(BIN)/python benchmarks/core.py

.PHONY: train-quickstart
train-quickstart: ## Train the quickstart model anew (hours; see training/quickstart/README.md)
	test -x $(VENV)-train/bin/python || $(PYTHON) -m venv $(VENV)-train
	$(VENV)-train/bin/pip install --quiet '.[train]'
	$(VENV)-train/bin/python -m training.quickstart.train --folder build/quickstart --seed 1

# Label Studio pins the versions of many packages, hence an environment of its own.
LABEL_STUDIO_VENV := .cache/label-studio/venv

$(LABEL_STUDIO_VENV)/.installed: tests/e2e/label-studio.txt
	$(PYTHON) -m venv --clear $(LABEL_STUDIO_VENV)
	$(LABEL_STUDIO_VENV)/bin/pip install --quiet --requirement $<
	touch $@

$(VENV)/.e2e: tests/e2e/requirements.txt $(VENV)/.dev
	$(BIN)/pip install --quiet --requirement $<
	touch $@

.PHONY: label-studio
label-studio: $(LABEL_STUDIO_VENV)/.installed ## Set up Label Studio, for e2e and screenshots

.PHONY: e2e
e2e: $(VENV)/.e2e $(LABEL_STUDIO_VENV)/.installed ## Set up and drive a real Label Studio in Chromium
	$(BIN)/python -m pytest -m e2e tests/e2e

.PHONY: screenshots
screenshots: $(VENV)/.e2e $(LABEL_STUDIO_VENV)/.installed ## Take the pictures in docs/images anew, in a real Label Studio
	$(BIN)/python -m pytest -m e2e tests/e2e --screenshots docs/images
