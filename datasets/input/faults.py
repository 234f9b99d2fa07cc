"""Records that are damaged, and files that go away, in the middle of a run.

A record whose checksum is wrong is skipped; TensorFlow's own reader would lose the rest of
the file. A record that does not parse or decode is replaced by its neighbour in the batch, so
that all others keep their places. TensorFlow does the work on good data: Python runs at the end
of a file, and where a batch failed.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from core.errors import DataError
from datasets.records import frames
from datasets.records.examples import parse_example
from datasets.records.schema import CLASSIC, RecordKeys

# Seconds to wait before each further try at a file that cannot be read.
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
AT_ONCE = 32  # records that go through the counting of bytes together


class Faults:
    """What one worker found damaged, with a maximum number of different bad records."""

    def __init__(self, limit: int, retries: Sequence[float] = RETRIES):
        self.limit = limit
        self.problem: str | None = None  # why the run has to stop
        self._retries = retries
        self._known: set[str] = set()
        self._new: list[str] = []
        self._fit: set[bytes] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of different bad records so far."""
        return len(self._known)

    def note(self, name: str, reason: str) -> None:
        """Counts and names a bad record, the first time only."""
        with self._lock:
            if name in self._known:
                return
            self._known.add(name)
            self._new.append(f"{name}: {reason}")
        if self.count > self.limit:
            many = f"{self.count} bad record(s), more than max_bad_records allows ({self.limit})"
            self.problem = self.problem or f"{many}; the last is {name}: {reason}"

    def news(self) -> list[str]:
        """The records noted since the last call, a line each."""
        with self._lock:
            found, self._new = self._new, []
        return found

    def records(self, path: Any) -> tf.data.Dataset:
        """The good records of the file `path` (scalar string), in their order."""
        # Where errors are ignored, TensorFlow would try forever to open a file that is gone.
        there = tf.ensure_shape(tf.numpy_function(self._there, [path], tf.string), [None])
        read = tf.data.TFRecordDataset(there).ignore_errors().batch(AT_ONCE)
        rest = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string)).repeat()

        def next_batch(position: Any, batch: Any) -> Any:
            def count() -> tuple[Any, Any]:
                lengths = tf.cast(tf.strings.length(batch), tf.int64)
                return position + tf.reduce_sum(lengths + frames.HEADER + frames.TRAILER), batch

            def ask() -> tuple[Any, Any]:  # Python, which reads until the file ends
                found = tf.numpy_function(self._after, [path, position], [tf.int64, tf.string])
                return tf.ensure_shape(found[0], []), tf.ensure_shape(found[1], [None])

            return tf.cond(tf.size(batch) > 0, count, ask)

        batches = read.concatenate(rest).scan(np.int64(0), next_batch)
        return batches.take_while(lambda batch: tf.size(batch) > 0).unbatch()

    def _there(self, path: bytes) -> np.ndarray:
        """The path, as a list; empty where TensorFlow's reader must not see the file."""
        fit = path in self._fit or self._patiently(path, fit_for_tensorflow)
        if fit:
            self._fit.add(path)  # lengths are checked once a run
        return np.array([path] if fit else [], object)

    def _after(self, path: bytes, position: Any) -> tuple[np.int64, np.ndarray]:
        """The next good records from a byte of a file on; none at its end."""
        at, found = self._patiently(path, lambda name: self._read(name, int(position))) or (0, [])
        return np.int64(at), np.array(found, object)

    def _patiently(self, path: bytes, action: Callable[[str], Any]) -> Any:
        """What `action` returns for the file; None where it fails at each try.

        Never raises: a pipeline that ignores errors would ask forever.
        """
        name = os.fsdecode(path)
        for pause in (*self._retries, 0):
            if self.problem:
                return None
            try:
                return action(name)
            except (OSError, DataError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                time.sleep(pause)
        since = f"cannot be read since {sum(self._retries):g} s: {reason}"
        problem = f"record file '{name}' {since}; bring it back and --resume"
        self.problem = self.problem or problem
        return None

    def _read(self, path: str, at: int) -> tuple[int, list[bytes]]:
        """Up to `AT_ONCE` good records from a byte of a file on, and the byte behind them."""
        found: list[bytes] = []
        with open(path, "rb") as file:
            if at > (size := os.fstat(file.fileno()).st_size):
                raise DataError(f"it has become shorter, {size} bytes")
            while at < os.fstat(file.fileno()).st_size and len(found) < AT_ONCE:
                try:
                    for begin, end in frames.walk(file, path, start=at):
                        data, intact = frames.read_data(file, begin, end)
                        if intact:
                            found.append(data)
                        else:
                            place = f"{name_in(data)} at byte {at} of '{path}'".lstrip()
                            self.note(place, "its checksum is wrong")
                        at = end + frames.TRAILER
                        if len(found) == AT_ONCE:
                            break
                except frames.BrokenFraming:
                    self.note(f"at byte {at} of '{path}'", "its length is damaged")
                    at = frames.find_header(file, at + 1)
        return at, found

    def guarded(
        self, prepare: Callable[..., Any], files: Sequence[str], keys: RecordKeys
    ) -> Callable[..., Any]:
        """`prepare(index, records)` that, where it fails, repairs the records and tries again.

        A label outside the classes is no damage: the second try raises the error. If a batch
        has no good record, one is taken from the first of the files.
        """
        repair = functools.partial(self._repair, files=files, keys=keys)

        def second_try(index: Any, records: Any) -> Any:
            good = tf.numpy_function(repair, [records], tf.string)
            return prepare(index, tf.ensure_shape(good, records.shape))

        def first_or_second_try(index: Any, records: Any) -> Any:
            given = tf.data.Dataset.from_tensors((index, records))
            tried = given.map(prepare).ignore_errors().concatenate(given.map(second_try))
            return tried.take(1).get_single_element()

        return first_or_second_try

    def _repair(self, records: Any, files: Sequence[str], keys: RecordKeys) -> np.ndarray:
        """The batch with each bad record replaced by the next good one in it."""
        given = np.array(records, object)
        reasons = {i: reason for i, r in enumerate(given) if (reason := damage(r, keys))}
        for i, reason in reasons.items():
            self.note(name_in(given[i], keys) or "without a name", reason)
        if self.problem:
            raise DataError(self.problem)
        good = [i for i in range(len(given)) if i not in reasons]
        if not good:
            others = (record for path in files[:4] for record in self._read(path, 0)[1])
            spare = next((record for record in others if not damage(record, keys)), None)
            if spare is None:
                start = f"the start of '{files[0]}'"
                raise DataError(f"no good record at {start}; are its images JPEG?")
            given[:] = [spare] * len(given)
            return given
        for i in reasons:
            given[i] = given[min(good, key=lambda j: (j - i) % len(given))]
        return given


def fit_for_tensorflow(path: str) -> bool:
    """Whether no record claims, under a right checksum, to be longer than the file.

    TensorFlow 2.18's reader allocates what a record claims; for 2 ** 62 bytes it crashes.
    """
    try:
        frames.count_records(path)
    except frames.BrokenFraming as error:
        return not error.cut_short
    return True


def damage(record: bytes, keys: RecordKeys = CLASSIC) -> str | None:
    """Why a record cannot be trained on; None where it can."""
    try:
        example = parse_example(record)
    except DataError:
        example = {}
    if not (example.get(keys.image) and example.get(keys.label)):
        return "no tf.Example with an image and a label"
    try:
        tf.io.decode_jpeg(example[keys.image][0], channels=3)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
        return "does not decode as JPEG"
    return None


def name_in(record: bytes, keys: RecordKeys = CLASSIC) -> str:
    """The record's file name in quotes; empty if it has none or cannot be parsed."""
    try:
        return keys.filename_in(parse_example(record))
    except DataError:
        return ""
