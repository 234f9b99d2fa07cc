"""The set-up's choices, in bash, among stand-ins for the programs that it finds or calls."""

import shutil
import subprocess

import pytest

# A Python of a version, with a venv module or without; the set-up asks it for both.
PYTHON = """
case "$2" in
*version_info*) echo {version} ;;
*ensurepip*) exit {status} ;;
*purelib*) echo "$PWD/.venv/site" ;;
esac
"""


def python(version, venv=True):
    return PYTHON.format(version=version, status=0 if venv else 1)


@pytest.fixture
def bash(root, tmp_path):
    """Runs a command behind the functions of setup.sh, in a folder with these programs alone."""

    def run(command, programs=(), folder="bin", path="{bin}", **variables):
        for name, script in dict(programs).items():
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
        (tmp_path / "bin").mkdir(exist_ok=True)
        if not (grep := tmp_path / "bin" / "grep").exists():
            grep.symlink_to(shutil.which("grep"))
        return subprocess.run(
            [shutil.which("bash"), "-c", f"source '{root}/tools/setup.sh'; {command}"],
            cwd=tmp_path,
            env={"PATH": path.format(bin=tmp_path / "bin", here=tmp_path), **variables},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("programs", "found"),
    [
        ({"python3.11": python("3.11"), "python3.12": python("3.12")}, "python3.11"),
        ({"python3.12": python("3.12"), "python3": python("3.13")}, "python3.12"),  # Ubuntu 24.04
        ({"python3.11": python("3.11", venv=False), "python3.12": python("3.12")}, "python3.12"),
        ({"python3.11": "exit 127", "python3.12": python("3.12")}, "python3.12"),  # pyenv's shim
        ({"python3": python("3.12")}, "python3"),
    ],
)
def test_a_python_that_is_there_is_found(bash, tmp_path, programs, found):
    ran = bash("find_python", programs)
    assert (ran.returncode, ran.stdout) == (0, f"{tmp_path}/bin/{found}\n"), ran.stderr


NEEDED = (
    "make: Python 3.11 or 3.12 is needed, found {}; install python3.11 or python3.12 with its "
    "-venv, or uv, or name one: make PYTHON=/path/to/python3.12\n"
)
NO_VENV = "make: Python 3.12 has no venv module; install python3.12-venv\n"


@pytest.mark.parametrize(
    ("programs", "named", "said"),
    [
        ({}, "", NEEDED.format("none")),
        ({"python3": python("3.13")}, "", NEEDED.format("3.13")),
        ({"python3.12": python("3.12", venv=False)}, "", NO_VENV),
        # What is named is not replaced by what is there, nor by uv's.
        (
            {"python3.11": python("3.11"), "other": python("3.10"), "uv": "echo uv's"},
            "other",
            NEEDED.format("3.10"),
        ),
        ({"python3.12": python("3.12", venv=False), "uv": "exit 1"}, "", NO_VENV),
        (
            {"uv": "echo 'error: no network' >&2; exit 1"},
            "",
            NEEDED.format("none and 'uv python install 3.11' failed"),
        ),
    ],
)
def test_where_there_is_none_one_sentence_says_what_to_install(bash, programs, named, said):
    ran = bash("python=$(find_python); echo went on", programs, PYTHON=named)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)


def test_uv_fetches_one(bash):
    uv = """
test "$UV_PYTHON_PREFERENCE" = only-managed || exit 3
echo "$*"
test "$2" != find || echo /its/own
"""
    ran = bash("find_python", {"python3": python("3.13"), "uv": uv})
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == ["python find --system 3.11", "/its/own"]


def test_the_environments_own_python_does_not_make_it(bash, tmp_path):
    inside = {"python3.11": python("3.11")}
    bash("true", inside, folder=".venv/bin")
    path = "{here}/.venv/bin:{bin}"
    ran = bash("find_python", {"python3.12": python("3.12")}, path=path)
    assert ran.stdout == f"{tmp_path}/bin/python3.12\n"


@pytest.mark.parametrize(
    ("inside", "named", "usable"),
    [
        (python("3.11"), "", True),
        (python("3.12"), "", True),
        (python("3.12"), "asked", False),  # 3.11 was asked for
        (python("3.11"), "asked", True),
        (python("3.10"), "", False),
        ("exit 1", "", False),
        (python("3.11") + 'test "$2" != pip', "", False),  # left by a set-up that was interrupted
    ],
)
def test_an_environment_is_kept_where_it_can_be(bash, inside, named, usable):
    bash("true", {"python": inside}, folder=".venv/bin")
    ran = bash("is_usable", {"asked": python("3.11")}, PYTHON=named)
    assert (ran.returncode == 0) == usable


