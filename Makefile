# Each target sets up .venv first. What has not changed is not done again: `make -B test` does it all.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help venv export clean-notebooks readme picture site build demo test test-notebooks test-trust test-wheel test-colab course course-slides atlas test-course test-classroom test-site lint \
	sbom licences archives check-archives hashes check-hashes audit pythons pretrain pretrain-second measure-second course-concepts tutorial-table \
	bench-main bench-recipes bench-replay bench-attention bench-crosstask bench-conditions bench-token-roles bench-giveaway bench-photo-kit bench-widgets bench-7b \
	bench-speed bench-steps bench-growth class-estimate gpu-check gpu-kit bench-omnipbench bench-omnipbench-quick

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

help: ## this list
	@awk -F ':.*## ' '/^[a-z][^:=]*:.*## / {printf "%-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- the environment ----------------------------------------------------------------------------------------------
venv: $(READY) ## the environment: .venv, with everything that is needed

# torch goes in first and alone, at the tested version: what follows then finds it satisfied. The tested versions of some
# other packages need Python 3.11, so Python 3.10 takes what the package's own ranges allow.
# HASHED=1: only archives whose SHA-256 stands in requirements-hashes.txt (Linux x86_64, Python 3.11).
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10-3.13 found. On Debian: apt-get install python3 python3-venv; or make PYTHON=/path/to/python"; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		pkg=$$($(PYTHON) -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy $$pkg; \
		else echo "$(PYTHON) cannot make environments. On Debian: sudo apt-get install $$pkg; then make again"; exit 1; fi; fi
	@echo "Setting up $(VENV) with $$($(PYTHON) --version)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef HASHED
	$(BIN)/pip install -q --require-hashes -r requirements-hashes.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
else
	$(BIN)/pip install -q -c constraints.txt $(TORCH)
	$(BIN)/pip install -q $$($(BIN)/python -c 'import sys; print("-c constraints.txt" * (sys.version_info >= (3, 11)))') -e '.[dev]'
endif
	@touch $@

# ---- making -------------------------------------------------------------------------------------------------------
export: $(READY) ## notebooks -> omnipersona/
	$(BIN)/nbdev_export

clean-notebooks: $(READY) ## strip counts, metadata and widget state
	$(BIN)/python tools/house.py clean

readme: README.md ## nbs/index.ipynb -> README.md
README.md: nbs/index.ipynb tools/house.py | $(READY)
	$(BIN)/python tools/house.py readme

picture: $(READY) ## the picture at the top of the README, drawn again
	OMNIPERSONA_PICTURE=1 $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --output-dir demo nbs/index.ipynb

site: .venv-site/.ready ## the site in _site: notebooks, functions, search, and the page that runs the tiny backbone (needs npm)
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python tools/website.py build .venv-site _site
	@echo "Open _site/index.html; the page that needs no install wants a server: $(BIN)/python -m http.server -d _site"

# Its tools would change tested versions (protobuf) and add forty packages that no reader needs: an environment of its own.
.venv-site/.ready: tools/website.py | $(READY)
	$(BIN)/python tools/website.py env .venv-site
	@touch $@

build: $(READY) ## wheel and sdist in dist/
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

# Tests run tutorials at a reduced size; whoever asks for the demo gets the whole quickstart.
demo: ## the quickstart, executed; prints where it lies and its scores
	@grep -qs '"steps of learning": 440' demo/quickstart.json || rm -f demo/01_quickstart.ipynb
	@OMNIPERSONA_FULL=1 $(MAKE) --no-print-directory demo/01_quickstart.ipynb
	@$(BIN)/python tools/house.py scores demo
	@echo; echo "The executed notebook: $(CURDIR)/demo/01_quickstart.ipynb"
	@echo "Open it with: $(BIN)/jupyter lab demo/01_quickstart.ipynb"

# What is done is kept. Each takes arguments: make bench-crosstask SIZE='n_characters=2, n_seeds=1, steps=100'
RUN = $(BIN)/python -c 'from omnipersona.$(1) import $(2) as go; go($(SIZE))'

bench-main: $(READY) ## the table of scores, 8 characters x 2 seeds
	$(call RUN,bench.main_bench,main)
bench-recipes: $(READY) ## recipes side by side
	$(call RUN,bench.main_bench,compare)
bench-replay: $(READY) ## drawings that need a fact, with replay and without
	$(call RUN,bench.replay_bench,main)
bench-attention: $(READY) ## do attention maps point at the character?
	$(call RUN,bench.attention_bench,main)
bench-crosstask: $(READY) ## what one task teaches another (75 minutes on two cores)
	$(call RUN,bench.crosstask_bench,main)
bench-conditions: $(READY) ## when decoupling and editing data help (65 minutes)
	$(call RUN,bench.conditions_bench,main)
bench-widgets: $(READY) ## how fast the explorers and the studio answer
	$(call RUN,widgets.latency,main)
	$(call RUN,widgets.studio_latency,main)
