"""What TensorFlow raises in the middle of a run, as a user reads it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from core.errors import OtherWorkerEnded, SharedUserError
from core.keras_patches import jit_gradients
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


def test_the_reason_is_one_line():
    """TensorFlow puts the trace of the op before it, in which Horovod's files are named."""
    trace = "Graph execution error:\n\nDetected at node gradients defined at\n"
    trace += '  File "/site-packages/horovod/tensorflow/mpi_ops.py", line 176, in _grouped\n\n'
    with pytest.raises(OtherWorkerEnded) as found, translated_errors():
        raise tf.errors.UnknownError(None, None, f"{trace}{SHUT_DOWN}\n\t [[{{node gradients}}]]")
    assert str(found.value) == SHUT_DOWN


def test_an_error_of_the_program_stays_as_it_is():
    with pytest.raises(tf.errors.UnknownError), translated_errors():
        raise tf.errors.UnknownError(None, None, "Graph execution error: out of range")


class InPython(keras.layers.Layer):
    """A layer that only a graph without XLA can run."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(np.copy, [x], tf.float32), x.shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape)


def test_a_model_that_xla_cannot_compile_is_one_sentence():
    model = keras.Sequential([keras.Input((2,)), InPython(name="odd"), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    x, y = np.ones((4, 2)), np.ones((4, 1))
    model.fit(x, y, verbose=0)
    jit_gradients(model)
    sentence = (
        r"^recipe key 'xla': XLA cannot compile the operation PyFunc of the model, '.*odd.*'; "
    )
    with pytest.raises(SharedUserError, match=sentence), translated_errors():
        model.fit(x, y, verbose=0)
