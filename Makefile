# The few commands a person needs. `make` alone lists them.
PYTHON ?= python3
MODEL ?=
PORT ?= 8866
TORCH ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CPU_INDEX := https://download.pytorch.org/whl/cpu
SOURCES := setup.py settings.ini

.DEFAULT_GOAL := help
.PHONY: help app course test readme picture practice-model lock clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo; echo "  MODEL=FOLDER PORT=8866 for app; TORCH=cpu for test and course, to install PyTorch's CPU build"

app: .venv/app.done  ## Serve the dashboard: MODEL= chooses what answers, PORT= where
	@exec $(BIN)/bear-classifier app $(MODEL) --port $(PORT)

course: .venv/dev.done  ## Open the course in JupyterLab
	@exec $(BIN)/jupyter lab --notebook-dir nbs

test: .venv/dev.done  ## Run every notebook from the top, then the tests
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/nbdev_test --n_workers 2
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

readme: .venv/dev.done  ## Write README.md from nbs/index.ipynb
	$(BIN)/python tests/readme.py

picture: .venv/dev.done  ## Take the README's picture of the dashboard, in Chromium
	$(BIN)/python tests/picture.py

practice-model: .venv/dev.done  ## Train the practice model that ships with the package, from drawings alone
	$(BIN)/bear-classifier practice-model bear_classifier/bundles/practice

# Universal: one lock for every system and Python from min_python on; versions only, no addresses. PyTorch's wheels pin their own
# CUDA companions exactly, so those stay out and the same lock serves the CPU build.
LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url setup.py
lock: .venv/dev.done  ## Renew requirements/*.txt from settings.ini
	$(LOCK) --extra dev -o .venv/dev.lock >/dev/null
	$(LOCK) --constraint .venv/dev.lock -o .venv/app.lock >/dev/null
	grep -vE '^(nvidia-|cuda-|triton)' .venv/dev.lock > requirements/dev.txt && cp .venv/app.lock requirements/app.txt

clean:  ## Remove the environment and what was built
	rm -rf .venv build dist *.egg-info _proc .pytest_cache tests/pictures
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3,10) <= v[:2] <= (3,13) else "Python 3.10 to 3.13 is needed, and $(PYTHON) is %d.%d: try make PYTHON=python3.12 ..." % v[:2])'
	@$(PYTHON) -m venv .venv || { echo "A virtual environment could not be made: on Debian and Ubuntu, apt install python3-venv"; rm -rf .venv; exit 1; }
	@touch $@

.venv/app.done: .venv/made requirements/app.txt $(SOURCES)
	@echo 'Installing what the dashboard needs into .venv: once, a minute or two'
	$(PIP) install --quiet -r requirements/app.txt
	$(PIP) install --quiet --no-deps -e .
	@touch $@

.venv/dev.done: .venv/made requirements/dev.txt $(SOURCES)
	@echo 'Installing everything into .venv: once, some minutes'
ifeq ($(TORCH),cpu)
	grep -E '^torch(vision)?==' requirements/dev.txt > .venv/torch.txt
	$(PIP) install --quiet --no-deps --index-url $(CPU_INDEX) -r .venv/torch.txt
endif
	$(PIP) install --quiet -r requirements/dev.txt
	$(PIP) install --quiet --no-deps -e .
	@touch .venv/app.done $@
