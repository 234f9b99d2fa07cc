"""Classifiers as plain Keras models."""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:  # the same names as below
    from models.registry import build_model as build_model
    from models.registry import names as names
    from models.resnet import imagenet_resnet as imagenet_resnet
    from models.resnet import small_resnet as small_resnet

_MODULES = {
    "build_model": "registry",
    "names": "registry",
    "imagenet_resnet": "resnet",
    "small_resnet": "resnet",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = exports(__name__, _MODULES)
