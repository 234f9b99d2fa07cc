"""Classifiers as plain Keras models."""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:  # `exports` reads these lines
    from models.registry import build_model as build_model
    from models.registry import names as names
    from models.resnet import imagenet_resnet as imagenet_resnet
    from models.resnet import small_resnet as small_resnet
    from models.speedrun import whitened_cnn as whitened_cnn
    from models.transfer import transfer_weights as transfer_weights
    from models.whitening import whiten as whiten
    from models.whitening import whitening_kernel as whitening_kernel

__all__, __getattr__, __dir__ = exports(__name__, __file__)