@pytest.mark.parametrize(
    ("programs", "files", "found"),
    [
        ({}, [], "cpu"),
        ({}, ["driver"], "gpu"),
        ({"nvidia-smi": 'test "$1" = -L'}, [], "gpu"),
        ({"nvidia-smi": "exit 9"}, [], "cpu"),  # it could not talk to a driver
        ({}, [".ready-gpu"], "gpu"),
        ({}, [".ready-cpu"], "cpu"),
    ],
)
def test_a_driver_or_a_gpu_build_is_found(bash, tmp_path, programs, files, found):
    (tmp_path / ".venv").mkdir()
    for name in files:
        (tmp_path / ".venv" / name).touch()
    ran = bash("device .venv/driver", programs)
    assert (ran.returncode, ran.stdout) == (0, f"{found}\n")


def cuda(folder, release, headers=True, libraries=True):
    """A stand-in for an installed CUDA."""
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.99'\n")
    nvcc.chmod(0o755)
    files = ["include/cuda_runtime.h"] if headers else []
    files += ["lib64/libcudart.so", "lib64/libcudadevrt.a"] if libraries else []
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({}, ""),
        ({"cuda": ["12.4"]}, "cuda"),
        ({"cuda": ["13.0"]}, ""),
        ({"cuda": ["11.8"]}, ""),
        ({"cuda": ["12.4", False]}, ""),  # a compiler without headers
        ({"cuda": ["12.4", True, False]}, ""),
        ({"cuda": ["13.0"], "cuda-12.4": ["12.4"]}, "cuda-12.4"),
    ],
)
def test_only_a_whole_cuda_12_is_taken(bash, tmp_path, installed, found):
    for name, what in installed.items():
        cuda(tmp_path / name, *what)
    ran = bash(f"installed_cuda '{tmp_path}'")
    assert (ran.returncode, ran.stdout) == (0, f"{tmp_path}/{found}\n" if found else "")


def test_a_cuda_that_was_named_is_taken_or_refused(bash, tmp_path):
    cuda(tmp_path / "mine", "12.1")
    cuda(tmp_path / "newer", "13.0")
    cuda(tmp_path / "cuda", "12.4")
    command = f"home=$(installed_cuda '{tmp_path}'); echo $home"
    assert bash(command, HOROVOD_CUDA_HOME=f"{tmp_path}/mine").stdout == f"{tmp_path}/mine\n"
    ran = bash(command, HOROVOD_CUDA_HOME=f"{tmp_path}/newer")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        f"make: HOROVOD_CUDA_HOME={tmp_path}/newer holds no CUDA 12 with nvcc, headers and "
        "libcudart; name another folder, or unset it to use wheels\n"
    )


# Stand-ins inside .venv. pip writes down its arguments and what Horovod's build is told.
PIP = """
echo "$* [$HOROVOD_GPU_OPERATIONS $HOROVOD_CUDA_HOME]" >>pip.log
case "$*" in
list*) printf '%s\\n' keras==3.15.1 nvidia-nccl-cu12==2.21.5 nvidia-cudnn-cu12==9.3.0.75 ;;
*--target*) mkdir -p .venv/cuda/nvidia/cu13/lib ;;
*--dest*) mkdir -p .venv/addons; touch .venv/addons/tensorflow_addons-cp311.whl ;;
*horovod=*) command -v nvcc; exit ${FAILING:-0} ;;
esac
"""
WHEEL = 'test "$1 $2" = "tags --remove" && mv .venv/addons/*.whl .venv/addons/py3-none-any.whl'


@pytest.fixture
def set_up(bash, root, tmp_path):
    """Makes the environment for a device from stand-ins; what ran, and pip's calls."""
    for name in ("requirements.txt", "requirements-cuda.txt"):
        shutil.copy(root / name, tmp_path)
    (tmp_path / ".venv" / "site" / "nvidia" / "nccl" / "lib").mkdir(parents=True)

    def run(device, version="3.11", nccl="X", cuda=None, **variables):
        inside = {
            "python": python(version),
            "pip": PIP,
            "wheel": WHEEL,
            "horovodrun": f"echo 'Available Tensor Operations:'; echo '    [{nccl}] NCCL'",
            "g++": "",
        }
        bash("true", inside, folder=".venv/bin")
        (tmp_path / "pip.log").write_text("")
        command = f"installed_cuda() {{ echo '{cuda or ''}'; }}; make_environment {device}"
        path = "{here}/.venv/bin:/usr/bin:/bin"
        ran = bash(command, path=path, **variables)
        return ran, (tmp_path / "pip.log").read_text().splitlines()

    return run


def marks(folder):
    return sorted(path.name for path in (folder / ".venv").glob(".ready-*"))


def first_requirements(folder):
    return (folder / ".venv" / "requirements-first.txt").read_text().splitlines()


HOROVOD = "install --quiet --no-build-isolation --no-cache-dir --force-reinstall --no-deps horovod="


def test_one_environment_changes_from_cpu_to_gpu_and_back(set_up, root, tmp_path):
    ran, calls = set_up("cpu", HOROVOD_GPU_OPERATIONS="NCCL")
    assert ran.returncode == 0, ran.stderr
    assert marks(tmp_path) == [".ready-cpu"]
    assert calls[-2].startswith(HOROVOD)
    assert calls[-2].endswith("[ ]")
    pins = (root / "requirements.txt").read_text().splitlines()
    assert first_requirements(tmp_path) == [p for p in pins if not p.startswith("horovod")]

    ran, calls = set_up("gpu")
    assert ran.returncode == 0, ran.stderr
    assert marks(tmp_path) == [".ready-gpu"]
    (tensorflow,) = (p for p in pins if p.startswith("tensorflow=="))
    version = tensorflow.partition("==")[2]
    assert f"tensorflow[and-cuda]=={version}" in first_requirements(tmp_path)
    wheels = tmp_path / ".venv" / "cuda" / "nvidia" / "cu13"
    assert any("--target .venv/cuda --requirement requirements-cuda.txt" in c for c in calls)
    assert calls[-2].startswith(HOROVOD)
    assert calls[-2].endswith(f"[NCCL {wheels}]")
    # The names by which the linker looks for them.
    assert (wheels / "lib64").readlink().name == "lib"
    assert (wheels / "lib" / "libcudart.so").readlink().name == "libcudart.so.13"
    nccl = tmp_path / ".venv" / "site" / "nvidia" / "nccl" / "lib" / "libnccl.so"
    assert nccl.readlink().name == "libnccl.so.2"

    ran, calls = set_up("cpu")
    assert marks(tmp_path) == [".ready-cpu"]
    assert any(c.startswith("uninstall") and "nvidia-nccl-cu12 nvidia-cudnn" in c for c in calls)
    assert not any("keras" in c for c in calls)
    assert not (tmp_path / ".venv" / "cuda").exists()


def test_an_installed_cuda_comes_before_every_other_nvcc(set_up, tmp_path):
    cuda(tmp_path / "cuda-12.4", "12.4")
    ran, calls = set_up("gpu", cuda=tmp_path / "cuda-12.4")
    assert ran.returncode == 0, ran.stderr
    assert not any("--target" in call for call in calls)
    assert calls[-2].endswith(f"[NCCL {tmp_path}/cuda-12.4]")
    log = (tmp_path / ".venv" / "horovod.log").read_text()
    assert log == f"{tmp_path}/cuda-12.4/bin/nvcc\n"


def test_on_3_12_the_addons_for_3_11_are_unpacked(set_up, tmp_path):
    ran, calls = set_up("cpu", version="3.12")
    assert ran.returncode == 0, ran.stderr
    assert not any(line.startswith("tensorflow-addons") for line in first_requirements(tmp_path))
    download, install = (call for call in calls if "addons" in call)
    assert "--python-version 3.11" in download
    assert "tensorflow-addons==0.23.0" in download
    assert "install --quiet .venv/addons/py3-none-any.whl" in install


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nccl": " "}, "make: Horovod was built without NCCL; see .venv/check-build.log"),
        ({"FAILING": "1"}, "make: Horovod did not compile; the whole log is in .venv/horovod.log"),
    ],
)
def test_a_build_that_fails_says_so_and_leaves_no_mark(set_up, tmp_path, options, said):
    assert set_up("cpu")[0].returncode == 0
    ran, _ = set_up("gpu", **options)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(said)
    assert marks(tmp_path) == []


def test_another_device_is_refused(bash):
    ran = bash("make_environment tpu")
    assert (ran.returncode, ran.stderr) == (1, "make: DEVICE=tpu is not known; give cpu or gpu\n")
