"""What a worker notes for its supervisor, across a fork."""

import os
from pathlib import Path

from core.board import Board

FOLDER = Path(os.fsdecode(b"/runs/not UTF-8 \xff"))


def test_the_supervisor_reads_what_the_worker_noted():
    board = Board()
    worker = os.fork()
    if worker == 0:
        board.beat(7, None)
        board.note(run_dir=str(FOLDER), command="the command", reason="two requests of one name")
        os._exit(0)
    os.waitpid(worker, 0)
    assert (board.last()[0], board.last()[2]) == (7, 0.0)
    assert (Path(board.read("run_dir")), board.read("command")) == (FOLDER, "the command")
    assert board.read("reason") == "two requests of one name"


def test_a_shorter_note_replaces_a_longer_one_and_a_note_that_is_too_long_is_cut():
    board = Board()
    board.note(run_dir=str(FOLDER), command="a long command" * 1000)
    assert 4000 < len(board.read("command")) < 14000
    board.note(run_dir="", command="short")
    assert (board.read("run_dir"), board.read("command")) == ("", "short")
