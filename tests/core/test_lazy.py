"""The names that `callbacks`, `optimizers` and `models` export."""

import importlib

import pytest

ROOMS = ("callbacks", "optimizers", "models")

IMPORT = """
import sys
import callbacks, models, optimizers
heavy = {"keras", "tensorflow", "horovod", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "PhaseScheduler" in dir(callbacks)
from callbacks import PhaseScheduler
from models import build_model
from optimizers import DistributedOptimizer
assert PhaseScheduler.__module__ == "callbacks.phase_scheduler"
assert "keras" in sys.modules
assert "callbacks.wall_clock" not in sys.modules
"""


def test_nothing_heavy_is_loaded_before_a_name_is_asked_for(run_process):
    ran = run_process("-c", IMPORT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_is_there(room):
    package = importlib.import_module(room)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert dir(package) == sorted(package.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_type_checkers_see_the_same_names(room, root):
    text = (root / room / "__init__.py").read_text()
    package = importlib.import_module(room)
    for name in package.__all__:
        module = getattr(package, name).__module__
        assert f"    from {module} import {name} as {name}\n" in text


@pytest.mark.parametrize("room", ROOMS)
def test_another_name_is_refused(room):
    with pytest.raises(AttributeError, match=f"module '{room}' has no attribute 'Nonsense'"):
        importlib.import_module(room).Nonsense  # noqa: B018
