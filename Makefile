# make help lists the targets. Everything runs in one virtual environment, made on demand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DATA ?= data/sample
TEXT ?= camembert
IMAGE ?= resnet152
RECIPE ?= paper
RUN ?=

export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo story test bench lint format notebooks clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(READY)  ## train, submit and score on the shipped catalogue: no hub, no GPU
	$(BIN)/python -m kit.story --data data/sample --text e5_small --image efficientnet_lite0 --recipe demo --run demo \
	  --answers data/sample_answers/Y_test.csv --again

story: $(READY)  ## the same on your data: make story DATA=dir TEXT=camembert IMAGE=resnet152 RECIPE=paper
	$(BIN)/python -m kit.story --data "$(DATA)" --text "$(TEXT)" --image "$(IMAGE)" --recipe "$(RECIPE)" --run "$(RUN)"

test: $(READY)  ## the tests: no network, no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

bench: $(READY)  ## how far the demo's score moves with the seed
	$(BIN)/python benchmarks/seeds.py

lint: $(READY)  ## ruff, and notebooks committed without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(READY)  ## rewrite code and strip notebooks as lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

notebooks: $(READY)  ## open the notebooks in Jupyter
	$(BIN)/jupyter lab notebooks

clean:  ## remove the environment and caches; runs and submissions stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
