SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The Python that the virtual environment is made from, and its folder: make test PYTHON=python3.12 VENV=.venv312
PYTHON ?= python3
VENV ?= .venv
# The environment of `make test-next`.
NEXT ?= .venv-next
# More arguments for the command that a target runs: make mnist ARGS="--trainer.max_steps=50"
ARGS =
# A local copy of the data set, instead of the hub's: make mnist-cpu DATA=path/to/mnist
DATA =
# A table of the accuracies of NAS-Bench-201's cells, for make nas-bench.
TABLE =

# Whether `make docs` runs the notebooks: make docs NOTEBOOKS=false
NOTEBOOKS ?= true

INSTALLED := $(VENV)/.installed
INSTALLED_FOR_DOCS := $(VENV)/.installed-for-docs
RUN := $(VENV)/bin
# mypy and mkdocstrings look for gtn_lightning.callbacks inside gtn_lightning/, so they get a folder in which it is there.
define lay_out
@rm -rf build/typed && mkdir -p build/typed/gtn_lightning
@ln -s $(CURDIR)/gtn_lightning/* $(CURDIR)/callbacks $(CURDIR)/recipes $(CURDIR)/zoo build/typed/gtn_lightning/
endef
fit = $(RUN)/gtn fit --config recipes/$(1).yaml $(if $(DATA),--data.init_args.path='$(DATA)') $(ARGS)

##@ Start here
.PHONY: quickstart install
quickstart: $(INSTALLED) ## install, then distil handwritten digits for networks of all kinds: five minutes on a CPU
	$(RUN)/gtn distil digits --minutes=5 $(ARGS)

install: $(INSTALLED) ## make the virtual environment and install the package into it, editable

$(INSTALLED): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "gtn-lightning needs Python 3.10 or newer, and '$(PYTHON)' is not. Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Installing gtn-lightning into $(VENV): a few minutes the first time, most of it PyTorch's download"
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it comes with: apt install python3-venv" >&2; \
		exit 1; }
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

##@ Experiments
.PHONY: mnist mnist-cpu mnist-transfer fashion-mnist cifar10 ablation agents outer-gradients synthetic-environment
.PHONY: autoencoders representations nas-bench nas-grid nas-transfer metasmoothness
mnist: $(INSTALLED) ## MNIST in the paper's setting, on a GPU
	$(call fit,mnist)

mnist-cpu: $(INSTALLED) ## MNIST, sized for two CPU cores
	$(call fit,mnist_cpu)

mnist-transfer: $(INSTALLED) ## MNIST, taught to a mixture of learner families
	$(call fit,mnist_transfer)

fashion-mnist: $(INSTALLED) ## Fashion-MNIST
	$(call fit,fashion_mnist)

cifar10: $(INSTALLED) ## CIFAR-10, on a GPU
	$(call fit,cifar10)

nas-bench: $(INSTALLED) ## what ranks the cells of NAS-Bench-201: hours on a CPU; make nas-bench TABLE=path/to/accuracies.csv
	$(RUN)/python -m benchmarks.nasbench201 --table '$(TABLE)' $(if $(DATA),--data '$(DATA)') $(ARGS)

nas-grid: $(INSTALLED) ## how well proxies rank networks on MNIST, and at what cost: three hours on a CPU, reference included
	$(RUN)/python -m benchmarks.nas_reference $(if $(DATA),--data '$(DATA)')
	$(call fit,nas_mnist)
	$(call fit,nas_mnist_ranked)
	$(RUN)/python -m benchmarks.nas $(if $(DATA),--data '$(DATA)')

nas-transfer: $(INSTALLED) ## which networks are taught well by teachers that met others: an hour on a CPU
	$(RUN)/python -m benchmarks.nas_transfer $(if $(DATA),--data '$(DATA)')

ablation: $(INSTALLED) ## digits with each curriculum, free pixels and real data, five seeds: a table
	$(RUN)/python -m benchmarks.ablation $(ARGS)

agents: $(INSTALLED) ## policies taught in three environments, beside PPO and cloning: two hours on a CPU
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(RUN)/python -m benchmarks.agents $(ARGS)

outer-gradients: $(INSTALLED) ## evolution strategies beside the exact meta-gradient: an hour on a CPU
	$(RUN)/python -m benchmarks.outer_gradients $(ARGS)

synthetic-environment: $(INSTALLED) ## policies taught in a learned environment: a quarter of an hour on a CPU
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[rl]'
	$(RUN)/python -m benchmarks.synthetic_environment $(ARGS)

metasmoothness: $(INSTALLED) ## which settings make meta-gradients hold for finite changes: seven minutes on a CPU
	$(RUN)/python -m benchmarks.metasmoothness $(ARGS)

autoencoders: $(INSTALLED) ## autoencoders taught without labels, beside real images
	$(RUN)/python -m benchmarks.autoencoders $(if $(DATA),--data '$(DATA)') $(ARGS)

representations: $(INSTALLED) ## networks taught a self-supervised representation, beside real images
	$(RUN)/python -m benchmarks.representations $(if $(DATA),--data '$(DATA)') $(ARGS)

##@ Development
.PHONY: test test-fast test-next lint format docs bench clean help
# Workers of one thread: the tests' networks are too small for more. Three on two cores, for some tests wait, for a
# server or a signal. A file's tests stay in one worker, where they share what they prepare.
test: $(INSTALLED) ## the test suite; GTN_TEST_LONG=1 make test: also what takes half a minute a test
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(INSTALLED) ## the tests that take less than ten seconds each
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not long' $(ARGS)

# Requirements without their upper bounds; releases that are excluded by name stay excluded.
test-next: ## the test suite with the newest releases of all dependencies, in a separate environment
	$(PYTHON) -m venv $(NEXT)
	@mkdir -p build
	sed -nE 's/^    ([A-Za-z].*>=.*),<[0-9.]+$$/\1/p' setup.cfg > build/next.txt
	$(NEXT)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -r build/next.txt
	$(NEXT)/bin/python -m pip install --quiet --no-deps -e .
	OMP_NUM_THREADS=1 $(NEXT)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED) ## formatting, lint, spelling and types
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/codespell benchmarks callbacks docs gtn_lightning recipes tests zoo *.md .ci Makefile pyproject.toml setup.cfg
	$(lay_out)
	$(RUN)/mypy

format: $(INSTALLED) ## rewrite the code as `make lint` wants it
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

docs: $(INSTALLED_FOR_DOCS) ## the documentation site, in build/site; NOTEBOOKS=false: its notebooks are not run
	$(lay_out)
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 NOTEBOOKS=$(NOTEBOOKS) $(RUN)/python -m mkdocs build --strict

$(INSTALLED_FOR_DOCS): $(INSTALLED)
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

bench: $(INSTALLED) ## time and memory of the inner loop beside its peers, small learners, the shares of a meta-step
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(RUN)/python -m benchmarks.engine $(ARGS)
	$(RUN)/python -m benchmarks.shares $(if $(DATA),--recipes digits mnist_cpu --mnist '$(DATA)')
	$(RUN)/python -m benchmarks.scale
	$(RUN)/python -m benchmarks.small_learners

clean: ## remove the virtual environments, caches and builds; runs/ stays
	@# A VENV that holds no virtual environment is somebody's folder.
	for folder in '$(VENV)' '$(NEXT)'; do if [ -e "$$folder/pyvenv.cfg" ]; then rm -rf "$$folder"; fi; done
	rm -rf build dist gtn_lightning.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks callbacks gtn_lightning recipes tests zoo -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PYTHON, VENV, ARGS="more arguments", DATA=path/to/local/dataset\n'
