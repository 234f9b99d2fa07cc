"""Records that are damaged, and files that go away, in the middle of a run.

A record whose checksum is wrong is left out of the stream and reading goes on behind
it; TensorFlow's own reader would lose the rest of the file. A record that does not
parse or decode is replaced by its neighbour in the batch, so that no place moves. The
good path stays TensorFlow's: Python is asked at the end of a file, and where a batch
failed.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from core.errors import DataError
from datasets.records.reader import parse_example
from datasets.records.schema import CLASSIC, RecordKeys
from datasets.records.writer import masked_crc

# Seconds to wait before each further try at a file that cannot be read.
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)
AT_ONCE = 32  # records that go through the counting of bytes together

_HEADER = struct.Struct("<QI")  # length of the data in bytes, its masked checksum
_FRAME = _HEADER.size + 4
_WINDOW = 1 << 20


class Faults:
    """What one worker found damaged, with a limit.

    Args:
        limit: so many different records may be bad.
        retries: seconds to wait before each further try at a file.

    Attributes:
        problem: why the run has to stop; None while it does not.
    """

    def __init__(
        self,
        limit: int,
        retries: Sequence[float] = RETRIES,
    ):
        self.limit = limit
        self.problem: str | None = None
        self._retries = retries
        self._known: set[str] = set()
        self._new: list[str] = []
        self._fit: set[bytes] = set()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Different bad records so far."""
        return len(self._known)

    def note(self, name: str, reason: str) -> None:
        """Counts and names a bad record, the first time that it is met."""
        with self._lock:
            if name in self._known:
                return
            self._known.add(name)
            self._new.append(f"{name}: {reason}")
        if self.count > self.limit:
            self.stop(
                f"{self.count} bad record(s), more than max_bad_records allows ({self.limit}); "
                f"the last is {name}: {reason}"
            )

    def news(self) -> list[str]:
        """What has been noted since the last call, a line a record."""
        with self._lock:
            found, self._new = self._new, []
        return found

    def stop(self, problem: str) -> None:
        self.problem = self.problem or problem

    def records(self, path: Any) -> tf.data.Dataset:
        """The good records of the file `path` (scalar string), in their order."""
        # TensorFlow would try for ever to open a file that is gone, once errors are ignored.
        there = tf.ensure_shape(tf.numpy_function(self._there, [path], tf.string), [None])
        read = tf.data.TFRecordDataset(there).ignore_errors().batch(AT_ONCE)
        # Then Python is asked until it has nothing more.
        rest = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string)).repeat()

        def go_on(position: Any, batch: Any) -> Any:
            def count() -> Any:
                lengths = tf.strings.length(batch)
                return position + tf.reduce_sum(tf.cast(lengths, tf.int64) + _FRAME), batch

            def ask() -> Any:
                found = tf.numpy_function(self._after, [path, position], [tf.int64, tf.string])
                return tf.ensure_shape(found[0], []), tf.ensure_shape(found[1], [None])

            position, batch = tf.cond(tf.size(batch) > 0, count, ask)
            return position, batch

        return (
            read.concatenate(rest)
            .scan(np.int64(0), go_on)
            .take_while(lambda batch: tf.size(batch) > 0)
            .unbatch()
        )

    def _there(self, path: bytes) -> np.ndarray:
        """The path, as a list; empty where TensorFlow's reader must not see the file."""
        fit = path in self._fit or self._patiently(path, fit_for_tensorflow)
        if fit:
            self._fit.add(path)  # lengths are looked at once a run
        return np.array([path] if fit else [], object)

    def _after(self, path: bytes, position: Any) -> tuple[np.int64, np.ndarray]:
        """The next good records from a byte of a file on; none at its end."""
        at, found = self._patiently(path, lambda name: self._read(name, int(position))) or (0, [])
        return np.int64(at), np.array(found, object)

    def _patiently(self, path: bytes, action: Callable[[str], Any]) -> Any:
        """What `action` returns for the file; None where it fails at each try.

        Never raises, since a pipeline that passes over errors would ask for ever.
        """
        name = os.fsdecode(path)
        for pause in (*self._retries, None):
            if self.problem:
                return None
            try:
                return action(name)
            except (OSError, DataError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                if pause is not None:
                    time.sleep(pause)
        self.stop(
            f"record file '{name}' cannot be read since {sum(self._retries):g} s: {reason}; "
            "bring it back and --resume"
        )
        return None

    def _read(self, path: str, at: int) -> tuple[int, list[bytes]]:
        found: list[bytes] = []
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            if at > end:
                raise DataError(f"it has become shorter, {end} bytes")
            while at < end and len(found) < AT_ONCE:
                file.seek(at)
                header = file.read(_HEADER.size)
                length = self._length(header)
                if length is None or at + _FRAME + length > end:
                    self.note(f"at byte {at} of '{path}'", "its length is damaged")
                    at = self._next_header(file, at + 1, end)
                    continue
                data, checksum = file.read(length), file.read(4)
                if len(checksum) < 4:
                    raise DataError("it ends in the middle of a record")
                if masked_crc(data) == checksum:
                    found.append(data)
                else:
                    self.note(
                        f"{name_in(data)} at byte {at} of '{path}'".lstrip(),
                        "its checksum is wrong",
                    )
                at += _FRAME + length
        return at, found

    @staticmethod
    def _length(header: bytes) -> int | None:
        """The length that a header gives, if its checksum is right."""
        if len(header) < _HEADER.size or masked_crc(header[:8]) != header[8:]:
            return None
        return int(_HEADER.unpack(header)[0])

    def _next_header(self, file: Any, at: int, end: int) -> int:
        """Where the next header stands whose checksum is right; `end` if nowhere."""
        while at + _HEADER.size <= end:
            file.seek(at)
            window = file.read(_WINDOW)
            # Lengths are below 4 GiB: their upper half is zeros.
            place = window.find(b"\0\0\0\0", 4)
            while 0 <= place <= len(window) - 8:
                start = place - 4
                length = self._length(window[start : start + _HEADER.size])
                if length is not None and at + start + _FRAME + length <= end:
                    return at + start
                place = window.find(b"\0\0\0\0", place + 1)
            if len(window) < _WINDOW:
                break
            at += len(window) - _HEADER.size
        return end

    def guarded(
        self, prepare: Callable[..., Any], files: Sequence[str], keys: RecordKeys
    ) -> Callable[..., Any]:
        """`prepare(index, records)` that, where it failed, repairs the records and tries again.

        A label outside the classes is no damage: the second try raises it.

        Args:
            prepare: takes a number and one record or a batch of them, and returns tensors.
            files: where to find a good record if there is none in the batch.
            keys: of the records.
        """

        def repair(records: Any) -> Any:
            return self._repair(records, files, keys)

        def second_try(index: Any, records: Any) -> Any:
            good = tf.numpy_function(repair, [records], tf.string)
            return prepare(index, tf.ensure_shape(good, records.shape))

        def first_or_second_try(index: Any, records: Any) -> Any:
            given = tf.data.Dataset.from_tensors((index, records))
            tried = given.map(prepare).ignore_errors().concatenate(given.map(second_try))
            return tried.take(1).get_single_element()

        return first_or_second_try

    def _repair(self, records: Any, files: Sequence[str], keys: RecordKeys) -> np.ndarray:
        """The records with each bad one replaced by the next good one in the batch.

        Raises:
            DataError: the limit is passed, or there is no good record.
        """
        given = np.atleast_1d(np.array(records, object))
        reasons = [damage(record, keys) for record in given]
        for record, reason in zip(given, reasons, strict=True):
            if reason is not None:
                self.note(name_in(record, keys) or "without a name", reason)
        if self.problem:
            raise DataError(self.problem)
        good = [i for i, reason in enumerate(reasons) if reason is None]
        if not good:
            given[:] = [self._spare(files, keys)] * len(given)
        for i, reason in enumerate(reasons):
            if good and reason is not None:
                given[i] = given[min(good, key=lambda j: (j - i) % len(given))]
        return given.reshape(np.shape(records))

    def _spare(self, files: Sequence[str], keys: RecordKeys) -> bytes:
        """The first good record among the first of the files."""
        for path in files[:4]:
            for record in self._read(path, 0)[1]:
                if damage(record, keys) is None:
                    return record
        raise DataError(f"no good record at the start of '{files[0]}'; are its images JPEG?")


def fit_for_tensorflow(path: str) -> bool:
    """Whether no record claims, under a right checksum, to be longer than the file.

    TensorFlow 2.18's reader allocates what a record claims, and 2 ** 62 bytes end the
    process in a segmentation fault.
    """
    with open(path, "rb", buffering=0) as file:
        end, position = os.fstat(file.fileno()).st_size, 0
        while position < end:
            header = os.pread(file.fileno(), _HEADER.size, position)
            if len(header) < _HEADER.size:
                return True
            position += _FRAME + _HEADER.unpack(header)[0]
    return position == end or masked_crc(header[:8]) != header[8:]


def damage(record: bytes, keys: RecordKeys = CLASSIC) -> str | None:
    """What keeps a record from being trained on; None where it is whole."""
    example = _example(record)
    if not (example.get(keys.image) and example.get(keys.label)):
        return "no tf.Example with an image and a label"
    try:
        tf.io.decode_jpeg(example[keys.image][0], channels=3)
    except (tf.errors.InvalidArgumentError, TypeError, ValueError):
        return "does not decode as JPEG"
    return None


def name_in(record: bytes, keys: RecordKeys = CLASSIC) -> str:
    """The record's file name in quotes, where it has one and can be parsed."""
    found = _example(record).get(keys.filename) or [b""]
    return repr(found[0].decode(errors="replace")) if isinstance(found[0], bytes) else ""


def _example(record: bytes) -> dict[str, list[Any]]:
    try:
        return parse_example(record)
    except ValueError:
        return {}