bench-token-roles: $(READY) ## which tokens carry what: groups taken away from sixteen concepts (half an hour)
	$(call RUN,course.token_roles,main)
bench-giveaway: $(READY) ## what a concept's folder gives away (half an hour)
	$(call RUN,bench.giveaway,main)
bench-photo-kit: $(READY) ## data that the backbone makes itself against hand-made data (half an hour)
	$(call RUN,bench.photo_kit_bench,main)
# One thread on one core: times of several versions are compared, and of several machines.
bench-speed: $(READY) ## times as ratios, beside the machine's own rate (10 minutes; BEFORE=/path/to/another/checkout)
	OMP_NUM_THREADS=1 $(BIN)/python -c 'from omnipersona.bench.speed_bench import main as go; go(before="$(BEFORE)", $(SIZE))'
	OMP_NUM_THREADS=1 $(BIN)/python -c 'from omnipersona.bench.reference_bench import main as go; go()'
bench-learning: $(READY) ## whole runs of learning with an early stop (12 minutes; BEFORE=/path/to/another/checkout)
	OMP_NUM_THREADS=1 $(BIN)/python -c 'from omnipersona.bench.learning_bench import main as go; go(before="$(BEFORE)", $(SIZE))'
bench-solvers: $(READY) ## how few steps a drawing needs: distance to the exact path, and what a judge sees (10 minutes)
	OMP_NUM_THREADS=1 $(call RUN,bench.solver_bench,main)
bench-steps: $(READY) ## which settings learn as well in less time (an hour on one core)
	OMP_NUM_THREADS=1 $(call RUN,bench.steps_bench,main)
bench-growth: $(READY) ## by which power time and memory grow with pictures, tokens, facts, concepts and steps
	OMP_NUM_THREADS=1 $(call RUN,bench.growth_bench,main)
class-estimate: $(READY) ## what a class of 500 needs, computed from a report of bench-speed
	$(call RUN,bench.class_estimate,main)
# One process a core, one thread each. ARGS='--seeds 0,1 --concepts 10': see omnipersona bench --help
bench-omnipbench: $(READY) ## all methods on the toy OmniPBench (many hours on two cores; it goes on where it was stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m omnipersona bench --jobs $(WORKERS) $(ARGS)
bench-omnipbench-quick: $(READY) ## the same with two concepts, short learning and few items: is all well?
	OMP_NUM_THREADS=1 $(BIN)/python -m omnipersona bench --quick --jobs $(WORKERS) --out bench/omnipbench-quick $(ARGS)
bench-7b: $(READY) ## BAGEL's real size on this CPU, random weights in four bits (about 12 GB of memory)
	$(call RUN,bench.bagel_bench,main)
# A borrowed machine has neither .venv nor a network: there, this is its own python3, and says what is missing.
gpu-check: ## on a machine with an NVIDIA card: everything that only a card can tell (25 minutes; PIECES=, OUT=, ARGS=)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m omnipersona.bench.gpu_check $(PIECES) --out $(or $(OUT),bench/gpu) $(ARGS)
gpu-kit: $(READY) ## .gpu/kit.tgz: diffusers and bitsandbytes for such a machine, whose CUDA is 13.0 (or CUDA=128)
	mkdir -p .gpu
	cd "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" && \
		tar czf "$(CURDIR)/.gpu/kit.tgz" --exclude=__pycache__ --exclude='*bitsandbytes_rocm*' --exclude='*bitsandbytes_xpu*' \
		--exclude-from=<(ls -d bitsandbytes/libbitsandbytes_cuda* | grep -v 'cuda$(or $(CUDA),130)') \
		$$(ls -d diffusers* bitsandbytes* importlib_metadata*)
	@ls -l .gpu/kit.tgz

pretrain: $(READY) ## the tiny backbone's weights, again
	$(call RUN,pretrain.training,main)
# Resumable: the same command goes on. SIZE='processes=1, steps=6000', or SIZE='seconds=520, device="cuda"'
pretrain-second: $(READY) ## the second edition's weights, on from those in the package
	$(call RUN,pretrain.second_run,pretrain_second)
measure-second: $(READY) ## what the second edition's last checkpoint understands, and sheets of its drawings
	$(call RUN,pretrain.held_out_measures,measure_second)

counter: $(READY) ## the network that counts characters and things, trained again (ten minutes)
	$(BIN)/python -c 'from omnipersona.model.loading import load_backbone as load; from omnipersona.toyworld.counter import make_counter as go; \
		ae = load("tiny", device="cpu").ae; go(lambda x: ae.decode(ae.encode(x)))'

# ---- testing ------------------------------------------------------------------------------------------------------
# House rules first (seconds), then every cell of the library notebooks, the tutorials, and the other tests.
test: $(READY) ## everything that must hold
	$(BIN)/python -m pytest -q tests/test_house.py
	$(MAKE) .stamps/notebooks
	OMP_NUM_THREADS=1 $(MAKE) -j$(WORKERS) $(TUTORIALS)
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python -m pytest -q --ignore tests/test_house.py
	@echo "All tests passed."

