# Every target is described by the comment behind its name; `make help` prints them.
PYTHON_ENV := .venv/bin/python
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test compilers kernels test-cluster test-horovod test-wheel test-matrix test-gpu fuzz bench-gpu lint bench \
	bench-exchange evidence docs docs-look clean

help: ## Show these lines.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## Install everything: system packages, .venv, PyTorch, Horovod, alq_hvd. Quick when nothing changed.
	@./launch/setup.sh

demo: setup ## Train on images and text with 4 ranks, from fp32 down to a mean of 1 bit, and compare. ARGS=... is passed on.
	@$(PYTHON_ENV) examples/demo.py $(ARGS)

test: setup compilers ## Run all tests that need neither a GPU nor a cluster. ARGS="-k name" is passed on to pytest.
	@$(PYTHON_ENV) -m pytest -n 2 -m "not gpu and not cluster" $(ARGS)

compilers: setup ## Fetch the older run-time compilers of CUDA (300 MB, once), with which tests compile the kernels.
	@$(PYTHON_ENV) -m tests.support.nvrtc || test -z "$$CI"

kernels: compilers ## Compile every kernel with every run-time compiler for every GPU it knows; takes 20 minutes.
	@$(PYTHON_ENV) -m tests.support.compile_matrix

test-cluster: setup ## Run the tests on several pretend hosts with a real Slurm; needs root, installs Debian's Slurm. ARGS=... too.
	@./tests/cluster/install.sh
	@$(PYTHON_ENV) -m pytest -m cluster $(ARGS)

test-horovod: setup ## Run Horovod's own tests and examples with compressors of ours (docs/reference/horovod-tests.md). ARGS=... is passed on.
	@$(PYTHON_ENV) -m tests.upstream.run $(ARGS)

test-wheel: setup ## Build the wheel, check what it holds, and train from it in an empty environment without Horovod and MPI.
	@./tests/wheel.sh

test-matrix: setup ## Build and test the wheel with every supported Python that this machine has. ARGS="--torch 2.4.1" adds a PyTorch.
	@./tests/matrix.sh $(ARGS)

fuzz: setup ## Feed records, states and checkpoints that nobody has written to their readers (pip install -e '.[fuzz]'). ARGS=... too.
	@$(PYTHON_ENV) -m tests.fuzz.run --asan $(ARGS)

lint: setup ## Check style, format, types and shell scripts; change nothing.
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@$(PYTHON_ENV) -m mypy
	@.venv/bin/shellcheck -x launch/*.sh .ci/run tests/*.sh $(wildcard tests/cluster/*.sh)

test-gpu: setup ## Run the tests that need a CUDA device and cupy (pip install -e '.[cuda12]' or '.[cuda13]').
	@$(PYTHON_ENV) -m pytest -m gpu tests/gpu $(ARGS)

bench-gpu: setup ## Measure the GPU codec; the figures go to benchmarks/results/codec-cuda.json.
	@$(PYTHON_ENV) benchmarks/codec.py --device cuda $(ARGS)

bench: setup ## Run every program in benchmarks/; each writes its figures to benchmarks/results/.
	@failed=; for script in $$(grep -l "__main__" benchmarks/*.py | grep -v benchmarks/rerun.py); do \
		echo "== $$script"; $(PYTHON_ENV) "$$script" $(ARGS) || failed="$$failed $$script"; done; \
		test -z "$$failed" || { echo "did not measure:$$failed (reasons above)"; exit 1; }

bench-exchange: setup ## Measure every exchange and stock Horovod on shaped links between namespaces (root). ARGS=... is passed on.
	@$(PYTHON_ENV) benchmarks/exchange.py $(ARGS)
	@$(PYTHON_ENV) benchmarks/exchange.py --auto $(ARGS)

evidence: setup ## Measure every figure of the page of evidence anew, and write the page; goes on when cut. ARGS="--list", "--only rate".
	@$(PYTHON_ENV) benchmarks/rerun.py $(ARGS)

docs: setup ## Build the documentation as HTML pages in docs/_build/html, which need no network to be read.
	@$(PYTHON_ENV) -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

docs-look: docs ## Open every page in a real browser, phone and desk, light and dark; needs Debian's chromium and '.[look]'.
	@$(PYTHON_ENV) -m tests.support.look $(ARGS)

clean: ## Remove what was built here, .venv too; the cache of Horovod wheels (~/.cache/alq-hvd) stays.
	rm -rf .venv .cache build dist runs docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f alq_hvd/codec/_native*.so alq_hvd/accumulation/_native*.so alq_hvd/checkpoint/_shield*.so
	find alq_hvd tests examples benchmarks launch -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
