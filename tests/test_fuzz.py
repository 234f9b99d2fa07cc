"""Mutated recipes, command lines, records and checkpoints: success or a clear error.

    python -m tests.test_fuzz 2000    # 2,000 cases, each with a seed, and a table of outcomes

Whatever is not a `UserError`, a `DataError` or click's own refusal counts as a failure.
"""

import collections
import io
import random
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

import click
import pytest
import yaml

from core.errors import DataError, UserError
from datasets.records.examples import make_example
from datasets.records.frames import count_records, frame, read_frames
from tests.waiting import HANG_SECONDS
from training.recipes import PRESETS, load_recipe

CLEAR = (UserError, DataError, click.ClickException, click.exceptions.Exit)
SECONDS = 10  # of processor time, so that other work on the machine does not count
WORDS = [
    b"!!python/object/apply:os.system ['true']",
    b"&a [*a, *a]",
    b"1e999",
    b"-1",
    b"nan",
    b"../../x",
    b"\0",
    b"\xff\xfe",
    b"[" * 300,
    b"{",
    b"'",
    b"0x",
    b"null",
    b"9" * 5000,
    b"__import__('os')",
    b"2024-01-01",
    b": ",
    b"\n",
    b"1:2:3",
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with one to four bytes flipped, cut, doubled or replaced by a word."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at : at + draw.randint(1, 40)]
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.randint(1, 80)]
        elif kind == 3:
            changed[at : at + draw.randint(0, 6)] = draw.choice(WORDS)
        elif draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def recipes() -> list[tuple[str, bytes]]:
    """The ending of a file's name and a good recipe, in each format that is read."""
    import json

    data = yaml.safe_load((PRESETS / "demo.yaml").read_text())
    strategy = data["training_strategy"]
    return [
        *((".yaml", path.read_bytes()) for path in sorted(PRESETS.glob("*.yaml"))),
        (".json", json.dumps(data).encode()),
        (".py", f"training_strategy = {strategy!r}\n".encode()),
    ]


def fuzz_recipe(folder: Path, draw: random.Random) -> None:
    ending, good = draw.choice(recipes())
    path = folder / f"recipe{ending}"
    path.write_bytes(mutated(good, draw))
    recipe = load_recipe(path)
    recipe.schedule(draw.choice([1, 2, 8]))


def fuzz_command(folder: Path, draw: random.Random) -> None:
    import recipe

    good = ["plan", "--recipe", "demo", "--workers", "2", "--at", "0,1", "--json", "--price", "1"]
    words = [*good, "--data_dir", "..", "--throughput", "\0", "-1", "é", "9" * 30, "nope", ""]
    line = [draw.choice(words) if draw.random() < 0.3 else word for word in good]
    line = ["plan", *line[1 : draw.randint(1, len(line))]]
    with open("/dev/null", "w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            recipe.main.main(line, prog_name="recipe.py", standalone_mode=False)
        finally:
            sys.stdout = kept


RECORDS = b"".join(
    frame(make_example(b"\xff\xd8" + bytes(90), height=1, width=1, label=1, synset="a"))
    for _ in range(4)
)


def fuzz_records(folder: Path, draw: random.Random) -> None:
    """Reads records as the counter, the verifier and a run do, without TensorFlow."""
    from datasets.input.faults import Faults, damage, fit_for_tensorflow

    path = folder / "train-00000-of-00001"
    path.write_bytes(mutated(RECORDS, draw))
    fit_for_tensorflow(str(path))
    faults, at = Faults(100, retries=()), 0
    while found := faults._patiently(bytes(path), lambda name, at=at: faults._read(name, at)):
        at, records = found
        if not records:
            break
        assert all(damage(record) for record in records)  # zeros are no JPEG
    for read in (count_records, lambda p: list(read_frames(p))):
        read(path)


def good_checkpoint() -> bytes:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.keras"
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(path)
        return path.read_bytes()


def fuzz_checkpoint(folder: Path, draw: random.Random, good: list[bytes] = []) -> None:  # noqa: B006
    import keras

    from training import model

    if not good:
        good.append(good_checkpoint())
    path = folder / "a.keras"
    data = good[0]
    if draw.random() < 0.5:  # inside the archive, under right checksums
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        chosen = draw.choice(sorted(parts))
        parts[chosen] = mutated(parts[chosen], draw)
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)
    else:
        path.write_bytes(mutated(data, draw))
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.load_checkpoint(net, path)


KINDS = {f.__name__: f for f in (fuzz_recipe, fuzz_command, fuzz_records, fuzz_checkpoint)}


def stop(signum, frame):
    raise TimeoutError("no answer")


def one_case(kind: str, seed: int) -> str:
    """The name of the outcome of one case; raises what must not happen."""
    folder = Path(tempfile.mkdtemp())
    before: dict[Path, bytes] = {}
    import keras  # noqa: F401  # its import takes seconds that are not the case's

    import datasets.input.faults  # noqa: F401

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(int(HANG_SECONDS))  # if it waits without using the processor
    try:
        KINDS[kind](folder, random.Random(f"{kind} {seed}"))
        outcome = "success"
    except CLEAR as error:
        outcome = type(error).__name__
        if len(str(error)) > 3000:
            raise AssertionError(f"not one or two lines: {str(error)[:200]}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        before.update({path: path.read_bytes() for path in folder.iterdir()})
        shutil.rmtree(folder)
    assert len(before) <= 1, f"left behind: {sorted(before)}"
    return outcome


@pytest.mark.parametrize(
    ("kind", "count"),
    [("fuzz_recipe", 150), ("fuzz_command", 60), ("fuzz_records", 200), ("fuzz_checkpoint", 40)],
)
def test_a_mutated_input_gives_success_or_a_clear_error(kind, count):
    found = collections.Counter(one_case(kind, seed) for seed in range(count))
    assert sum(found.values()) == count
    assert len(found) > 1 or kind == "fuzz_command"


if __name__ == "__main__":
    total = collections.Counter()
    for number in range(int(sys.argv[1])):
        name = list(KINDS)[number % len(KINDS)]
        try:
            total[name, one_case(name, number)] += 1
        except BaseException as error:
            total[name, "FAILED"] += 1
            print(f"{name} {number}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    for (name, outcome), count in sorted(total.items()):
        print(f"{name:20} {outcome:20} {count}")
