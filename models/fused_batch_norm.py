"""Batch normalisation by TensorFlow's fused op, in layers that stay Keras's own.

Keras 3 composes a `BatchNormalization` of single ops: it casts to float32, and takes
`tf.nn.moments` and `tf.nn.batch_normalization`. Without XLA, each of them reads and writes the
activations. The fused op, cuDNN's on a GPU, reads them twice and writes them once.

This module alone of `models/` needs TensorFlow.
"""

import types
from typing import Any

import keras
import tensorflow as tf

FUSED_DTYPES = ("float16", "bfloat16", "float32")  # of activations; statistics are float32


def fuse_batch_norm(model: keras.Model) -> int:
    """Has the `BatchNormalization` layers of a built model train by `FusedBatchNormV3`.

    Only the `call` of these instances changes. Their class, configuration and variables do not,
    nor does what is saved, cloned or computed in evaluation. Outputs and moving statistics agree
    with Keras's to rounding.

    Layers that the op cannot serve are left as they are: those that do not normalise the last
    axis of four (batch, height, width, channels), in float64, synchronised, with
    renormalisation, or of a subclass. So is a call with a mask.

    Returns:
        The number of layers that now train by the op.

    Example:
        >>> model = keras.applications.ResNet50(weights=None)
        >>> fuse_batch_norm(model)
        53
    """
    layers = [layer for layer in model._flatten_layers() if _can_be_fused(layer)]
    for layer in layers:
        layer.call = types.MethodType(_fused_call, layer)
    return len(layers)


def _can_be_fused(layer: keras.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.built
        and layer.input_spec.ndim == 4
        and layer.axis in (-1, 3)
        and layer.compute_dtype in FUSED_DTYPES
        and not (layer.renorm or layer.synchronized)
    )


def _fused_call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """In place of `BatchNormalization.call`."""
    # Not trainable, as in a phase that freezes it, it uses its moving statistics.
    if not (training and self.trainable) or mask is not None:
        return type(self).call(self, inputs, training=training, mask=mask)
    shape = self.moving_mean.shape
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.cast(inputs, self.compute_dtype),
        scale=tf.cast(self.gamma, tf.float32) if self.scale else tf.ones(shape),
        offset=tf.cast(self.beta, tf.float32) if self.center else tf.zeros(shape),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=self.epsilon,
        is_training=True,
    )
    # The op's variance is the unbiased one, Keras keeps the biased one.
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
    moments = (mean, variance * ((count - 1.0) / count))
    for moving, moment in zip((self.moving_mean, self.moving_variance), moments, strict=True):
        kept = tf.cast(moving, tf.float32) * self.momentum
        moving.assign(kept + tf.stop_gradient(moment) * (1.0 - self.momentum))
    return outputs
