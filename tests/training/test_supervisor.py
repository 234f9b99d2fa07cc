"""What is said where Horovod broke off and no worker has ended of itself."""

import sys

from training import supervisor


def left_by_horovod() -> int:
    supervisor.board.tell(None, "the command")
    supervisor.board.note_reason("two requests of one name")
    return supervisor.OTHER_ENDED


def test_the_first_worker_tells_why_and_the_way_on(run_process):
    ran = run_process(__file__, workers=2)
    assert ran.returncode != 0
    assert ran.stderr.count("recipe.py: error:") == 1
    assert (
        "recipe.py: error: worker 0 was left by Horovod: two requests of one name; go on with\n"
    ) in ran.stderr
    assert "  the command\n" in ran.stderr


def test_alone_it_ends_with_a_failure(run_process):
    ran = run_process(__file__)
    assert ran.returncode == 1


if __name__ == "__main__":
    sys.exit(supervisor.supervise(left_by_horovod))
