"""Writes what a run of the demo with two workers writes."""

from training.recipes import load_recipe

IMAGES = 4000


def train(run, *steps, workers=2, loss=0.5):
    schedule = load_recipe("demo").schedule(workers, IMAGES)
    run.counted_by(schedule)
    for step in steps:
        row = {
            **{"step": step, "epoch": schedule.epoch(step), "images_per_second": 1000.0},
            **{"loss": loss, "total_loss": 0.75, "learning_rate": 0.1, "batch_size": 50},
            **{"image_size": 20, "top5": 0.875, "seconds": 2.0 * step, "skipped_steps": 0},
        }
        run.write_train_row(row)


def evaluate(run, step, workers=2, **changes):
    row = {
        **{"step": step, "epoch": 1.0, "seconds": 2.0 * step, "images": 1000, "workers": workers},
        **{"top1": 0.5, "top5": 0.75, "loss": 1.5, "images_per_second": 1.0, "time": "now"},
        **{"image_size": 28, "crop": "centre", "data": "records-1", "folder": "/data/28"},
    }
    run.write_evaluation_row(0, row | changes)
