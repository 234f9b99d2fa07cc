"""The model card of an export: what is known of a run, for people and for the Hugging Face Hub.

The metadata are those of https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Only what
the run's own files say stands in it. No TensorFlow.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.clock import CLOCKS
from deploy.comparison import Checked
from deploy.formats import CLASSES
from deploy.source import Source
from reports.console import time_words
from reports.reader import read_record

LIBRARY, TASK = "keras", "image-classification"
# The Hub's names of libraries, where an export has their files.
TAGS = {"onnx": "onnx", "litert": "tflite", "openvino": "openvino"}
NAMES_SHOWN = 20
METRICS = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy"}
SHOWN_KEYS = {"epoch", "lr", "lr_method", "batch_size", "image_size", "data_dir", "prefix"}


def model_card(source: Source, written: Sequence[Checked]) -> str:
    """The card as Markdown, with its metadata as YAML before it."""
    rows = evaluated(source)
    sections = {
        "": _summary(source, rows),
        "Load and predict": _predict(source),
        "Files": _files(source, written),
        "Data": _data(source),
        "Recipe": _recipe(source),
        "Accuracy, and the time to it": _accuracy(source, rows),
        "Versions and hardware": _versions(source),
        "Limits": _limits(source, rows),
    }
    front = yaml.safe_dump(metadata(source, rows, written), sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n# {escaped(source.recipe.name)}\n"
    for heading, lines in sections.items():
        text += (f"\n## {heading}\n" if heading else "") + "\n" + "\n".join(lines) + "\n"
    return text


def evaluated(source: Source) -> list[dict[str, Any]]:
    """The evaluated checkpoints by step, as the recipe evaluates; none without the last one.

    The model is the last checkpoint: the accuracy of an earlier one is not the model's.
    """
    run = source.run
    rows = run.evaluated(source.recipe.evaluation, run.own_data or source.records.name)
    noted = run.noted_checkpoints()
    return rows if rows and noted and rows[-1]["step"] == noted[-1]["step"] else []


def metadata(
    source: Source, rows: Sequence[Mapping[str, Any]], written: Sequence[Checked]
) -> dict[str, Any]:
    """What the Hub reads. There is no licence in it: the run does not know one."""
    recipe = source.recipe
    tags = [TAGS[one.format.name] for one in written if one.format.name in TAGS]
    found: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": [TASK, recipe.model, *tags],
    }
    if rows:
        name = f"{_data_name(source)} ({source.recipe.evaluation.prefix})"
        dataset = {"type": source.run.own_data or source.records.name, "name": name}
        metrics = [
            {"type": "accuracy", "value": round(float(rows[-1][key]), 6), "name": name}
            for key, name in METRICS.items()
        ]
        result = {"task": {"type": TASK}, "dataset": dataset, "metrics": metrics}
        found |= {"metrics": ["accuracy"]}
        found |= {"model-index": [{"name": recipe.name, "results": [result]}]}
    return found


def _data_name(source: Source) -> str:
    """What the data are called: the embedded set's name, or that of their folder."""
    root = source.run.environment().get("data_dir") or source.records.files[0].parent.parent
    return source.recipe.embedded_data or Path(root).name


