"""What a failed cell is about, in a line. Imports no TensorFlow."""

import re
from collections.abc import Sequence

from launch.horovodrun import CHATTER

LONGEST = 240  # characters

# As TensorFlow, XLA, cuDNN, cuBLAS and CUDA say it.
ABOUT_MEMORY = re.compile(
    r"\boom\b|out of memory|out_of_memory|resource_?exhausted|failed to alloc|alloc_failed|"
    r"MemoryError",
    re.IGNORECASE,
)
# Lines that only say that, or where in the graph, something failed.
FRAME = re.compile(r"^(Graph execution error|Detected at node|File \"|Stack trace|\{\{node|$)")
# Before a line of a worker's: the rank, but for rank 0, then the time and place of Horovod's log.
PREFIX = re.compile(r"^(\[(?P<rank>\d+)\] )?\s*(\[\d{4}-\d\d-\d\d[^\]]*\])?\s*")
ENDED = re.compile(r"Process (\d+) exit with status code (\d+)")  # horovodrun's, of the first
TELLING = re.compile(r"error|fail|fatal|abort|exception|killed|signal", re.IGNORECASE)


def is_about_memory(text: str) -> bool:
    """Whether a message says that a device or the host has no memory left."""
    return bool(ABOUT_MEMORY.search(text))


def in_a_line(error: BaseException) -> str:
    """The line of an error that says most: one about memory, or the first that says anything."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if not FRAME.match(line)]
    chosen = next(filter(is_about_memory, told), told[0] if told else "")
    return f"{type(error).__name__}: {chosen}".removesuffix(": ")[:LONGEST]


def last_words(log: str) -> str:
    """The last line of a log that names a fault, or the last one at all.

    Of several workers it is a line of the one that ended first, if that said anything: the others
    only complain that it has gone.
    """
    ended = ENDED.search(log)
    said: list[tuple[str, str]] = []
    for line in log.splitlines():
        head = PREFIX.match(line)
        assert head  # it matches the empty text, too
        if (text := line[head.end() :].strip()) and not CHATTER.match(text):
            said.append((head["rank"] or "0", text))
    own = [text for rank, text in said if ended and rank == ended[1]]
    found = [text for _, text in said]
    words = (_telling(own) or _telling(found) or found or ["they said nothing"])[-1]
    first = f"worker {ended[1]} ended with status {ended[2]}: " if ended else ""
    return (first + words)[:LONGEST]


def _telling(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if TELLING.search(line) or is_about_memory(line)]
