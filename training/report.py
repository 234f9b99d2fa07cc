"""The picture of a run: accuracy against wall-clock time."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.run_folder import RunFolder

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by the markers.
TOP1, TOP5, TRAINING = "#0072B2", "#D55E00", "#777777"
SHADES = ("#f2f2f2", "#e2e2e2")


def draw_accuracy(run: RunFolder, path: Path) -> None:
    """Draws top-1 and top-5 of the evaluated checkpoints over seconds of training.

    The phases are shaded by the seconds between the reports where the image size or
    the batch size changes.
    """
    train = pd.DataFrame(run.train_rows())
    evaluated = pd.DataFrame(run.evaluation_rows()).sort_values("step")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    _shade_phases(axes, train)
    axes.plot(train["seconds"], 100 * train["top5"], color=TRAINING, linewidth=1, linestyle=":",
              label="top-5 of the training batches")  # fmt: skip
    axes.plot(evaluated["seconds"], 100 * evaluated["top5"], color=TOP5, marker="s", markersize=4,
              label="top-5 on the validation set")  # fmt: skip
    axes.plot(evaluated["seconds"], 100 * evaluated["top1"], color=TOP1, marker="o", markersize=4,
              label="top-1 on the validation set")  # fmt: skip
    last = evaluated.iloc[-1]
    for name, colour, below in (("top5", TOP5, False), ("top1", TOP1, True)):
        axes.annotate(
            f"{100 * last[name]:.2f} %",
            (last["seconds"], 100 * last[name]),
            xytext=(0, -14 if below else 6),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
    axes.set(xlabel="seconds of training", ylabel="accuracy, %", xlim=(0, None), ylim=(0, 106))
    axes.set_title(f"{run.recipe()['name']}: accuracy against wall-clock time", loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def _shade_phases(axes: Axes, train: pd.DataFrame) -> None:
    setting = train[["image_size", "batch_size"]].apply(tuple, axis=1)
    ends = train.loc[setting != setting.shift(-1), ["seconds", "image_size", "batch_size"]]
    begin = 0.0
    for number, (end, size, batch) in enumerate(ends.itertuples(index=False)):
        axes.axvspan(begin, end, color=SHADES[number % 2], linewidth=0)
        axes.annotate(
            f"{size:.0f} px\nbatch {batch:.0f}",
            ((begin + end) / 2, 2),
            ha="center",
            va="bottom",
            fontsize=8,
            color="#555555",
        )
        begin = end