def _summary(source: Source, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    recipe = source.recipe
    yield f"An image classifier of {recipe.classes:,} classes: `{recipe.model}` for Keras 3."
    if rows:
        last = rows[-1]
        yield (
            f"It has {last['top1']:.2%} top-1 and {last['top5']:.2%} top-5 accuracy on "
            f"{last['images']:,} validation images."
        )


def _predict(source: Source) -> Iterator[str]:
    size, bleed = source.size, _bleed(source)
    fit = f", bleed={bleed:g}" if bleed else ""
    of_records = f"{source.records_size} pixels" if bleed else f"{size} pixels"
    yield f"""```python
import keras
import numpy as np
from PIL import Image, ImageOps

model = keras.saving.load_model(".")  # this folder; from the Hub: "hf://USER/NAME"
image = Image.open("image.jpg").convert("RGB")
image = ImageOps.fit(image, ({size}, {size}), Image.Resampling.LANCZOS{fit})
logits = model(np.asarray(image, "float32")[np.newaxis])
print(open("{CLASSES}").read().splitlines()[int(np.argmax(logits))])
```

The image is RGB on the scale 0 to 255; the model normalises it. For the accuracies below, an
image's short side had {of_records}, and the central {size} x {size} pixels were taken. The
model returns logits; {_to_probabilities(source)} makes probabilities of them, as the exported
files do."""


def _bleed(source: Source) -> float:
    """The share of the image that the evaluation cuts off at each side of its central square."""
    if not source.records_size or source.records_size <= source.size:
        return 0.0
    return round((1 - source.size / source.records_size) / 2, 6)


def _to_probabilities(source: Source) -> str:
    if source.recipe.classes_apart:
        return "a sigmoid for each class, as in the loss of the training,"
    return "a softmax"


def _files(source: Source, written: Sequence[Checked]) -> Iterator[str]:
    yield from table(
        ("file", "format", "bytes", "largest difference", "top-1 equal on"),
        (
            (
                " ".join(f"`{name}`" for name in one.format.files),
                one.format.name,
                f"{one.bytes:,}",
                f"{one.comparison.largest:.1e}",
                f"{one.comparison.same_first} of {one.comparison.images} images",
            )
            for one in written
        ),
    )
    yield (
        "\nEach was loaded by its own runtime, and its probabilities were compared with those of "
        "the Keras model on validation images, in float32 on a CPU. All but `keras` take uint8 "
        f"images `[batch, {source.size}, {source.size}, 3]` and return probabilities.\n"
    )
    yield from (f"- `{one.format.name}` {one.format.cannot}." for one in written)


def _data(source: Source) -> Iterator[str]:
    facts = source.run.environment().get("facts", {}).get("data", {})
    training = [
        (f"{key} (training)", f"{found['images']:,}", found["files"])
        for key, found in facts.items()
    ]
    evaluation, records = source.recipe.evaluation, source.records
    validation = f"{evaluation.data_dir}/{evaluation.prefix} (validation)"
    files = f"{len(records.files)} file(s), {records.digest}"
    yield f"Records made from {escaped(_data_name(source))}:\n"
    yield from table(
        ("records", "images", "digest of their names and sizes"),
        [*training, (validation, f"{records.images:,}", files)],
    )
    if not source.run.classes():
        yield f"\n{source.recipe.classes:,} classes, whose names the records do not hold."
        return
    names = [escaped(name) for name in source.names[:NAMES_SHOWN]]
    more = ", ..." if len(source.names) > NAMES_SHOWN else ""
    yield (
        f"\n{source.recipe.classes:,} classes, in the order of the outputs "
        f"([{CLASSES}]({CLASSES})): {', '.join(names)}{more}."
    )


def _recipe(source: Source) -> Iterator[str]:
    recipe, run = source.recipe, source.run
    rows = []
    for phase in recipe.training_strategy.root:
        settings = phase.model_dump(mode="json", exclude_defaults=True)
        rest = {key: v for key, v in settings.items() if v and key not in SHOWN_KEYS}
        also = _in_a_line(rest)
        rows.append(
            (
                "{:g} to {:g}".format(*phase.epoch),
                "{:g} to {:g}, ".format(*phase.lr) + phase.lr_method,
                phase.batch_size,
                " x ".join(map(str, phase.image_size)),
                phase.records,
                also,
            )
        )
    yield from table(
        ("epochs", "learning rate", "batch, each worker", "pixels", "records", "also"), rows
    )
    settings = recipe.optimizer.model_dump(mode="json")
    optimizer = _in_a_line({key: value for key, value in settings.items() if value})
    yield (
        f"\n{run.workers} worker(s), policy {run.environment().get('policy', 'not recorded')}, "
        f"seed {recipe.seed}; optimizer `{optimizer}`, l2 {recipe.l2:g}, loss {recipe.loss}, label "
        f"smoothing {recipe.label_smoothing:g}. All settings are in [recipe.yaml](recipe.yaml)."
    )


def _in_a_line(settings: Mapping[str, Any]) -> str:
    """Settings as in a recipe, without the outer braces."""
    line = yaml.safe_dump(dict(settings), default_flow_style=True, sort_keys=False, width=10**6)
    return line.strip()[1:-1]


def _accuracy(source: Source, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "The model was not evaluated as its recipe says."
        return
    record = read_record(source.run.path)
    best, better = 0.0, []
    for row in rows:  # those that were the best so far, and the last, which is the model
        if row["top1"] > best or row is rows[-1]:
            best = max(best, row["top1"])
            better.append(row)
    yield from table(
        ("step", "top-1", "top-5", *(f"by the clock `{name}`" for name in record.clocks)),
        (
            (
                f"{row['step']:,}",
                f"{row['top1']:.2%}",
                f"{row['top5']:.2%}",
                *(time_words(record.seconds_at(row["step"], name)) for name in record.clocks),
            )
            for row in better
        ),
    )
    counted = "; ".join(
        f"`{name}` counts {', '.join(CLOCKS[name]).replace('_', '-')}" for name in record.clocks
    )
    evaluation = source.recipe.evaluation
    yield (
        "\nThe checkpoints that were the best so far, and the last, which is the model. "
        f"{counted}. Evaluated at {evaluation.image_size} pixels ({evaluation.crop}) on "
        f"{rows[-1]['images']:,} images."
    )
    if record.at_most:
        yield f"By {', '.join(sorted(record.at_most))} the times are upper bounds."


def _versions(source: Source) -> Iterator[str]:
    environment = source.run.environment()
    packages = {
        "Python": environment.get("python", "not recorded"),
        **environment.get("packages", {}),
    }
    yield from table(("trained with", "version"), packages.items())
    yield (
        f"\nTrained on: {escaped(environment.get('machine', 'not recorded'))}; "
        f"{source.run.workers} worker(s); started {environment.get('started', '')} UTC."
    )


def _limits(source: Source, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    evaluation, own = source.recipe.evaluation, source.run.own_data or source.records.name
    images = f"the {rows[-1]['images']:,} images of `{own}`" if rows else "no images at all"
    yield f"- Its accuracy is known on {images}. Other images were not tried."
    yield "- Nothing was measured about biases in the images or in their labels."
    yield "- It always answers with one of its classes, also for an image of none of them."
    if evaluation.rectangular or evaluation.flip or evaluation.shift:
        yield (
            f"- The accuracies are those of `{evaluation.crop}` views. The code above and the "
            "exported files take one central square, whose accuracy was not measured."
        )
    if source.recipe.classes_apart:
        yield "- The probabilities of an image do not add up to 1: each class is one of its own."
    yield (
        "- The licences of the images and of the model are not recorded. Add `license:` to the "
        "metadata above before you share it."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The lines of a Markdown table; a vertical bar in a cell does not end it."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"


def escaped(text: str) -> str:
    """Text of the user's, in which no character is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~])", r"\\\1", text)
