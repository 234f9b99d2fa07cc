# Two commands: `make demo` and `make test`. Each sets up what it needs, once.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Horovod's launcher and its build import TensorFlow, which complains where there is no GPU.
export TF_CPP_MIN_LOG_LEVEL ?= $(if $(wildcard /dev/nvidiactl),1,3)

# How Horovod is built. `HOROVOD_GPU_OPERATIONS=NCCL make setup` on a GPU host.
export HOROVOD_WITH_TENSORFLOW := 1
export HOROVOD_WITHOUT_PYTORCH := 1
export HOROVOD_WITHOUT_MXNET := 1
export HOROVOD_WITH_GLOO := 1
export HOROVOD_WITHOUT_MPI := 1
READY := $(VENV)/.ready-$(or $(HOROVOD_GPU_OPERATIONS),CPU)

NP ?= 2

.PHONY: help setup demo test check test-extras test-backends test-launch bench-peers audit clean

help:
	@echo "make demo           train two workers on the embedded digits, in phases"
	@echo "make test           style, types and tests"
	@echo "make setup          only the set-up: .venv, requirements, Horovod"
	@echo "make test-extras    test exports and trackers, in environments of their own"
	@echo "make test-backends  load the saved model under JAX, in an environment of its own"
	@echo "make test-launch    launch on a stand-in for SageMaker, with its SDK, likewise"
	@echo "make bench-peers    set up the input pipelines that ours is compared with"
	@echo "make audit          look the installed packages up in PyPI's list of vulnerabilities"
	@echo "make clean          remove what the set-up made"

setup: $(READY)

$(READY): requirements.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "make: Python 3.11 is needed, found $(if $(PYTHON),$$("$(PYTHON)" -V 2>&1),none); install python3.11 or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "make: Python has no venv module; install python3.11-venv" >&2; exit 1; }
	@command -v g++ >/dev/null \
	  || { echo "make: Horovod is compiled and needs a C++ compiler; install g++" >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes about five minutes"
	@"$(PYTHON)" -m venv $(VENV)
	@pip install --quiet --upgrade pip
	@echo "  the requirements but Horovod"
	@grep -v '^horovod' requirements.txt > $(VENV)/requirements-first.txt
	@pip install --quiet --requirement $(VENV)/requirements-first.txt
	@echo "  Horovod, compiled against the TensorFlow that is now there"
	@# No cache: it may hold a Horovod that was compiled against another TensorFlow.
	@MAKEFLAGS="-j$$(nproc)" pip install --quiet --no-build-isolation --no-cache-dir \
	  $(if $(wildcard $(VENV)/.ready-*),--force-reinstall --no-deps) \
	  "$$(grep '^horovod' requirements.txt)" > $(VENV)/horovod.log 2>&1 \
	  || { tail -n 30 $(VENV)/horovod.log >&2; echo "make: Horovod did not compile; the whole log is in $(VENV)/horovod.log" >&2; exit 1; }
	@pip check
	@echo "  the JPEG decoder of the input pipelines, compiled for this machine"
	@python -m datasets.input.fused_jpeg 2> $(VENV)/fused_jpeg.log || tail -n 1 $(VENV)/fused_jpeg.log >&2
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: setup
	python -m launch.horovodrun -np $(NP) --gloo python recipe.py --recipe demo

check: setup
	ruff check .
	ruff format --check .
	mypy

# Environments for tests, which see what is installed in .venv: as in an image for SageMaker.
OVERLAYS := $(foreach name,sagemaker export tracking,.venv-$(name)/.ready)
$(OVERLAYS): .venv-%/.ready: requirements-%.txt | setup
	@echo "Setting up .venv-$*, for the tests that need $<"
	@"$(PYTHON)" -m venv --clear --without-pip .venv-$*
	@python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@.venv-$*/bin/python -m pip install --quiet --requirement $< \
	  || { echo "make: without $<, its tests are skipped$(if $(filter sagemaker,$*),; does python3.11-dev lack?)" >&2; exit 1; }
	@touch $@

test: setup check
	@-$(MAKE) --no-print-directory .venv-sagemaker/.ready
	@# Most of a run's test is waiting for processes to start: two at a time, a file each.
	python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# What needs optional packages. `make test` skips it, so that it takes less than ten minutes.
test-extras: setup .venv-export/.ready .venv-tracking/.ready
	python -m pytest --numprocesses 2 --dist loadfile tests/deploy tests/tracking tests/notebooks

.venv-backends/.ready: requirements-backends.txt
	"$(PYTHON)" -m venv .venv-backends
	.venv-backends/bin/pip install --quiet --requirement $<
	@touch $@

test-backends: setup .venv-backends/.ready
	python -m pytest tests/backends

.venv-launch/.ready: docs/sagemaker/requirements.txt
	"$(PYTHON)" -m venv .venv-launch
	.venv-launch/bin/pip install --quiet --requirement $<
	@touch $@

test-launch: setup .venv-launch/.ready
	python -m pytest tests/docs

.venv-peers/.ready: requirements-peers.txt
	"$(PYTHON)" -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --requirement $<
	@# FFCV is compiled; where it cannot be, the benchmark's table says that it is missing.
	@.venv-peers/bin/pip install --quiet ffcv==1.0.2 > .venv-peers/ffcv.log 2>&1 \
	  || echo "make: FFCV did not compile (it wants pkg-config, libturbojpeg0-dev and libopencv-dev): .venv-peers/ffcv.log"
	@touch $@

bench-peers: setup .venv-peers/.ready

.venv-audit/.ready:
	"$(PYTHON)" -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit==2.10.1
	@touch $@

audit: setup .venv-audit/.ready
	.venv-audit/bin/pip-audit --strict --progress-spinner off \
	  --path "$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf $(VENV) .venv-backends .venv-sagemaker .venv-export .venv-tracking .venv-launch .venv-peers .venv-audit
