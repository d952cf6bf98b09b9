# Every target that needs the environment makes it. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# The installed versions are pinned with their hashes; pip itself comes with Python.
UV := $(BIN)/python -m uv
READY := .venv/.ready

DEMO := \
	-S data.name=digits -S 'model.encoder=[256,256]' -S 'model.decoder=[256,256]' -S model.latent=8 \
	-S train.epochs=60 -S train.batch_size=64 -S evaluate.prior_samples=2000

.PHONY: help setup demo published study repro verify chaos bench audit test check ui sync server-up server-down clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## Install the locked dependencies into .venv.

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	grep -A 30 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ {exit} !/#/' > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(UV) pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	@touch $@

demo: $(READY) ## Run the whole pipeline on scikit-learn's digits, offline: about a minute.
	@dvc exp remove -q demo 2> /dev/null || true
	dvc exp run --temp --name demo $(DEMO)
	@rm -rf demo && dvc get -q . reports/report.html --rev demo -o demo/report.html
	@echo "The report: $(CURDIR)/demo/report.html"
	@echo "The result beside others: source .venv/bin/activate; dvc exp show --only-changed"

# The decoder and the variance of Wu et al. 2017's VAE-50, and as many test images.
PUBLISHED := \
	-S 'model.encoder=[1024,1024,1024]' -S 'model.decoder=[1024,1024,1024]' -S model.latent=50 -S train.epochs=25 \
	-S train.learning_rate=0.001 -S evaluate.images=1000 -S evaluate.comparison=50 -S evaluate.budget=1024 \
	-S verify.images=16 -S verify.curve_images=4 -S verify.temperatures=100 -S compare.images=50

published: $(READY) ## Run the experiment at the published setting: about five minutes on two cores.
	@dvc exp remove -q published 2> /dev/null || true
	dvc exp run --temp --name published $(PUBLISHED)
	@rm -rf reports/published && mkdir -p reports/published
	@for file in metrics/train.json metrics/evaluate.json metrics/verify.json metrics/compare.json; do \
		dvc get -q . reports/$$file --rev published -o reports/published/; done
	@echo "Its metrics: $(CURDIR)/reports/published/"

study: $(READY) ## Run a grid of experiments and write its page: make study NAME=sigma | latent | samples.
	python -m studies $(NAME)

repro: $(READY) ## Rebuild everything that has changed: `dvc repro`, with MNIST.
	dvc repro

verify: $(READY) ## Rebuild the current experiment in a temporary clone and compare every byte with dvc.lock.
	python -m benchmarks.rebuild

chaos: $(READY) ## Kill the pipeline thirty times, anywhere, and compare what comes out: about ten minutes.
	python -m benchmarks.chaos --kills 30

bench: $(READY) ## Measure training, likelihood and pipeline beside their limits: twenty minutes; needs `make repro`.
	python -m benchmarks.training
	python -m benchmarks.likelihood
	python -m benchmarks.pipeline
	python -m benchmarks.scaling

audit: $(READY) ## Look the locked packages up among known vulnerabilities (asks PyPI).
	$(UV) tool run pip-audit --requirement requirements.lock --no-deps --disable-pip

test: $(READY) ## Run the test suite.
	pytest -q

check: $(READY) ## Check format, style and types.
	ruff format --check .
	ruff check .
	pyright

ui: $(READY) ## Open MLflow's pages on http://127.0.0.1:5000.
	python -m pipeline.tracking ui

sync: $(READY) ## Send to MLflow what it has missed: outages, killed stages, results from the cache.
	python -m pipeline.tracking sync

server-up: $(READY) ## Start an MLflow server on PostgreSQL, on the loopback interface.
	@tools/server up

server-down: $(READY) ## Stop it; its data stay.
	@tools/server down

clean: ## Remove the environment, caches, and all that can be rebuilt; keeps results in git and DVC's cache.
	rm -rf .venv .pytest_cache .ruff_cache demo .scratch data models reports/figures reports/report.html reports/images.parquet
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
