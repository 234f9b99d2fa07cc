# Two commands: `make demo` and `make test`. Each sets up what it needs, once.

SHELL := /bin/bash
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Horovod's launcher and its build import TensorFlow, which complains where there is no GPU.
export TF_CPP_MIN_LOG_LEVEL ?= $(if $(wildcard /dev/nvidiactl),1,3)

# cpu or gpu: which TensorFlow and which Horovod are set up. `make DEVICE=cpu setup` overrides it.
ifndef DEVICE
DEVICE := $(shell bash tools/setup.sh device)
endif
READY := $(VENV)/.ready-$(DEVICE)

NP ?= 2

.PHONY: help setup demo test check test-extras test-backends test-launch test-gpu-build test-slurm bench-peers audit clean

help:
	@echo "make demo           train two workers on the embedded digits, in phases"
	@echo "make test           style, types and tests"
	@echo "make setup          only the set-up: .venv, requirements, Horovod; DEVICE=cpu or gpu overrides what it finds"
	@echo "make test-extras    test exports and trackers, in environments of their own"
	@echo "make test-backends  load the saved model under JAX, in an environment of its own"
	@echo "make test-launch    launch on a stand-in for SageMaker, with its SDK, likewise"
	@echo "make test-gpu-build set up for a GPU in a fresh folder, and train there on the CPU (takes long)"
	@echo "make test-slurm     requeue and resume a job under Slurm, on this machine (root, minutes)"
	@echo "make bench-peers    set up the input pipelines that ours is compared with"
	@echo "make audit          look the installed packages up in PyPI's list of vulnerabilities"
	@echo "make clean          remove what the set-up made"

setup: $(READY)
	@# pip puts Horovod's own command there; this one is guarded (docs/security.md). An image may be
	@# set up before the project is copied into it; its launch script calls the launcher by module.
	@[ ! -d launch ] || grep -qs 'launch.install' $(VENV)/bin/horovodrun || python -m launch.install

$(READY): requirements.txt $(if $(filter gpu,$(DEVICE)),requirements-cuda.txt)
	@bash tools/setup.sh "$(DEVICE)"

demo: setup
	horovodrun -np $(NP) python recipe.py --recipe demo

check: setup
	ruff check .
	ruff format --check .
	mypy

# Environments for tests, which see what is installed in .venv: as in an image for SageMaker.
OVERLAYS := $(foreach name,sagemaker export tracking,.venv-$(name)/.ready)
$(OVERLAYS): .venv-%/.ready: requirements-%.txt | setup
	@echo "Setting up .venv-$*, for the tests that need $<"
	@python -m venv --clear --without-pip .venv-$*
	@python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@.venv-$*/bin/python -m pip install --quiet --requirement $< \
	  || { echo "make: without $<, its tests are skipped$(if $(filter sagemaker,$*),; do Python's headers lack (python3.11-dev or python3.12-dev)?)" >&2; exit 1; }
	@touch $@

test: setup check
	@-$(MAKE) --no-print-directory .venv-sagemaker/.ready
	@# Most of a run's test is waiting for processes to start: two at a time, a file each.
	python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What needs optional packages. `make test` skips it, so that it takes less than ten minutes.
test-extras: setup .venv-export/.ready .venv-tracking/.ready
	python -m pytest --numprocesses 2 --dist loadfile tests/deploy tests/tracking tests/notebooks

.venv-backends/.ready: requirements-backends.txt
	python -m venv .venv-backends
	.venv-backends/bin/pip install --quiet --requirement $<
	@touch $@

test-backends: setup .venv-backends/.ready
	python -m pytest tests/backends

.venv-launch/.ready: docs/sagemaker/requirements.txt
	python -m venv .venv-launch
	.venv-launch/bin/pip install --quiet --requirement $<
	@touch $@

test-launch: setup .venv-launch/.ready
	python -m pytest tests/docs

# By hand: it downloads 2 GB and compiles Horovod.
test-gpu-build: setup
	bash tools/test_gpu_build.sh

# Minutes, and Slurm's daemons. What they and the job say goes into a record.
SLURM_RECORD := $(CURDIR)/docs/records/$(shell date +%F)-slurm

test-slurm: setup
	mkdir -p $(SLURM_RECORD)
	SLURM_RECORD=$(SLURM_RECORD) python -m pytest tests/slurm

.venv-peers/.ready: requirements-peers.txt
	python -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --requirement $<
	@# FFCV is compiled; where it cannot be, the benchmark's table says that it is missing.
	@.venv-peers/bin/pip install --quiet ffcv==1.0.2 > .venv-peers/ffcv.log 2>&1 \
	  || echo "make: FFCV did not compile (it wants pkg-config, libturbojpeg0-dev and libopencv-dev): .venv-peers/ffcv.log"
	@touch $@

bench-peers: setup .venv-peers/.ready

.venv-audit/.ready:
	python -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit==2.10.1
	@touch $@

audit: setup .venv-audit/.ready
	.venv-audit/bin/pip-audit --strict --progress-spinner off \
	  --path "$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf $(VENV) .venv-backends .venv-sagemaker .venv-export .venv-tracking .venv-launch .venv-peers .venv-audit
