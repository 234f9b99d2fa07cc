"""One optimizer for groups of variables, each with an optimizer and a rate of its own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.optimizers import LossScaleOptimizer, MultiOptimizer, Optimizer

from core.keras_patches import NoSumOverReplicas, mix_in

# Options that belong to `OptimizerGroups`, for all variables together.
OF_THE_WHOLE = (
    *("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"),
    *("use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor"),
)


@dataclass(frozen=True)
class Group:
    """Variables that one optimizer updates.

    Attributes:
        variables: a regular expression, searched for in `variable.path`.
        optimizer: a Keras optimizer that is not built. Its own learning rate does not count.
        rate: times the learning rate of `OptimizerGroups`.
        keeps_momentum: whether a phase that moves the momentum leaves this group's alone.
    """

    variables: str
    optimizer: Optimizer
    rate: float = 1.0
    keeps_momentum: bool = False


def shared_out(patterns: Sequence[str], paths: Sequence[str]) -> list[int]:
    """For each path the number of the first pattern found in it, or the number of patterns.

    Raises:
        ValueError: a pattern gets no path.
    """
    numbers = [
        next((i for i, pattern in enumerate(patterns) if re.search(pattern, path)), len(patterns))
        for path in paths
    ]
    for i, pattern in enumerate(patterns):
        if i not in numbers:
            some = ", ".join(paths[:6]) + (", ..." if paths[6:] else "")
            raise ValueError(
                f"group {i + 1}, 'variables': received {pattern!r}, which is in the path of no "
                f"variable that an earlier group leaves; there are {some}"
            )
    return numbers


@keras.saving.register_keras_serializable(package="optimizers")
class OptimizerGroups(Optimizer):
    """An optimizer that leaves each variable's step to the optimizer of its group.

    The first group whose pattern is found in a variable's path takes it; `rest` takes what no
    group does. There is one learning rate, which each group multiplies by its `rate`: so a
    callback sets it as that of any optimizer. Clipping, accumulation, loss scale and averages
    of the weights are done here, once for all variables; weight decay is each group's own.

    It exists beside `keras.optimizers.MultiOptimizer`, which has no learning rate to set,
    keeps the averages and accumulated gradients apart in each of its optimizers, refuses
    the gradients of a part of the variables, and writes its state twice into a file.

    Args:
        rest: the optimizer of all variables that no group takes. Its learning rate does not count.
        groups: `Group`s, or dicts with the same keys.
        learning_rate: a float or a Keras `LearningRateSchedule`.
        name, **options: as of any Keras optimizer, but for `weight_decay`.

    Raises:
        ValueError: an option on the wrong level; an optimizer that is built, stands twice or
            wraps another; or, when it is built, a pattern that gets no variable.

    Example:
        >>> kernels = Group("conv.*/kernel", Muon(momentum=0.6), rate=2.0)
        >>> optimizer = OptimizerGroups(SGD(momentum=0.9), [kernels], learning_rate=0.1)
    """

    def __init__(
        self,
        rest: Optimizer,
        groups: Sequence[Group | dict[str, Any]],
        learning_rate: Any = 0.01,
        name: str = "OptimizerGroups",
        **options: Any,
    ):
        if options.get("weight_decay") is not None:
            raise ValueError("`weight_decay` belongs to the optimizers of the groups")
        super().__init__(learning_rate=learning_rate, name=name, **options)
        given = [group if isinstance(group, Group) else Group(**group) for group in groups]
        # Not a list of optimizers, which Keras would save a second time.
        self._groups = (*given, Group("", rest))
        optimizers = [group.optimizer for group in self._groups]
        for optimizer in optimizers:
            _refuse(optimizer, optimizers)
        self._configs = [keras.saving.serialize_keras_object(o) for o in optimizers]
        for group in self._groups:
            mix_in(group.optimizer, (NoSumOverReplicas,))
            group.optimizer.learning_rate = self._rate_of(group)

    def _rate_of(self, group: Group) -> Any:
        return lambda: self.learning_rate * group.rate

    def build(self, variables: Any) -> None:
        if self.built:
            return
        patterns = [group.variables for group in self._groups[:-1]]
        numbers = shared_out(patterns, [variable.path for variable in variables])
        super().build(variables)
        self._numbers = {self._var_key(v): i for v, i in zip(variables, numbers, strict=True)}
        for group, own in self._by_group(variables):
            group.optimizer.build(own)
            for variable in group.optimizer.variables:
                if variable is not group.optimizer._iterations:
                    self._track_variable(variable)
            # What it computes from its steps follows the steps of the whole.
            group.optimizer._iterations = self._iterations
            group.optimizer.gradient_accumulation_steps = self.gradient_accumulation_steps

    def _by_group(self, variables: Any, *others: Any) -> Iterator[tuple[Any, ...]]:
        """Each group that has some of the variables; its variables; its part of the others."""
        rows = list(zip(variables, *others, strict=True))
        for i, group in enumerate(self._groups):
            own = [row for row in rows if self._numbers[self._var_key(row[0])] == i]
            if own:
                yield group, *map(list, zip(*own, strict=True))

    def _apply_weight_decay(self, variables: Any) -> None:
        for group, own in self._by_group(variables):
            group.optimizer._apply_weight_decay(own)

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        for group, own, its_grads in self._by_group(trainable_variables, grads):
            group.optimizer._backend_update_step(its_grads, own, learning_rate * group.rate)

    def with_moving_momentum(self) -> list[Optimizer]:
        """The optimizers whose momentum a phase moves."""
        return [group.optimizer for group in self._groups if not group.keeps_momentum]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        *groups, config["rest"] = self._configs
        config["groups"] = [
            {
                "variables": group.variables,
                "optimizer": optimizer,
                "rate": group.rate,
                "keeps_momentum": group.keeps_momentum,
            }
            for group, optimizer in zip(self._groups, groups, strict=False)
        ]
        return config

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> "OptimizerGroups":
        def made(optimizer: Any) -> Any:
            return keras.saving.deserialize_keras_object(optimizer, custom_objects)

        groups = [{**group, "optimizer": made(group["optimizer"])} for group in config["groups"]]
        config = {**config, "rest": made(config["rest"]), "groups": groups}
        return super().from_config(config, custom_objects)


def _refuse(optimizer: Any, all_of_them: Sequence[Any]) -> None:
    """Raises `ValueError` for an optimizer that cannot be one of several."""
    wraps = (LossScaleOptimizer, MultiOptimizer, OptimizerGroups)
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, wraps):
        raise ValueError(f"A group needs a Keras optimizer of its own. Received: {optimizer!r}")
    if optimizer.built or sum(other is optimizer for other in all_of_them) > 1:
        raise ValueError(f"Each group needs a new optimizer. Received: {optimizer!r}")
    config = optimizer.get_config()
    held = [name for name in OF_THE_WHOLE if name != "ema_momentum" and config.get(name)]
    if held:
        raise ValueError(
            f"`{held[0]}` belongs to OptimizerGroups, for all variables together. "
            f"Received it in {optimizer.name!r}"
        )
