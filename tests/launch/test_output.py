"""The workers' output: lines above one bar on a terminal, plain lines in a file."""

import io
import os
import pty
import termios
import tty

import pytest

from launch.output import LastLine, Screen, go_to_one_place


@pytest.mark.parametrize(
    ("text", "lines", "bar"),
    [
        ("a\nb\n", ["a", "b"], ""),
        ("not finished", [], ""),
        ("\r 10%|# |", [], " 10%|# |"),
        ("\r 10%|# |\r 20%|##|", [], " 20%|##|"),
        ("\r 20%|##|\n", [" 20%|##|"], ""),  # a bar at its end
        # A line of `tqdm.write`: it covers the bar, prints and draws it again.
        ("\r 10%|\r     \rline\n\r 11%|", ["line"], " 11%|"),
        ("dos\r\n", ["dos"], ""),
        ("\r 10%|\r", [], " 10%|"),  # the cursor went back, the text stays
        ("spaces  \n", ["spaces  "], ""),
        ("\n\n", ["", ""], ""),
    ],
)
def test_what_a_terminal_would_show_of_a_text(text, lines, bar):
    whole = LastLine()
    assert (whole.feed(text), whole.bar()) == (lines, bar)
    by_letter = LastLine()
    assert [line for letter in text for line in by_letter.feed(letter)] == lines
    assert by_letter.bar() == bar


@pytest.fixture
def terminal():
    """A terminal of 20 columns, and a function that returns what was written to it."""
    ours, its = pty.openpty()
    tty.setraw(its)
    termios.tcsetwinsize(its, (10, 20))
    with open(its, "w", encoding="utf-8") as stream:

        def written():
            stream.write("\0")  # the last of it: what is written comes with a delay
            stream.flush()
            text = b""
            while not text.endswith(b"\0"):
                text += os.read(ours, 1 << 16)
            return text[:-1].decode()

        yield stream, written
    os.close(ours)


def shown(text):
    """The lines that a terminal shows of what a `Screen` wrote."""
    lines = [""]
    for piece in text.replace("\x1b[K", "").split("\r"):
        head, *rest = piece.split("\n")
        lines[-1] = head  # `Screen` erases what is behind it
        lines += rest
    return lines


def test_one_bar_stays_in_the_last_line(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, written = terminal
    screen = Screen(stream)
    assert screen.variables() == {"RECIPE_TERMINAL": "1", "TQDM_NCOLS": "17"}
    screen.write(0, ["begins"], " 10%|", stream)
    screen.write(1, ["", "a warning"], "", stream)
    screen.write(0, [], " 20%|", stream)
    screen.write(0, ["", "Log"], " 30%|" + "#" * 40, stream)
    text = written()
    assert shown(text) == ["begins", "[1] a warning", "", "Log", " 30%|" + "#" * 12]
    assert shown(text.partition(" 20%|")[0])[-2:] == ["[1] a warning", ""]
    screen.write(0, ["the end"], "", stream)
    assert shown(text + written())[-2:] == ["the end", ""]


class Pipe:
    """The reading end of a pipe with these bytes in it, as `multiprocessing` gives it."""

    def __init__(self, data):
        self._source, target = os.pipe()
        os.write(target, data)
        os.close(target)

    def fileno(self):
        return self._source

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._source)


def test_in_a_file_there_are_lines_alone():
    file = io.StringIO()
    screen = Screen(file)
    assert screen.variables() == {"TQDM_DISABLE": "1"}
    screen.pass_on(Pipe(b"\r 1%|\r 2%|\nline\n\nlast"), file, 0)
    screen.pass_on(Pipe(b"\nits own\n"), file, 12)
    assert file.getvalue() == " 2%|\nline\n\nlast\n[12] its own\n"


def test_a_byte_that_is_no_text_costs_no_line():
    file = io.StringIO()
    Screen(file).pass_on(Pipe("a \xe9 ".encode("latin-1") + "é\nb\n".encode()), file, 0)
    assert file.getvalue() == "a \ufffd é\nb\n"


def test_the_bar_of_a_worker_that_was_ended_goes(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, written = terminal
    screen = Screen(stream)
    screen.pass_on(Pipe(b"begins\n\r 40%|####"), stream, 0)
    assert shown(written()) == ["begins", ""]


def test_a_terminal_that_cannot_erase_is_as_a_file(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert Screen(terminal[0]).variables() == {"TQDM_DISABLE": "1"}


def test_whether_two_streams_are_one(terminal, tmp_path):
    stream, _ = terminal
    with open(tmp_path / "log", "w") as log, open(stream.fileno(), "w", closefd=False) as same:
        assert go_to_one_place(stream, same)
        assert not go_to_one_place(stream, log)
