# `make repro` on a fresh clone installs everything and runs the pipeline. `make help` lists the other targets.
PYTHON ?= python3
VENV := .venv
# Relative, because the path of this folder may contain spaces, at which make and the shell would split it
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?= cpu
PORT ?= 4200
SHOWN ?= image_auroc|f1_at_threshold|au_pro|cas_ratio|kid_ratio|ssim

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PREFECT_HOME ?= $(CURDIR)/.prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export GRADIO_ANALYTICS_ENABLED := False
# LPIPS backbones for offline machines, if the folder exists
ifneq ($(wildcard ../shared/weights),)
export METALDEFECT_WEIGHTS ?= $(CURDIR)/../shared/weights
endif

.DEFAULT_GOAL := help
.PHONY: help setup lock data deps repro flow retrain compare experiments rollback deploy undeploy test test-fast lint format ui demo doctor clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv, pinned by constraints.txt; LOCKED=1: only files with the hashes of requirements.lock

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
endif
	$(BIN)/python -m pipeline.plots_template
	@touch $@

lock: $(STAMP) ## Write requirements.lock: every package of constraints.txt with the hashes of its files on PyPI
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --python-version 3.11 --extra dev \
	  --constraints constraints.txt --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

data: $(STAMP) ## Real datasets into data/raw (FROM=<folder of tars or folders> uses local copies)
	$(BIN)/metaldefect get-data $(if $(FROM),--from "$(FROM)")

repro: $(STAMP) ## Run the pipeline (PROFILE=cpu, real or paper); a second run finds nothing to do
	"$(BIN)/python" -m pipeline.profiles $(PROFILE)
	"$(BIN)/python" -m dvc repro

flow: $(STAMP) ## Run the pipeline as a Prefect flow
	$(BIN)/python -m flows.run

retrain: $(STAMP) ## Train aside, compare with the detector that serves, promote or hold
	$(BIN)/python -m flows.run --retrain

compare: $(STAMP) ## What serves against the last pipeline runs: terminal and reports/compare.html
	$(BIN)/metaldefect compare

experiments: $(STAMP) ## Experiments of DVC with the metrics that count; 'dvc exp show' alone has hundreds of columns
	@$(BIN)/python -m dvc exp show --no-pager --drop '.*' --keep '(Experiment|Created|$(SHOWN))$$'

rollback: $(STAMP) ## Let the previous champion serve again
	$(BIN)/metaldefect rollback

# One test file per core, each on one thread, is faster than one file at a time on all threads; one more runs
# while tests of flows wait for servers. The longest files start first (tests/conftest.py), so that no core
# waits for them at the end.
WORKERS = -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadfile

test: $(STAMP) ## All tests, including the end-to-end run; ends with the slowest
	OMP_NUM_THREADS=1 METALDEFECT_THREADS=1 $(BIN)/python -m pytest $(WORKERS) --no-loadscope-reorder --durations=40

test-fast: $(STAMP) ## Tests without the end-to-end runs
	OMP_NUM_THREADS=1 METALDEFECT_THREADS=1 $(BIN)/python -m pytest $(WORKERS) -m "not e2e and not slow"

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# An address in MLFLOW_TRACKING_URI is a server that runs already; anything else is a store to serve
ui: $(STAMP) ## MLflow on 127.0.0.1:5000 and Prefect on 127.0.0.1:4200 (Ctrl-C ends both)
	@$(BIN)/python -m pipeline.mlflow_view
	@echo "Prefect http://127.0.0.1:4200"
	@trap 'kill 0' INT TERM EXIT; \
	case "$$MLFLOW_TRACKING_URI" in http*) ;; \
	*) $(BIN)/mlflow server --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlruns/mlflow.db}" --host 127.0.0.1 --port 5000 & ;; esac; \
	$(BIN)/prefect server start --host 127.0.0.1 --port 4200 & \
	wait

deploy: $(STAMP) ## Start Prefect's server (PORT=4200), worker and watchdog here, and deploy all flows
	$(BIN)/metaldefect deploy --port $(PORT)

undeploy: $(STAMP) ## End what `make deploy` started
	$(BIN)/metaldefect undeploy

deps: $(STAMP) ## Write the code that each stage imports into dvc.yaml
	$(BIN)/python -m pipeline.dependencies

demo: $(STAMP) ## The Gradio page on 127.0.0.1:7860, with the models of the last run
	$(BIN)/python -m app

doctor: $(STAMP) ## Check versions, ports, databases, disk and CPU features
	$(BIN)/metaldefect doctor

clean: ## Remove all outputs of runs (keeps the environment, the DVC cache and what serves)
	rm -rf data/sample/NEU-DET data/sample/SD-saliency-900 data/sample/X-SDD data/sample/inspection
	@rmdir data/sample 2>/dev/null || true # what others put there stays
	rm -rf data/merged data/augmented data/tokens data/synthetic plots .checkpoints
	rm -rf reports/index.html reports/merge reports/synthesize reports/compare.html # not what retraining and drift remember
	rm -rf models/vq models/maskgit models/teacher models/efficientad models/detector models/openvino
