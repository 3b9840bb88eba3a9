# make help lists the targets. Everything runs in one virtual environment, made on demand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DATA ?= data/shop
TEXTS ?= camembert,flaubert,mbert
IMAGES ?= resnet152,resnext101_32x8d
RECIPE ?= paper
STUDY ?= paper
SEEDS ?= 3
JOBS ?= 1
OPTIONS ?=

export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help demo paper best report test test-slow bench bench-full lint audit format notebooks clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@mkdir -p $(VENV)/etc/ipython # kernels warn of the sockets on which this machine alone can reach them
	@echo 'c.IPKernelApp.log_level = "ERROR"' > $(VENV)/etc/ipython/ipython_kernel_config.py
	@touch $@

demo: $(READY)  ## the paper, then the ladder's light members, on the shipped catalogue: no download of weights, no GPU
	$(BIN)/python -m kit paper --study demo --data data/shop --texts e5_small,minilm \
	  --images efficientnet_lite0,efficientnet_lite2 --recipe demo --seeds 2 --jobs 2 --answers data/shop_answers/Y_test.csv
	$(BIN)/python -m kit best --study demo-best --data data/shop --texts e5_small,minilm \
	  --images efficientnet_lite0,efficientnet_lite2 --recipe demo --seeds 0

paper: $(READY)  ## the same on your data: make paper DATA=dir TEXTS=a,b IMAGES=c,d RECIPE=paper OPTIONS="-p folds 5"
	$(BIN)/python -m kit paper --study "$(STUDY)" --data "$(DATA)" --texts "$(TEXTS)" --images "$(IMAGES)" \
	  --recipe "$(RECIPE)" --seeds $(SEEDS) --jobs $(JOBS) $(OPTIONS)

best: STUDY = best
best: RECIPE = laptop
best: TEXTS =
best: IMAGES =
best: SEEDS = 2
best: $(READY)  ## the best submission that the time allows: make best DATA=dir RECIPE=night SEEDS=1 OPTIONS="--max-minutes 540"
	$(BIN)/python -m kit best --study "$(STUDY)" --data "$(DATA)" --recipe "$(RECIPE)" --texts "$(TEXTS)" \
	  --images "$(IMAGES)" --seeds $(SEEDS) $(OPTIONS)

report: $(READY)  ## a study's report again, from its run folders: make report STUDY=demo
	$(BIN)/python -m kit report "$(STUDY)"

test: $(READY)  ## the tests: no network, no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(READY)  ## the long ones: twenty kills in a row, several processes and machines, full disks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto

bench: $(READY)  ## how fast the kit is, beside what one would use instead: a table with goals and verdicts
	$(BIN)/python benchmarks/run.py

bench-full: $(READY)  ## the long measurements: AutoGluon on both catalogues, every model and stack with three seeds
	$(BIN)/python benchmarks/run.py --full

lint: $(READY)  ## ruff, types, and notebooks committed without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb docs/*.ipynb

audit:  ## known vulnerabilities of all that is installed, asked of the network
	test -x cache/audit/bin/pip-audit || { $(PYTHON) -m venv cache/audit && cache/audit/bin/pip install --quiet pip-audit; }
	cache/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip

format: $(READY)  ## rewrite code and strip notebooks as lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb docs/*.ipynb

notebooks: $(READY)  ## open copies of the notebooks in Jupyter, in work/: make notebooks OPTIONS="--no-browser"
	$(BIN)/python -m kit notebooks $(OPTIONS)

clean:  ## remove the environment and caches; runs and submissions stay
	rm -rf $(VENV) cache build *.egg-info .pytest_cache .ruff_cache
