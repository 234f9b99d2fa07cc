"""What all tests share."""

import os
import subprocess
import sys
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
            launcher = [str(Path(sys.executable).parent / "horovodrun")] if horovodrun else own
            command = [*launcher, "-np", str(workers), "--gloo", *command]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(
            command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The demo's records, built once for all processes of a session."""
    from datasets.build.digits import prepare_digits

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with filelock.FileLock(folder / "digits.lock"):
        return prepare_digits(folder / "digits")
