# make demo        the quickstart, executed; prints where it lies and its scores
# make test        everything that must hold (CI runs this)      make test-colab  the widgets under Colab's ipywidgets 7
# make export      notebooks -> omnipersona/          make clean-notebooks   strip counts and widget state
# make readme      nbs/index.ipynb -> README.md       make build             wheel and sdist in dist/
# make bench-main, bench-replay, bench-recipes, bench-7b, bench-attention, bench-widgets, bench-crosstask, bench-conditions  make pretrain       the tiny backbone's weights, again
# Each sets up .venv first. What has not changed is not done again: `make -B test` does it all.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help venv test test-colab demo bench-main bench-replay bench-recipes bench-7b bench-attention bench-widgets bench-crosstask bench-conditions pretrain export clean-notebooks readme build

VENV    ?= .venv
WORKERS ?= 2
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3,10) <= sys.version_info[:2] <= (3,13))' 2>/dev/null && echo $$p && break; done)
BIN     := $(abspath $(VENV))/bin
READY   := $(VENV)/.ready
TORCH   := $(shell grep -o '^torch==[0-9.]*' constraints.txt)
LIMIT   := $(if $(shell command -v timeout),timeout 20m)

NOTEBOOKS := $(shell find nbs -name '*.ipynb' -not -path '*/.*')
LIBRARY   := $(filter-out nbs/tutorials/% nbs/assignments/%,$(NOTEBOOKS))
PACKAGE   := $(shell find omnipersona -type f -not -path '*/__pycache__/*')
TUTORIALS := $(patsubst nbs/tutorials/%,demo/%,$(filter nbs/tutorials/%,$(NOTEBOOKS)))

help:
	@sed -n 's/^# //p' Makefile | head -n 6

# ---- the environment ----------------------------------------------------------------------------------------------
venv: $(READY)

# torch goes in first and alone, at the tested version: what follows then finds it satisfied.
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10-3.13 found. On Debian: apt-get install python3 python3-venv; or make PYTHON=/path/to/python"; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		pkg=$$($(PYTHON) -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy $$pkg; \
		else echo "$(PYTHON) cannot make environments. On Debian: sudo apt-get install $$pkg; then make again"; exit 1; fi; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

# ---- making -------------------------------------------------------------------------------------------------------
export: $(READY)
	$(BIN)/nbdev_export

clean-notebooks: $(READY)
	$(BIN)/python tools/house.py clean

readme: README.md
README.md: nbs/index.ipynb tools/house.py | $(READY)
	$(BIN)/python tools/house.py readme

build: $(READY)
	rm -rf dist build
	$(BIN)/python -m build --no-isolation .
	rm -rf build

# ---- running ------------------------------------------------------------------------------------------------------
# A tutorial, executed: demo/ gets the notebook with its outputs, and what the notebook writes (scores as JSON).
demo/%.ipynb: nbs/tutorials/%.ipynb $(PACKAGE) $(READY)
	@mkdir -p demo
	OMNIPERSONA_DEMO_DIR="$(CURDIR)/demo" $(LIMIT) $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute \
		--ExecutePreprocessor.timeout=1200 --output-dir demo $<

nbs/tutorials/01_quickstart.ipynb:
	@echo "$@ is not there yet: nothing to demonstrate"; exit 1

demo: demo/01_quickstart.ipynb
	@$(BIN)/python tools/house.py scores demo
	@echo; echo "The executed notebook: $(CURDIR)/demo/01_quickstart.ipynb"
	@echo "Open it with: $(BIN)/jupyter lab demo/01_quickstart.ipynb"

# bench-crosstask: ten lessons for each character and seed; bench-conditions: decoupled against coupled, and with editing data against without, each under other conditions. What is done is kept. Each takes arguments: make bench-crosstask SIZE='n_characters=2, n_seeds=1, steps=100'
bench-main bench-replay bench-attention bench-widgets bench-crosstask bench-conditions: bench-%: $(READY)
	$(BIN)/python -c 'from omnipersona.bench.$*_bench import main; main($(SIZE))'

bench-recipes: $(READY)
	$(BIN)/python -c 'from omnipersona.bench.main_bench import compare; compare($(SIZE))'

# BAGEL's real size, random weights in four bits: about 11 GB of memory. Not in CI.
bench-7b: $(READY)
	$(BIN)/python -c 'from omnipersona.bench.big_bench import main; main()'

pretrain: $(READY)
	$(BIN)/python -c 'from omnipersona.model.pretrain import main; main()'

# ---- testing ------------------------------------------------------------------------------------------------------
# House rules first (seconds), then every cell of the library notebooks, the tutorials, and the other tests.
test: $(READY)
	$(BIN)/python -m pytest -q tests/test_house.py
	$(MAKE) .stamps/notebooks
	OMP_NUM_THREADS=1 $(MAKE) -j$(WORKERS) $(TUTORIALS)
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python -m pytest -q --ignore tests/test_house.py
	@echo "All tests passed."

# One thread per worker: two workers with two threads each are slower than one. nbdev_test has no time limit of its own.
.stamps/notebooks: $(LIBRARY) $(PACKAGE) $(READY)
	OMP_NUM_THREADS=1 $(LIMIT) $(BIN)/nbdev_test --n_workers $(WORKERS) --timing --skip_folder_re '^([_.]|tutorials$$|assignments$$)'
	@mkdir -p .stamps && touch $@

# The widgets' tests, kernel-side, in a second environment with Colab's versions of what they stand on (torch: the CPU build that is tested).
COLAB := ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 transformers==5.15.* peft==0.20.* diffusers==0.39.*

test-colab: .venv-colab/.ready
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=$(WORKERS) .venv-colab/bin/python -m pytest -q tests/test_widgets.py tests/test_explorers.py tests/test_studio.py tests/test_boards.py tests/test_attention_explorer.py -k "not browser"

.venv-colab/.ready: Makefile
	test -x .venv-colab/bin/python || $(PYTHON) -m venv .venv-colab
	.venv-colab/bin/pip install -q $(TORCH)
	.venv-colab/bin/pip install -q $(COLAB) accelerate matplotlib scikit-learn pytest
	.venv-colab/bin/pip install -q --no-deps -e .
	@touch $@
