"""What TensorFlow and Horovod raise in the middle of a run, in the user's words."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from core.errors import OtherWorkerEnded, SharedUserError, UserError
from datasets.input.faults import Faults
from datasets.input.pipeline import LABEL_OUTSIDE


@contextlib.contextmanager
def translated_errors(faults: Faults | None = None) -> Iterator[None]:
    """Translates the errors of TensorFlow and Horovod that the block raises.

    Raises:
        UserError: this worker read a record that cannot be used.
        SharedUserError: XLA cannot compile the model.
        OtherWorkerEnded: Horovod stopped.
    """
    try:
        yield
    except tf.errors.OpError as error:
        problem = _problem(error, faults)
        if problem:
            raise UserError(problem) from None
        # Such as "on XLA_CPU_JIT: PyFunc (No registered ... with node {{node odd/PyFunc}})".
        if found := re.search(r" on XLA_\w+: (\w+) \(.*?{{node (.*?)}}", error.message, re.DOTALL):
            raise SharedUserError(
                f"recipe key 'xla': XLA cannot compile the operation {found[1]} of the model, "
                f"'{found[2]}'; train with xla: false"
            ) from None
        # An all-reduce that is cut off raises the error of Gloo, by the file in which it arose.
        if re.search("Horovod|/gloo/", error.message):
            raise OtherWorkerEnded(_in_one_line(error.message)) from None
        raise


def _in_one_line(message: str) -> str:
    """Horovod's or Gloo's own line of an error; TensorFlow puts a trace before it."""
    lines = [line for line in message.splitlines() if re.search("Horovod|/gloo/", line)]
    return [message, *lines][-1].strip()


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