test-trust: $(READY) ## everything that SECURITY.md promises, also what takes long; prints the table
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/trust/report.py $(AREAS)

test-wheel: $(READY) ## the quickstart with the wheel alone, in an empty environment outside the repository
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python tools/supply.py wheel

# ---- the course ---------------------------------------------------------------------------------------------------
# Otter needs newer widgets than Colab has, so it lives in an environment of its own, and no student needs it.
course: .venv-otter/.ready ## dist/course: student notebooks, autograder zips, solutions, guide, slides, the wall of a class
	OMP_NUM_THREADS=1 $(BIN)/python tools/course.py build .venv-otter dist/course
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python tools/kit.py make dist/course
	@find dist/course -type f | sort

course-slides: $(READY) ## dist/course/slides: figures for slides, SVG and PNG
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python tools/kit.py slides dist/course/slides

atlas: $(READY) ## the wall of a class as one page: make atlas FOLDER=hand_in OUT=class.html
	@test -n "$(FOLDER)" || { echo "Which folder? make atlas FOLDER=hand_in OUT=class.html (one folder or zip file a student)"; exit 1; }
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python -m omnipersona.course.atlas "$(FOLDER)" "$(or $(OUT),class.html)"

tutorial-table: $(READY) ## minutes and memory of each tutorial, into nbs/tutorials/README.md; runs them all on one core (20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tools/tutorials.py measure $(TUTORIAL)

course-concepts: $(READY) ## the concepts that come with the course, learnt again for the weights that ship (about 15 minutes)
	OMP_NUM_THREADS=1 $(call RUN,course.course_concepts,learn_course_concepts)

.venv-otter/.ready: tools/course.py | $(READY)
	$(BIN)/python tools/course.py env .venv-otter
	@touch $@

test-course: .venv-otter/.ready ## checks, the zoo of wrong solutions, grading of solutions and student versions; prints the table
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "trust or not trust" tests/test_course.py tests/test_course_bad_input.py tests/test_course_kit.py tests/test_submissions.py
	@OMP_NUM_THREADS=1 $(BIN)/python tools/course.py table

test-classroom: $(READY) ## every assignment and tutorial, opened in JupyterLab and run (CASES='A5 03': some of them)
	CASES="$(CASES)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m classroom tests/test_browser_course.py

test-site: ## builds the site, then: graphs equal their modules, the page equals Python in a browser and needs no network
	$(MAKE) site
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "site or not site" tests/test_site.py tests/test_browser_site.py tests/test_browser_docs.py

test-notebooks: .stamps/notebooks ## every cell of the library notebooks

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check nbs tests tools setup.py omnipersona/all.py && $(BIN)/mypy

# ---- what it stands on --------------------------------------------------------------------------------------------
sbom: $(READY) ## the bill of materials: sbom.json (CycloneDX)
	$(BIN)/python tools/supply.py sbom sbom.json
licences: $(READY) ## of everything that is needed
	@$(BIN)/python tools/supply.py licences
archives: $(READY) ## requirements-hashes.txt, from what pip takes here under constraints.txt
	$(BIN)/python tools/supply.py archives
check-archives: $(READY) ## does pip still get these archives? (downloads all, keeps none)
	@$(BIN)/python tools/supply.py check-archives
hashes: $(READY) ## constraints-hashes.json, from what is installed here and was tested
	$(BIN)/python tools/supply.py hashes
check-hashes: $(READY) ## is what is installed here what was tested, file by file?
	@$(BIN)/python tools/supply.py check-hashes
audit: $(READY) ## known weaknesses of what is installed, where pip-audit is there
	@$(BIN)/python tools/supply.py audit
pythons: $(READY) ## which of Python 3.10 to 3.13 are here, and whether the package runs on them
	@$(BIN)/python tools/supply.py pythons

# One thread per worker: two workers with two threads each are slower than one. nbdev_test has no time limit of its own.
.stamps/notebooks: $(LIBRARY) $(PACKAGE) $(READY)
	OMP_NUM_THREADS=1 $(LIMIT) $(BIN)/nbdev_test --n_workers $(WORKERS) --timing --skip_folder_re '^([_.]|tutorials$$|assignments$$)'
	@mkdir -p .stamps && touch $@

# The widgets' tests, kernel-side, and the BAGEL tutorial, in a second environment with Colab's versions, as far as they
# can be had here: Python 3.13 where it is installed, torch's CPU build where there is one. It says what it used.
test-colab: .venv-colab/.ready ## the widgets and the BAGEL tutorial under Colab's versions
	@$(BIN)/python tools/colab.py used .venv-colab
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=$(WORKERS) .venv-colab/bin/python -m pytest -q -k "not browser" \
		$(addprefix tests/test_,widgets.py explorers.py studio.py boards.py attention_explorer.py photo_review.py colab_notebook.py)
	@$(BIN)/python tools/colab.py used .venv-colab

.venv-colab/.ready: tools/colab.py settings.ini | $(READY)
	$(BIN)/python tools/colab.py env .venv-colab
	@touch $@
