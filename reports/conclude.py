"""The end of a run: the model, the report and its picture, and one message about them."""

from core.errors import RunError
from evaluation.statistics import reestimator_of
from reports.console import time_words
from reports.report import report
from training import model
from training.run import Run


def conclude(run: Run) -> None:
    """Saves the result and the report of a run, on rank 0, and says where they are."""
    if not run.team.is_first:
        return
    folder, log, last_step = run.folder, run.log, run.schedule.total_steps
    if run.data.synthetic:
        log.note_time(last_step, "end")
        log.note(
            "Synthetic data: nothing was learnt, evaluated or saved as a model. The rates in "
            f"{folder.train_csv} are what the model reaches without an input pipeline."
        )
        return
    log.clock.switch("checkpoints")
    model.save_result(
        run.recipe,
        folder.checkpoint_of(folder.checkpoint_rows()[-1]),
        folder.model,
        lambda net: reestimator_of(net, run.recipe, run.data.statistics, run.threads)(),
        folder.architecture(),
    )
    log.note_time(last_step, "end")
    if problem := log.settle():
        raise RunError(problem)
    rows = folder.evaluated(run.recipe.evaluation, run.data.validation.name)
    if not rows:
        return  # no checkpoint could be read
    report([folder.path])
    last, buckets = rows[-1], log.clock.state()
    time = ", ".join(f"{n.replace('_', '-')} {time_words(s)}" for n, s in buckets.items())
    log.say(
        f"{last['top1']:.2%} top-1, {last['top5']:.2%} top-5 after "
        f"{last['seconds']:.0f} s of training\n"
        f"  time     {time}\n"
        f"  model    {folder.model}\n"
        f"  log      {folder.log}\n"
        f"  picture  {folder.picture}\n"
        f"  report   {folder.page}"
    )
