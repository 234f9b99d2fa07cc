#!/bin/bash
# Makes the environment .venv; `make setup` calls it.
#
#   tools/setup.sh device     which device to set up for: cpu or gpu
#   tools/setup.sh cpu|gpu    Python, the requirements, and Horovod, compiled for that device
#
# PYTHON names a Python 3.11 or 3.12; otherwise the first that is found is taken.
#
# For a GPU, nothing but NVIDIA's driver has to be on the machine, and not even that to build:
# CUDA and NCCL come with TensorFlow's wheels. Their wheels of CUDA 12 hold no nvcc, so Horovod
# is compiled by CUDA 12 where that is installed, and otherwise by the wheels of CUDA 13 in
# requirements-cuda.txt. In both cases it uses TensorFlow's CUDA runtime.
set -euo pipefail

VENV=.venv
SUPPORTED="^3\.1[12]$"
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
  echo "make: $1" >&2
  exit 1
}

# gpu where there is NVIDIA's driver, or where .venv was made for one: that trains on a CPU, too.
# nvidia-smi also makes the driver's device files, which may be missing before the first use.
device() {
  if [ -e "${1:-/dev/nvidiactl}" ] || [ -e $VENV/.ready-gpu ] || nvidia-smi -L >/dev/null 2>&1; then
    echo gpu
  else
    echo cpu
  fi
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the Python to use: PYTHON's, the first that can make environments, or one that uv fetches.
find_python() {
  local name version found=none without= names=(python3.11 python3.12 python3)
  local PATH=${PATH//"$PWD/$VENV/bin:"/} # the Python of .venv cannot make it anew
  if [ -n "${PYTHON:-}" ]; then names=("$PYTHON"); fi
  for name in "${names[@]}"; do
    version=$(version_of "$name") || continue
    if [[ ! $version =~ $SUPPORTED ]]; then
      found=$version
    elif "$name" -c 'import venv, ensurepip' 2>/dev/null; then
      command -v "$name"
      return
    else
      without=${without:-$version}
    fi
  done
  if [ -z "${PYTHON:-}" ] && command -v uv >/dev/null; then
    export UV_PYTHON_PREFERENCE=only-managed
    if uv python install --quiet 3.11 >/dev/null 2>&1 && uv python find --system 3.11; then return; fi
    found="$found and 'uv python install 3.11' failed"
  fi
  if [ -n "$without" ]; then
    fail "Python $without has no venv module; install python$without-venv"
  fi
  fail "Python 3.11 or 3.12 is needed, found $found; install python3.11 or python3.12 with its -venv, or uv, or name one: make PYTHON=/path/to/python3.12"
}

# Whether .venv works, and has a Python that is supported and, where PYTHON is named, like that.
is_usable() {
  local version
  version=$(version_of $VENV/bin/python) && [[ $version =~ $SUPPORTED ]] &&
    { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$version" ]; } &&
    $VENV/bin/python -m pip --version >/dev/null 2>&1
}

# Whether a folder holds all of CUDA 12 that compiling needs: a compiler may be there alone.
is_cuda_12() {
  "$1/bin/nvcc" --version 2>/dev/null | grep -q 'release 12\.' &&
    [ -e "$1/include/cuda_runtime.h" ] && [ -e "$1/lib64/libcudart.so" ] && [ -e "$1/lib64/libcudadevrt.a" ]
}

# Prints the folder of an installed CUDA 12; nothing where there is none.
installed_cuda() {
  local home
  if [ -n "${HOROVOD_CUDA_HOME:-}" ]; then
    is_cuda_12 "$HOROVOD_CUDA_HOME" ||
      fail "HOROVOD_CUDA_HOME=$HOROVOD_CUDA_HOME holds no CUDA 12 with nvcc, headers and libcudart; name another folder, or unset it to use wheels"
    echo "$HOROVOD_CUDA_HOME"
    return
  fi
  for home in "${CUDA_HOME:-}" "${1:-/usr/local}"/cuda "${1:-/usr/local}"/cuda-12*; do
    if is_cuda_12 "$home"; then
      echo "$home"
      return
    fi
  done
}

# tensorflow-addons has no wheel for 3.12. Only its Python is used, so that of the wheel for 3.11
# will do; under a tag that says so, `pip check` accepts it.
install_addons() {
  local folder=$VENV/addons
  rm -rf $folder
  pip download --quiet --no-deps --python-version 3.11 --only-binary=:all: --dest $folder \
    "$(grep -o '^tensorflow-addons==[^ ]*' requirements.txt)"
  wheel tags --remove --python-tag py3 --abi-tag none --platform-tag any $folder/*.whl >/dev/null
  pip install --quiet $folder/*.whl
  rm -r $folder
}

# Exports what compiling Horovod with NCCL needs.
prepare_cuda() {
  local site home
  site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  ln -sfn libnccl.so.2 "$site/nvidia/nccl/lib/libnccl.so"
  home=$(installed_cuda)
  rm -rf $VENV/cuda
  if [ -z "$home" ]; then
    echo "  a CUDA compiler, in wheels"
    pip install --quiet --no-deps --target $VENV/cuda --requirement requirements-cuda.txt
    home=$PWD/$VENV/cuda/nvidia/cu13
    ln -sfn lib "$home/lib64"
    ln -sfn libcudart.so.13 "$home/lib/libcudart.so"
    # CUDA 13 knows more; these were tried. A newer GPU compiles the last one's PTX itself.
    export HOROVOD_BUILD_CUDA_CC_LIST=${HOROVOD_BUILD_CUDA_CC_LIST:-75,80,86,89,90}
  fi
  export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_HOME=$site/nvidia/nccl HOROVOD_NCCL_LINK=shared
  # Horovod and CMake also take an nvcc of any version from PATH and from /usr/local/cuda.
  export HOROVOD_CUDA_HOME=$home CUDA_TOOLKIT_ROOT=$home PATH=$home/bin:$PATH
}

compile_horovod() {
  export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
  export HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
  # No cache: it may hold a Horovod for another TensorFlow or device. The same for what is there.
  MAKEFLAGS="-j$(nproc)" pip install --quiet --no-build-isolation --no-cache-dir \
    --force-reinstall --no-deps "$(grep '^horovod' requirements.txt)" >$VENV/horovod.log 2>&1 || {
    tail -n 30 $VENV/horovod.log >&2
    fail "Horovod did not compile; the whole log is in $VENV/horovod.log"
  }
}

# Fails unless Horovod's report of its build has NCCL.
check_nccl() {
  horovodrun --check-build >$VENV/check-build.log 2>&1 || true
  grep -q '\[X\] NCCL' $VENV/check-build.log ||
    fail "Horovod was built without NCCL; see $VENV/check-build.log and $VENV/horovod.log, or set up for the CPU: make setup DEVICE=cpu"
}

make_environment() {
  local device=$1 python version
  case $device in cpu | gpu) ;; *) fail "DEVICE=$device is not known; give cpu or gpu" ;; esac
  command -v g++ >/dev/null || fail "Horovod is compiled and needs a C++ compiler; install g++"
  python=$(is_usable || find_python)
  echo "Setting up $VENV for the $device; the first time takes about five minutes"
  if [ -n "$python" ]; then "$python" -m venv --clear $VENV; fi
  rm -f $VENV/.ready-*
  PATH=$PWD/$VENV/bin:$PATH
  version=$(version_of python)
  pip install --quiet --upgrade pip
  echo "  the requirements but Horovod"
  grep -v '^horovod' requirements.txt >$VENV/requirements-first.txt
  if [ $device = gpu ]; then
    sed -i 's/^tensorflow==/tensorflow[and-cuda]==/' $VENV/requirements-first.txt
  else
    pip list --format freeze | sed -n "s/^\(nvidia-[^=]*\)==.*/\1/p" |
      xargs --no-run-if-empty pip uninstall --quiet --yes
    rm -rf $VENV/cuda
    unset HOROVOD_GPU_OPERATIONS
  fi
  if [ "$version" = 3.12 ]; then sed -i '/^tensorflow-addons/d' $VENV/requirements-first.txt; fi
  pip install --quiet --requirement $VENV/requirements-first.txt
  if [ "$version" = 3.12 ]; then install_addons; fi
  if [ $device = gpu ]; then prepare_cuda; fi
  echo "  Horovod, compiled against the TensorFlow that is now there"
  compile_horovod
  if [ $device = gpu ]; then check_nccl; fi
  pip check
  echo "  the JPEG decoder of the input pipelines, compiled for this machine"
  python -m datasets.input.fused_jpeg 2>$VENV/fused_jpeg.log || tail -n 1 $VENV/fused_jpeg.log >&2
  touch $VENV/.ready-$device
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  cd "$(dirname "$0")/.."
  case ${1:-} in device) device ;; *) make_environment "${1:-}" ;; esac
fi
