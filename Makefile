# `make` lists the targets. Every variable below can be set on the command line.

PYTHON ?= python3
VENV ?= .venv
PYTEST_OPTS ?= --numprocesses auto --dist loadfile
# torch of `make setup`; OLDEST_TORCH is the oldest one that setup.py allows
TORCH ?= torch
OLDEST_TORCH ?= torch==2.10.*

# What `make demo` creates: each file is created once; delete it to create it again.
DETECTRON2_DATASETS ?= datasets
DEMO_DIR ?= output/digits_demo
DEMO_BACKBONE ?= output/digits_pretrain/backbone.pth
DEMO_CONFIG ?= configs/digits_flow.yaml
DEMO_IMAGES ?= 8
DIGITS_OPTS ?=
PRETRAIN_OPTS ?=
DEMO_OPTS ?=
PICTURE_OPTS ?=
BENCH_OPTS ?=
export DETECTRON2_DATASETS

BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done
DIGITS := $(DETECTRON2_DATASETS)/digits
TRAINED := $(DEMO_DIR)/.trained
PICTURE := $(DEMO_DIR)/detections.png

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench versions lint format docs constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(SETUP)  ## create .venv with flowdet, its development tools and detectron2

$(SETUP): setup.py pyproject.toml flowdet_install.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]' '$(TORCH)'
	$(BIN)/python flowdet_install.py
	@touch $@

test: lint  ## lint, then run all tests
	$(BIN)/python -m pytest $(PYTEST_OPTS)

# Each has an environment of its own, beside .venv.
versions:  ## run all tests with the oldest Python and torch, then with the newest
	$(MAKE) test PYTHON=python3.10 VENV=.venv-oldest TORCH='$(OLDEST_TORCH)'
	$(MAKE) test PYTHON=python3.13 VENV=.venv-newest

bench: $(SETUP)  ## measure speed and memory, also of other detectors (BENCH_OPTS="--quick")
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/bench.py $(BENCH_OPTS)

lint: $(SETUP)  ## check the style and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(SETUP)  ## apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(SETUP)  ## build the documentation site into output/site
	$(BIN)/mkdocs build --strict

constraints: $(SETUP)  ## write the versions in .venv to requirements/constraints.txt
	mkdir -p requirements
	{ echo '# What flowdet was tested with, on Linux and $(shell $(BIN)/python --version).'; \
	echo '# PIP_CONSTRAINT=requirements/constraints.txt make setup'; \
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude detectron2 \
	--exclude flowdet; \
	} > requirements/constraints.txt

# The files below depend on each other by existence only (after the |): a newer backbone or
# environment does not start another training.
demo: $(PICTURE)  ## make the digits dataset, train a detector on it and draw detections
	@$(BIN)/python -c 'import json, sys; \
	rows = [json.loads(line) for line in open(sys.argv[1])]; \
	values = [row["bbox/AP50"] for row in rows if "bbox/AP50" in row]; \
	print(f"AP50 on the test images: {values[-1]:.1f}")' $(DEMO_DIR)/metrics.json
	@echo "detections drawn in $(PICTURE)"

$(DIGITS)/manifest.json: | $(SETUP)
	$(BIN)/python tools/make_digits.py --output $(DIGITS) $(DIGITS_OPTS)

$(DEMO_BACKBONE): | $(DIGITS)/manifest.json
	$(BIN)/python tools/pretrain_digits.py --output $@ $(PRETRAIN_OPTS)

# --resume continues an interrupted training, and starts from the backbone if there is none.
$(TRAINED): | $(DEMO_BACKBONE) $(DIGITS)/manifest.json
	$(BIN)/python tools/train_net.py --config-file $(DEMO_CONFIG) --resume \
		MODEL.WEIGHTS $(DEMO_BACKBONE) OUTPUT_DIR $(DEMO_DIR) $(DEMO_OPTS)
	@touch $@

$(PICTURE): | $(TRAINED)
	$(BIN)/python tools/demo.py --config-file $(DEMO_DIR)/config.yaml \
		--weights $(DEMO_DIR)/model_final.pth \
		--input $$(ls $(DIGITS)/JPEGImages/test_*.jpg | head -n $(DEMO_IMAGES)) \
		--output $@ $(PICTURE_OPTS)

clean:  ## remove caches and build products (keeps .venv, datasets and output)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +
