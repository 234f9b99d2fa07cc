"""What all tests share."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core import environment

os.environ.update(environment.settings())
# How long a worker waits for another one to start. The default of 30 s is too short on a
# busy machine.
os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "600")

import filelock
import pytest
from hypothesis import HealthCheck, settings

from tests.waiting import HANG_SECONDS

# The time of an example says nothing about the code: the machine may be busy.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Whole runs come first: with two at a time, no long one should be the last."""
    long = [ROOT / "tests", ROOT / "tests" / "workers", ROOT / "tests" / "notebooks"]
    items.sort(key=lambda item: item.path.parent not in long)


@pytest.fixture(autouse=True)
def no_older_kernels_for_later_tests():
    """A narrow model asks oneDNN for its older kernels, which half precision cannot use."""
    before = os.environ.get("ONEDNN_MAX_CPU_ISA")
    yield
    os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    if before is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = before


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def run_process():
    """Runs Python in the project's folder; several workers under our launcher or Horovod's."""

    def run(*arguments, workers=1, horovodrun=False, timeout=HANG_SECONDS, cwd=ROOT, **environment):
        command = [sys.executable, *map(str, arguments)]
        if workers > 1:
            own = [sys.executable, "-m", "launch.horovodrun"]
            theirs = [sys.executable, "-m", "horovod.runner.launch"]
            launcher = theirs if horovodrun else own
            command = [*launcher, "-np", str(workers), "--gloo", *command]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Runs `recipe.py` in this process, for a command that starts no workers; as `run_process`.

    The start of a Python process takes longer than such a command.
    """
    import recipe
    from launch.supervisor import exit_status

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["recipe.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            status = exit_status(recipe.main)
        except SystemExit as ended:  # click's, at its end and at a mistake in the options
            status = ended.code
        return subprocess.CompletedProcess(sys.argv, status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory, run_process):
    """The demo's records, built once for all processes of a session: by two that begin at once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root, built = folder / "digits", folder / "digits.built"
    code = f"from datasets.build.digits import prepare_digits; prepare_digits({str(root)!r})"
    with filelock.FileLock(folder / "digits.lock"):
        if not built.exists():
            with ThreadPoolExecutor() as threads:
                both = [*threads.map(lambda _: run_process("-c", code), range(2))]
            assert [ran.returncode for ran in both] == [0, 0], both
            built.touch()
    return root
