"""Keras 3 optimizers: over several workers, for groups of variables, and some of their own."""

from typing import TYPE_CHECKING

from core.lazy import exports

if TYPE_CHECKING:  # `exports` reads these lines
    from optimizers.distributed import DistributedOptimizer as DistributedOptimizer
    from optimizers.groups import Group as Group
    from optimizers.groups import OptimizerGroups as OptimizerGroups
    from optimizers.lars import LARS as LARS
    from optimizers.muon import Muon as Muon
    from optimizers.tf1_momentum import TF1Momentum as TF1Momentum
    from optimizers.tf1_momentum import add_l2_to_loss as add_l2_to_loss

__all__, __getattr__, __dir__ = exports(__name__, __file__)
