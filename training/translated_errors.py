"""What TensorFlow and Horovod raise in the middle of a run, in the user's words."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from core.errors import OtherWorkerEnded, UserError
from datasets.input.faults import Faults
from datasets.input.pipeline import LABEL_OUTSIDE


@contextlib.contextmanager
def translated_errors(faults: Faults | None = None) -> Iterator[None]:
    """Translates the errors of TensorFlow and Horovod that the block raises.

    Raises:
        UserError: this worker read a record that cannot be used.
        OtherWorkerEnded: Horovod stopped.
    """
    try:
        yield
    except tf.errors.OpError as error:
        problem = _problem(error, faults)
        if problem:
            raise UserError(problem) from None
        # An all-reduce that is cut off raises the error of Gloo, by the file in which it arose.
        if re.search("Horovod|/gloo/", error.message):
            raise OtherWorkerEnded(error.message) from None
        raise


def _problem(error: tf.errors.OpError, faults: Faults | None) -> str | None:
    """What is wrong with a record; None where the error is about something else."""
    found = re.search(rf"\[{LABEL_OUTSIDE}\] \[(-?\d+)\] \[(.*?)\]", error.message)
    if found:
        return (
            f"image '{found[2]}': label {found[1]} is outside the recipe's classes; check the "
            "recipe's `classes` and, where the data have one, the manifest's label_offset"
        )
    if faults and faults.problem:
        return faults.problem
    if bad := re.search(r"DataError: (.*)", error.message):
        return bad[1]
    if isinstance(error, tf.errors.DataLossError):
        return f"a record is damaged: {error.message.splitlines()[0]}"
    return None
