"""`horovodrun` of the environment: the guarded launcher, from any folder."""

import os
import stat
import subprocess

from launch.install import install
from tests.waiting import HANG_SECONDS


def run(command, cwd):
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    given = {"env": variables, "cwd": cwd, "timeout": HANG_SECONDS}
    return subprocess.run(command, **given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_it_is_ours_and_works_in_a_folder_with_a_package_of_that_name(tmp_path):
    """A line without a rank, and the worker's status: Horovod's own has neither."""
    folder = tmp_path / "it's a 'folder'"
    (folder / "launch").mkdir(parents=True)
    (folder / "launch" / "__init__.py").write_text("raise ImportError")
    command = folder / "horovodrun"
    command.write_text("Horovod's own")
    install(command)
    assert stat.S_IMODE(command.stat().st_mode) == 0o755
    ran = run([command, "-np", "1", "sh", "-c", "echo rank $HOROVOD_RANK; exit 3"], folder)
    assert (ran.stdout.decode(), ran.returncode) == ("rank 0\n", 3)


def test_without_its_checkout_it_says_so(tmp_path):
    """It does not fall back on the launcher without guards."""
    install(tmp_path / "horovodrun", tmp_path / "moved")
    ran = run([tmp_path / "horovodrun", "-np", "1", "echo", "ran"], tmp_path)
    assert ran.returncode == 1
    (line,) = ran.stdout.decode().splitlines()
    assert line.startswith(f"horovodrun: {tmp_path}/moved holds no launch/horovodrun.py; run `make")
