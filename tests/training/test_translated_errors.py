"""What TensorFlow raises in the middle of a run, as a user reads it."""

import pytest
import tensorflow as tf

from core.errors import OtherWorkerEnded
from training.translated_errors import translated_errors

# As they were seen when another worker was killed: while one waits, and in the all-reduce itself.
SHUT_DOWN = "Horovod has been shut down. This was caused by an exception on one of the ranks"
CUT_OFF = (
    "Graph execution error: [/build/horovod/third_party/compatible17_gloo/gloo/transport/tcp/"
    "pair.cc:589] Read error [127.0.0.1]:27042: Connection reset by peer [[{{node gradients}}]]"
)


@pytest.mark.parametrize("message", [SHUT_DOWN, CUT_OFF])
def test_horovod_stops_where_another_worker_has_ended(message):
    with pytest.raises(OtherWorkerEnded), translated_errors():
        raise tf.errors.UnknownError(None, None, message)


def test_an_error_of_the_program_stays_as_it_is():
    with pytest.raises(tf.errors.UnknownError), translated_errors():
        raise tf.errors.UnknownError(None, None, "Graph execution error: out of range")
