"""A run killed twice, and resumed by 1 and by 2 workers, keeps and evaluates all it wrote."""

import pytest
import yaml

from benchmarks.chaos import Job
from core.checkpoints import check

EVERY = 10  # steps between two checkpoints
PHASE = {"epoch": [0, 1], "lr": [0.02, 0.01], "lr_method": "linear"}
PHASE |= {"batch_size": 50, "image_size": [20, 20], "data_dir": "20"}
STRATEGY = [PHASE]  # 40 steps with 2 workers, 80 with one


@pytest.fixture(scope="module", params=[{}], ids=["all"])
def job(root, digits, tmp_path_factory, request):
    """The run after its last resume."""
    folder = tmp_path_factory.mktemp("other_workers")
    recipe = yaml.safe_load((root / "recipes" / "demo.yaml").read_text())
    recipe |= {
        "name": "other-workers",
        "training_strategy": STRATEGY,
        "checkpoint_every": EVERY,
        "log_every": 2,
        "model_arguments": {"widths": [8, 8, 8], "initial_scale": 2.0},
        **request.param,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    job = Job(folder / "run", digits, folder / "recipe.yaml")
    for workers, last in ((2, 10), (1, 40)):
        job.start(resume=workers == 1, workers=workers)
        job.wait(lambda last=last, workers=workers: (last, workers) in noted(job), "a checkpoint")
        job.kill()
        job.wait(lambda: job.ended() is not None, "the end of all processes")
    job.start(resume=True, workers=2)
    job.wait(lambda: job.ended() is not None, "the end of the run")
    assert job.ended() == 0, job.said()
    return job


def noted(job):
    return [(row["written_step"], row["workers"]) for row in job.run.noted_checkpoints()]


def test_every_checkpoint_is_there_by_the_step_and_the_workers_that_wrote_it(job):
    by_two, by_one = ([step for step, count in noted(job) if count == n] for n in (2, 1))
    # Each kill may come one checkpoint or more after the one that the test waits for.
    began = by_one[0] // 2
    assert by_one[0] % EVERY == 0
    assert by_one == list(range(by_one[0], by_one[-1] + 1, EVERY))
    first = [step for step in by_two if step <= began]
    assert first == list(range(0, first[-1] + 1, EVERY))
    assert [step for step in by_two if step > by_one[-1] // 2] == list(
        range(by_one[-1] // 2 // EVERY * EVERY + EVERY, 41, EVERY)
    )
    assert len(by_two) == len(set(by_two))
    files = job.run.checkpoint_files()
    assert sorted(files) == sorted(map(job.run.checkpoint_of, job.run.noted_checkpoints()))
    for path in files:
        check(path)


def test_each_is_evaluated_once(job):
    evaluated = [(row["written_step"], row["workers"]) for row in job.run.evaluation_rows()]
    assert sorted(evaluated) == sorted(noted(job))


def test_the_rows_are_in_the_order_of_training(job):
    rows = job.run.train_rows()
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert rows[-1]["step"] == 40
    seconds = [row["seconds"] for row in job.run.noted_checkpoints()]
    assert seconds == sorted(seconds)
