# Each target makes the environment first if it needs one. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Packages are installed at the versions and hashes of requirements.lock; pip itself comes with Python.
UV := .venv/bin/python -m uv
READY := .venv/.ready
PARALLEL := -n 2 --dist worksteal
HASH := \#

ifneq (,$(findstring $(HASH),$(CURDIR)))
$(error DVC runs no experiment in a folder whose path contains $(HASH): rename or move $(CURDIR))
endif

.PHONY: help setup demo run own table study repro verify chaos bench audit test test-all check ui sync clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(READY) ## Install the locked packages into .venv.

$(READY): requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv .venv
	grep -A 30 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ {exit} !/#/' > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(UV) pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	@touch $@

demo: $(READY) ## Run the whole pipeline on scikit-learn's digits, without a download: about a minute.
	python -m tools.presets demo
	@rm -rf demo && dvc get -q . reports/report.html --rev demo -o demo/report.html
	@dvc get -q . reports/explorer.html --rev demo -o demo/explorer.html
	@echo "The report: $$PWD/demo/report.html"
	@echo "Compare it with other experiments: make table"

run: $(READY) ## Run an experiment with the settings of a file in presets/: make run PRESET=fast | good | best | ...
	python -m tools.presets $(PRESET)

own: $(READY) ## Check your own images and enter them in params.yaml: make own DATA=path/to/images.
	python -m tools.own "$(DATA)"

table: $(READY) ## List the experiments: log p(x), samples, and what differs, in 120 columns; of all commits: make table ALL=1.
	@python -m tools.table $(if $(ALL),--all-commits)

study: $(READY) ## Run a study and write its page: make study NAME=sigma | latent | samples | seeds | models [ONLY=fast,good]; two runs at once: JOBS=2.
	python -m studies $(NAME) $(if $(ONLY),--only "$(ONLY)") $(if $(JOBS),--jobs $(JOBS))

repro: $(READY) ## Run what has changed since the last run, with MNIST: `dvc repro`.
	dvc repro

verify: $(READY) ## Rebuild the current experiment in a temporary clone and compare every byte with dvc.lock.
	python -m tools.rebuild

chaos: $(READY) ## Kill the pipeline thirty times at random and compare its outputs: about ten minutes.
	python -m tools.chaos --kills 30

bench: $(READY) ## Measure speed and memory into reports/benchmarks; needs `make repro` first: about forty minutes.
	@mkdir -p reports/benchmarks
	@set -o pipefail; for name in training quality convolutions likelihood calibration missed judge stages scaling; do \
		python -m benchmarks.$$name | tee /dev/stderr | tail -n 1 | python -m json.tool > reports/benchmarks/$$name.json || exit 1; done
	python -m tools.documents

audit: $(READY) ## Search the locked packages for known vulnerabilities; needs PyPI.
	$(UV) tool run pip-audit --requirement requirements.lock --no-deps --disable-pip

test: $(READY) ## Run the fast tests, on two cores: under ten minutes.
	pytest -q -m "not slow" $(PARALLEL)

# The slow tests use both cores themselves, and some kill processes after a time: they run one by one.
test-all: test ## Run the fast tests, then the slow ones (DVC, MLflow, kills, queues, sharing, fuzzing).
	pytest -q -m slow

check: $(READY) ## Check format, style and types.
	ruff format --check .
	ruff check .
	pyright

ui: $(READY) ## Serve MLflow's pages at the first free port from 5000 on, and print the address; or: make ui PORT=5001.
	python -m pipeline.tracking ui $(if $(PORT),--port "$(PORT)")

sync: $(READY) ## Send results that MLflow does not have yet, after an outage, a kill or from the cache.
	python -m pipeline.tracking sync

clean: ## Remove the environment, caches and everything that can be rebuilt; git and DVC's cache keep all results.
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis demo .scratch data models
	rm -rf reports/figures reports/report.html reports/explorer.html reports/*.parquet reports/*.safetensors
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
