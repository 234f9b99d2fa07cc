"""Makes `horovodrun` of this environment the guarded one: `python -m launch.install`.

`make setup` runs it whenever the command is not the guarded one, as after pip has installed
Horovod again.
"""

import shlex
import sys
import sysconfig
from pathlib import Path

from core import files
from core.environment import PROJECT

# For sh, its first lines start Python, from a folder of any name; for Python they are a string.
# pip's scripts begin in the same way.
SCRIPT = """#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
# Written by `python -m launch.install`, in the place of Horovod's own (docs/security.md).
import os
import sys

PROJECT = {project!r}
if not os.path.exists(os.path.join(PROJECT, "launch", "horovodrun.py")):
    sys.exit(
        f"horovodrun: {{PROJECT}} holds no launch/horovodrun.py; run `make setup` where it is now "
        "(`python -m horovod.runner.launch` is Horovod's own, without guards)"
    )
sys.path.insert(0, PROJECT)

from launch.horovodrun import main

if __name__ == "__main__":
    sys.exit(main())
"""


def install(path: Path, project: Path = PROJECT) -> None:
    """Writes the command to `path`: it runs the launcher of the checkout `project`."""
    python = shlex.quote(sys.executable)
    with files.whole(path) as unfinished:
        unfinished.write_text(SCRIPT.format(python=python, project=str(project)))
        unfinished.chmod(0o755)


if __name__ == "__main__":
    install(Path(sysconfig.get_path("scripts")) / "horovodrun")
