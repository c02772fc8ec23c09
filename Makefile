# Every target makes its own environment in .venv from a bare Python 3.11 or newer; nothing else has to be installed first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test gpu-check test-browser test-lowest test-newest browser lab docs check samples notebooks screenshots dist dist-check clean help

help:
	@echo "make demo       adapt a small network from rendered to camera-like scenes; report in runs/demo"
	@echo "make test       all that CI runs: check, notebooks, tests, tutorials in a browser"
	@echo "make test-browser   the tutorials in JupyterLab alone; screenshots in build/screenshots"
	@echo "make gpu-check  what only a GPU can show, in a few minutes; figures go to results/bench_gpu.csv"
	@echo "make browser    Chromium for the tests that drive JupyterLab (Debian or Ubuntu, as root)"
	@echo "make lab        JupyterLab on nbs/"
	@echo "make docs       the site, in build/site: lessons, guides, methods, papers, recipes, reference"
	@echo "make check      notebooks and modules in step, house rules kept"
	@echo "make dist       wheel and source archive in dist/, checked"
	@echo "make dist-check   the wheel installed into an empty environment, and the demo run from an empty folder (minutes, 7 GB)"
	@echo "make test-lowest  part of the tests with the lowest versions of all requirements; test-newest with the newest"
	@echo "make samples    write data_samples/ again"
	@echo "make screenshots  pictures of the explorers for the README, after the lessons were run once"
	@echo "make notebooks  run the notebooks and keep their outputs (NB=path for one)"

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "uda_kit needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/uda-kit demo --out runs/demo --overwrite

test: check browser docs
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test nbs --n-workers 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/test_jupyterlab.py
	$(BIN)/python -m pytest tests/test_jupyterlab.py

test-browser: $(READY) browser
	$(BIN)/python -m pytest -v tests/test_jupyterlab.py

# Needs a GPU and the base install alone: PYTHON=python3 uses an environment that is there already.
gpu-check:
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) tests/gpu_check.py

# Never fails: without a browser the tutorials run in a kernel alone, and the tests say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 || echo "Chromium could not be installed with apt-get: the tutorials are tested without a browser"; \
	else echo "No Chromium, and apt-get needs root: the tutorials are tested without a browser (sudo make browser installs one)"; fi

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=nbs

# Fails where a link leads nowhere, a page has no title, or a notebook has not been run.
docs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_site.py

check: $(READY)
	$(BIN)/python tests/check_house.py
	$(BIN)/python tests/check_types.py

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	$(BIN)/python tests/check_dist.py

dist-check: dist
	$(BIN)/python tests/install_dist.py $(EXTRA)

# Another interpreter: make test-lowest PYTHON=python3.12
test-lowest test-newest: $(READY)
	$(BIN)/python tests/versions.py $(@:test-%=%) --python $(PYTHON)

samples: $(READY)
	$(BIN)/python -m uda_kit.data.samples data_samples

notebooks: $(READY)
	$(BIN)/python tests/run_notebooks.py $(NB)

screenshots: $(READY) browser
	$(BIN)/python tests/take_screenshots.py

clean:
	rm -rf $(VENV) build dist *.egg-info
