"""benchmarks/device.py: what is measured next, how faults end, what the rows say; and a miniature.

The rows of these tests are made by hand. Where processes are needed, they are small scripts that
write such rows in the place of workers.
"""

import io
import json
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import psutil
import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from benchmarks import device
from benchmarks.on_device import report
from benchmarks.on_device.faults import in_a_line, is_about_memory, last_words
from benchmarks.on_device.photographs import photograph, write_records
from benchmarks.on_device.plan import (
    CUT,
    ENDED,
    ERROR,
    HUNG,
    MEMORY,
    MODES,
    Cell,
    Plan,
    Results,
    next_cell,
    to_do,
)
from benchmarks.on_device.rows import read_rows
from core.errors import RunError, UserError
from datasets.records.examples import parse_example
from datasets.records.frames import read_frames
from reports.throughput import load_throughput

F16, BF16 = "mixed_float16", "mixed_bfloat16"
ALL_DAY = 1e9  # seconds
SMALL = Plan(largest_batch=512)  # a smaller grid than the usual


def step(size=224, batch=256, policy=F16, mode="fused"):
    return Cell("step", size, batch, policy, mode)


def done(cell, workers=1, seconds=10.0, **found):
    row = {"row": "done", "cell": asdict(cell), "workers": workers, "seconds": seconds}
    if cell.what == "step":
        speed = found.setdefault("images_per_second", 1000.0)
        found = {"step": cell.batch * workers / speed, "first": 20.0, "loss": 6.9, **found}
        found.setdefault("checkpoint", 1.5)
    return {**row, "found": found}


def failed(cell, reason=ERROR, workers=1, text="why"):
    row = {"row": "failed", "cell": asdict(cell), "workers": workers, "seconds": 5.0}
    return {**row, "reason": reason, "text": text}


def all_of(plan, rows=(), answer=None, left=ALL_DAY):
    """The cells in the order in which they are measured, each with the row that `answer` makes."""
    rows, cells = list(rows), []
    while cell := next_cell(plan, rows, left, has_started=True):
        cells.append(cell)
        rows.append(answer(cell) if answer else done(cell, plan.workers))
        assert len(cells) < 1000
    return cells, rows


def test_the_order_is_a_whole_set_of_rates_then_the_input_then_the_other_settings():
    cells, _ = all_of(SMALL)
    assert cells[:5] == [step(size) for size in (224, 96, 288, 128, 160)]
    assert cells[5:9] == [*(Cell("input", size, 256) for size in (128, 224, 96)), Cell("loop")]
    assert cells[9:12] == [step(mode="xla"), step(mode="plain"), step(policy=BF16)]
    # All are equally fast, so the first setting is the best, and is measured at all sizes already.
    assert cells[12] == step(mode="xla, fused")
    assert cells[13] == step(batch=512)
    # 2 policies, 4 modes, 5 sizes, and two batches of each: 256 and 512.
    assert len([cell for cell in cells if cell.what == "step"]) == 2 * 4 * 5 * 2
    assert len(cells) == len(set(cells))


def test_several_workers_are_checked_first():
    assert all_of(replace(SMALL, workers=8))[0][:3] == [Cell("check"), Cell("all_reduce"), step()]


def test_the_fastest_setting_is_measured_at_all_sizes():
    speeds = {(F16, "xla"): 1500, (BF16, "xla"): 1700}

    def answer(cell):
        return done(cell, images_per_second=speeds.get(cell.setting, 1000))

    cells, rows = all_of(SMALL, answer=answer)
    at = cells.index(step(policy=BF16, mode="xla"))
    sizes = (96, 288, 128, 160)
    assert cells[at + 1 : at + 5] == [step(size, policy=BF16, mode="xla") for size in sizes]
    assert Results(Plan(), rows).best == (BF16, "xla")


def test_a_batch_doubles_until_memory_is_full_and_what_does_not_fit_is_halved():
    memory = 224**2 * 300  # pixels

    def answer(cell):
        fits = cell.what != "step" or cell.size**2 * cell.batch <= memory
        return done(cell) if fits else failed(cell, MEMORY)

    cells, rows = all_of(Plan(), answer=answer)
    first = [cell for cell in cells if cell.setting == (F16, "fused")]
    # 288 px takes 1.65 times the memory of 224 px: 256 images do not fit, 128 do.
    assert first[:4] == [step(), step(96), step(288), step(288, 128)]
    assert {c.batch for c in first if c.size == 96} == {256, 512, 1024, 2048}
    # What has no fewer pixels than a step that did not fit, as 224 px at 512, is not tried.
    failures = {(c.size, c.batch) for c in Results(Plan(), rows).failed if c in first}
    assert failures == {(288, 256), (96, 2048), (128, 1024)}


def test_only_what_fits_into_the_time_is_measured():
    """By hand: a step is assumed to take 40 s; one that took 10 s, 12 s; XLA 120 s."""
    assert next_cell(Plan(), [], 39, has_started=True) == Cell("input", 128, 256)  # 20 s
    assert next_cell(Plan(), [], 41, has_started=True) == step()
    assert next_cell(Plan(), [], 41, has_started=False) is None  # a start takes 45 s
    assert next_cell(Plan(), [done(step())], 13, has_started=True) == step(96)
    started = [{"row": "ready", "workers": 1, "seconds": 20.0}]  # then 24 s
    assert next_cell(Plan(), [*started, done(step())], 37, has_started=False) == step(96)
    cells, rows = all_of(SMALL, left=100)
    assert not [cell for cell in cells if "xla" in cell.mode]
    assert step(mode="xla") in to_do(Plan(), Results(Plan(), rows))


def test_ten_minutes_suffice_for_the_best_setting_at_all_sizes():
    """With the seconds that are assumed for each cell, and XLA as the fastest mode."""
    seconds = {"check": 5, "all_reduce": 15, "input": 10, "loop": 15, "step": 15}
    rows, left = [], 600 - 10 - 45.0
    plan = Plan(workers=8)
    while cell := next_cell(plan, rows, left, has_started=True):
        took = 60 if "xla" in cell.mode else seconds[cell.what]
        left -= took
        speed = 1500 if "xla" in cell.mode else 1000
        found = {"images_per_second": speed} if cell.what == "step" else {}
        rows.append(done(cell, 8, took, **found))
    results = Results(plan, rows)
    assert left >= 0
    assert {cell.size for cell in results.steps(results.best)} == {96, 128, 160, 224, 288}
    assert {cell.what for cell in results.done} == {"check", "all_reduce", "step", "input", "loop"}


@pytest.mark.parametrize(
    ("rows", "team"),
    [
        ([done(Cell("check"), 8)], 8),
        ([failed(Cell("check"), ERROR, 8)], 1),
        ([failed(Cell("check"), HUNG, 8)], 1),
        # All eight wrote that this cell failed: it is one fault.
        ([done(Cell("check"), 8)] + 8 * [failed(step(), ERROR, 8)], 8),
        ([failed(step(), ERROR, 8), failed(step(96), HUNG, 8)], 1),
        ([failed(step(), MEMORY, 8), failed(step(288), MEMORY, 8)], 8),
        ([done(step(128), 8), failed(step(), ERROR, 8), failed(step(96), HUNG, 8)], 8),
    ],
)
def test_workers_that_cannot_compute_together_are_given_up_for_one(rows, team):
    results = Results(Plan(workers=8), rows)
    assert results.team == team
    chosen = next_cell(Plan(workers=8), rows, ALL_DAY, has_started=True)
    if team == 1:  # what was measured together does not count any more
        assert (results.done, chosen) == ({}, step())


def test_a_mode_that_fails_twice_is_given_up():
    cells, _ = all_of(SMALL, answer=lambda c: failed(c) if "xla" in c.mode else done(c))
    assert [cell for cell in cells if cell.setting == (F16, "xla")] == [
        step(mode="xla"),
        step(96, mode="xla"),
    ]
    # What was cut off at the end has not failed.
    rows = [failed(step(size, mode="xla"), CUT) for size in (224, 96)]
    assert not Results(Plan(), rows).is_hopeless(step(128, mode="xla"))


def test_out_of_memory_in_a_part_without_steps_makes_no_other_part_too_large():
    rows = [failed(Cell("all_reduce"), MEMORY, 8)]
    assert not Results(Plan(workers=8), rows).is_hopeless(Cell("loop"))


RATES = [
    done(Cell("check"), 8),
    done(
        Cell("all_reduce"),
        8,
        sizes=[[1 << 20, 1e-4], [1 << 28, 4e-3]],
        gradient_bytes=102_228_128,
        gradients=2e-3,
        gradients_fp16=1.2e-3,
    ),
    *(done(step(s), 8, images_per_second=r) for s, r in ((96, 90e3), (224, 20e3), (288, 12e3))),
    done(step(mode="xla"), 8, images_per_second=15e3),
    done(Cell("input", 96, 256), 8, images_per_second=45e3, cores=64, made=True),
    done(Cell("loop"), 8, added=0.4, report_every=100),
    failed(step(mode="plain"), ERROR, 8, "InternalError: [/job:localhost] libdevice not found"),
]
EIGHT = replace(Plan(), workers=8)


def as_text(*tables):
    console = Console(file=io.StringIO(), width=200)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def row_with(text, *words):
    (line,) = (line for line in text.splitlines() if all(word in line for word in words))
    return line


def test_the_table_has_all_rows_and_says_what_failed():
    results = Results(EIGHT, RATES)
    text = as_text(report.table(results))
    assert "8 workers add up known values" in row_with(text, "check", "right")
    # 2 * 7/8 of 102 MB in 2 ms; 1.75 times 256 MiB in 4 ms.
    assert "89.4 GB/s" in row_with(text, "2.00 ms", "97.5 MiB")
    assert "117 GB/s" in row_with(text, "256 MiB")
    assert "102.4 ms" in row_with(text, "step, mixed_float16, fused", "224", "20,000 images/s")
    # 90,000 of 45,000 images/s: twice the 64 cores.
    assert "needs 128.0 such cores" in row_with(text, "input", "made photographs")
    assert "[/job:localhost] libdevice not found" in row_with(text, "plain", "FAILED")
    said = report.best_words(results)
    assert "policy: mixed_float16, xla: false, batch_norm: fused: 20,000 images/s" in said
    assert "1.33 times that of mixed_float16, xla" in said


def test_a_step_with_another_loss_than_the_other_settings_is_marked():
    def marked(*losses):
        modes = zip(("fused", "plain", "xla"), losses, strict=True)
        rows = [done(step(mode=mode), loss=loss) for mode, loss in modes]
        text = as_text(report.table(Results(Plan(), rows)))
        return [line for line in text.splitlines() if "THE LOSS" in line]

    assert marked(6.95, 6.94, 6.96) == []
    (line,) = marked(6.95, 6.94, 7.5)
    assert "xla" in line


def test_the_rates_are_read_back_and_projected(tmp_path, run_command):
    found = report.rates(Results(EIGHT, RATES), "8 GPUs", {"tensorflow": "2.18.1"})
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(found))
    rates = load_throughput(path)
    assert (rates.model, rates.workers) == ("resnet50", 8)
    # 256 images on each of 8 workers at 20,000 images/s.
    assert rates.step_seconds(224**2, 256, 8) == (pytest.approx(0.1024), "measured")
    # 2 ms with 8 workers, so 1 / 1.75 of it with 2: 2 * 1/2 of the bytes instead of 2 * 7/8.
    fewer, how = rates.step_seconds(224**2, 256, 2)
    assert (fewer, how) == (pytest.approx(0.1024 - 0.002 + 0.002 / 1.75), "scaled")

    ran = run_command("plan", "--recipe", "alibaba21", "--throughput", path, "--json")
    assert ran.returncode == 0, ran.stderr
    phases = json.loads(ran.stdout)["projection"]["phases"]
    # Twelve epochs of 625 steps at 96 px, five of them in the first phase: 5 * 625 * 2048 images.
    assert phases[0]["seconds"]["steps"] == pytest.approx(5 * 625 * 2048 / 90e3)
    ran = run_command("plan", "--recipe", "alibaba21", "--workers", 16, "--throughput", path)
    assert ran.returncode == 2
    assert "16 workers are on 2 hosts, and 'all_reduce' has no 'network_bandwidth'" in ran.stderr

    text = as_text(report.projections(found, price=98.0))
    whole = json.loads(
        run_command(
            *("plan", "--recipe", "alibaba21", "--throughput", path, "--price", 98, "--json")
        ).stdout
    )["projection"]
    assert f"{whole['cost']:.2f}" in row_with(text, "alibaba21")
    assert "cifar10" not in text  # another model


def test_without_a_step_there_are_no_rates():
    results = Results(Plan(), [failed(step())])
    assert report.rates(results, "a GPU", {}) is None
    assert "no step could be measured" in report.best_words(results)


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("OOM when allocating tensor with shape[256,64,112,112] and type half", True),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.", True),
        ("Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.00GiB", True),
        ("failed to allocate 2.2KiB (2304 bytes) from device", True),
        ("CUDNN_STATUS_ALLOC_FAILED", True),
        ("libdevice not found at ./libdevice.10.bc", False),
        ("ncclSystemError: System call (e.g. socket, malloc) or external library call", False),
        ("a room with a zoom", False),
    ],
)
def test_what_is_about_memory_is_told_from_other_faults(text, memory):
    assert is_about_memory(text) is memory


def test_an_error_in_a_line():
    frames = 'Detected at node conv2d/Conv2D defined at\n  File "model.py", line 3\n'
    said = f"Graph execution error:\n\n{frames}libdevice not found\nand more"
    assert in_a_line(RuntimeError(said)) == "RuntimeError: libdevice not found"
    oom = f"Graph execution error:\n{frames}in user code\nOOM when allocating tensor with shape[9]"
    assert in_a_line(RuntimeError(oom)).startswith("RuntimeError: OOM when allocating")
    assert in_a_line(RuntimeError()) == "RuntimeError"


def test_the_last_words_of_a_log_name_a_fault():
    log = (
        "[1] F0000 00:00 xla.cc:1] Check failed: status OK\n"
        "something else\n"
        "Process 1 exit with status code 134.\n"
        "Terminating remaining workers after failure of Process 1.\n"
    )
    said = "F0000 00:00 xla.cc:1] Check failed: status OK"
    assert last_words(log) == f"worker 1 ended with status 134: {said}"
    # The other one complains later. Its line has the head of Horovod's log.
    other = "[2026-12-01 03:17:42.1: E /horovod/operations.cc:697] Connection error\n"
    assert last_words(log + other).endswith(said)
    killed = other + "Process 1 exit with status code 137.\n"
    assert last_words(killed) == "worker 1 ended with status 137: Connection error"
    assert last_words("ready\nsteady\n") == "steady"
    assert last_words("") == "they said nothing"


# --- faults, with scripts in the place of workers


STAND_IN = """
import json, os, signal, sys, time
asked = json.loads(sys.argv[-1])
def write(row, cell=None, **more):
    usual = dict(what="step", size=16, batch=8, policy="p", mode="fused")
    cell = {} if cell is None else {"cell": usual | cell}
    with open(asked["rows"], "a") as rows:
        rows.write(json.dumps({"row": row, "workers": WORKERS, **cell, **more}) + "\\n")
def begin(**cell):
    write("begin", cell)
def done(**cell):
    found = dict(images_per_second=80.0, step=0.1, first=1.0, loss=2.3, checkpoint=0.1)
    write("done", cell, found=found, seconds=0.1)
starts = sum('"ready"' in line for line in open(asked["rows"]))
"""
TINY = Plan(
    model="resnet8",
    sizes=(16,),
    policies=("p",),
    modes=("fused", "plain"),
    late_modes=(),
    batch=8,
    largest_batch=8,
    whole_grid=False,
    input_sizes=(),
    needs_gpu=False,
)
LOOP_CELL = 'what="loop", size=0, batch=0, policy="", mode=""'
LOOP_BEGINS = f"begin({LOOP_CELL})"
LOOP = f'write("done", dict({LOOP_CELL}), found=dict(added=0.1, report_every=5), seconds=0.1)\n'


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measures with a script in the place of the workers: the folder, what failed, what is said."""
    monkeypatch.setattr(device, "LOOK_EVERY", 0.01)

    def measure(script, plan=TINY, kind=device.Measuring):
        folder = device.Folder(tmp_path)
        folder.add("machine", hardware="a machine", packages={})
        console = Console(file=io.StringIO(), width=160)

        def command(team):
            return [sys.executable, "-c", f"WORKERS = {team}\n{STAND_IN}{script}"]

        with device.Progress(console, time.monotonic(), 10) as progress:
            measuring = kind(folder, plan, time.monotonic() + ALL_DAY, command, progress, {})
            try:
                measuring.run()
            finally:
                measuring.end()
        rows = read_rows(folder.rows)
        return folder, [row for row in rows if row["row"] == "failed"], console.file.getvalue()

    return measure


READY = 'write("ready", seconds=0.1)\n'
PLAIN = 'begin(mode="plain"); done(mode="plain")\n'


def test_a_worker_that_dies_costs_its_cell_and_the_rest_is_measured(measured):
    script = (
        f"{READY}if starts == 0:\n    begin(); done(); {LOOP_BEGINS}\n"
        "    print('F0000 Check failed: stream', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGABRT)\n" + PLAIN
    )
    folder, (row,), said = measured(script)
    assert (row["cell"]["what"], row["reason"]) == ("loop", ENDED)
    assert row["text"] == "the workers ended with status -6: F0000 Check failed: stream"
    assert [rate.images_per_second for rate in load_throughput(folder.rates).rates] == [80]
    assert "loop: FAILED. the workers ended with status -6" in said
    assert "step, 16 px, batch 8, p, plain: 80 images/s" in said


def test_a_worker_that_says_why_is_ended_and_others_start(measured):
    script = (
        f"{READY}if starts == 0:\n    begin()\n"
        "    write('failed', {}, reason='error', text='no kernel', seconds=0.1)\n"
        "    time.sleep(3600)\n" + PLAIN + LOOP
    )
    folder, (row,), said = measured(script)
    assert row["text"] == "no kernel"
    assert "step, 16 px, batch 8, p, fused: FAILED. no kernel" in said
    assert {"step", "loop"} == {r["cell"]["what"] for r in read_rows(folder.rows) if "found" in r}


def test_what_a_worker_says_of_memory_before_it_dies_is_about_memory(measured):
    script = (
        f"{READY}if starts == 0:\n    begin()\n"
        "    print('failed to allocate 2 GiB: out of memory', flush=True)\n    os.abort()\n"
    )
    _, (row,), _ = measured(script + PLAIN + LOOP)
    assert row["reason"] == MEMORY


class Strict(device.Measuring):
    """Takes a step for a hang as soon as it has begun, in the first workers."""

    def limit(self, cell):
        is_first = sum(row["row"] == "ready" for row in self._rows()) == 1
        return -1.0 if cell and is_first else super().limit(cell)


def test_a_worker_that_hangs_is_ended_with_all_below_it(measured, tmp_path):
    sleep = "import time; time.sleep(3600)"
    script = (
        f"{READY}if starts == 0:\n    import subprocess\n"
        f"    child = subprocess.Popen([sys.executable, '-c', '{sleep}'])\n"
        f"    open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "    begin()\n    time.sleep(3600)\n" + PLAIN + LOOP
    )
    _, (row,), _ = measured(script, kind=Strict)
    assert row["reason"] == HUNG
    child = int((tmp_path / "child").read_text())
    # Where nothing collects orphans, a dead one stays as a zombie.
    gone = not psutil.pid_exists(child)
    assert gone or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


class LateAtPlain(device.Measuring):
    """The time is over as soon as the second mode has begun."""

    def _show(self, row):
        super()._show(row)
        if row["row"] == "begin" and row["cell"]["mode"] == "plain":
            self.deadline = time.monotonic()


def test_at_the_deadline_the_running_cell_is_cut_off(measured):
    script = f"{READY}begin(); done(); begin(mode='plain'); time.sleep(3600)\n"
    folder, (row,), said = measured(script, kind=LateAtPlain)
    assert (row["cell"]["mode"], row["reason"]) == ("plain", CUT)
    assert "plain: cut off: the time was over" in said
    assert load_throughput(folder.rates).rates


@pytest.mark.parametrize(
    "fault",
    [
        "print('error: no Horovod here', flush=True); sys.exit(1)",
        "write('failed', CHECK, reason='error', text='wrong numbers', seconds=0.0); sys.exit(1)",
    ],
)
def test_where_workers_do_not_work_together_one_measures_alone(measured, fault):
    check = asdict(Cell("check"))
    script = (
        f"CHECK = {check}\nif WORKERS == 2:\n    {fault}\n{READY}begin(); done()\n" + PLAIN + LOOP
    )
    folder, (row,), _ = measured(script, replace(TINY, workers=2))
    assert row["cell"]["what"] == "check"
    assert ("no Horovod here" in row["text"]) == ("Horovod" in fault)
    assert load_throughput(folder.rates).workers == 1
    results = Results(replace(TINY, workers=2), read_rows(folder.rows))
    assert "by one worker" in row_with(as_text(report.table(results)), "plain")


def test_a_single_worker_that_does_not_start_ends_it_with_its_last_words(measured):
    with pytest.raises(RunError, match=r"no worker starts \(status 3\): error: no GPU") as raised:
        measured("print('error: no GPU', flush=True); sys.exit(3)")
    assert "workers.log" in str(raised.value)


# --- the command


def ran_with(monkeypatch, gpus, *arguments):
    monkeypatch.setattr(device, "gpus_here", lambda: gpus)
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(device.main, list(map(str, arguments)), catch_exceptions=False)
    return str(raised.value)


def test_what_is_refused(monkeypatch, tmp_path):
    (tmp_path / "rows.jsonl").touch()
    assert "name a new folder" in ran_with(monkeypatch, [], "--output", tmp_path)
    said = ran_with(monkeypatch, ["a GPU"], "--workers", 2, "--output", tmp_path / "new")
    assert said == "--workers 2: this machine has 1 GPU(s)"
    assert not (tmp_path / "new").exists()


def test_gpus_are_those_that_are_visible(monkeypatch):
    names = ["NVIDIA H100 80GB HBM3, 81559 MiB, 550.54"] * 8
    monkeypatch.setattr(device, "QUERY", ["printf", "\\n".join(names)])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.gpus_here() == names
    for visible, count in (("0,3", 2), ("", 0), ("-1", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert len(device.gpus_here()) == count
    plan = replace(Plan(), workers=8)
    assert device.hardware(names, plan) == "8 NVIDIA H100 80GB HBM3"


def test_made_photographs_have_the_spectrum_of_photographs(tmp_path):
    luma = np.asarray(photograph(0).convert("L"), np.float64)
    height, width = luma.shape
    power = np.abs(np.fft.fft2(luma - luma.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    chosen = (frequency > 0.02) & (frequency < 0.3)
    slope, _ = np.polyfit(np.log(frequency[chosen]), np.log(power[chosen]) / 2, 1)
    assert slope == pytest.approx(-1, abs=0.1)  # the amplitude falls as 1 / frequency (Field 1987)

    write_records(tmp_path, 2)
    for stored in (160, 320):
        (file,) = (tmp_path / str(stored)).glob("train-*")
        examples = [parse_example(data) for data, is_right in read_frames(file) if is_right]
        shapes = [(e["image/height"], e["image/width"]) for e in examples]
        assert shapes == [([stored], [{160: 213, 320: 427}[stored]])] * 2  # of 375 x 500
        assert examples[0]["image/encoded"] != examples[1]["image/encoded"]


def test_the_keys_of_the_recipe_are_those_of_the_mode():
    from benchmarks.on_device.worker import recipe_of  # it imports TensorFlow

    keys = {mode: recipe_of(Plan(), step(policy=BF16, mode=mode)) for mode in MODES}
    assert {mode: (recipe.xla, recipe.batch_norm) for mode, recipe in keys.items()} == {
        "fused": (False, "fused"),
        "xla": (True, "keras"),
        "plain": (False, "keras"),
        "xla, fused": (True, "fused"),
    }
    assert {(recipe.policy, recipe.model) for recipe in keys.values()} == {(BF16, "resnet50")}


def run_of(*arguments):
    return CliRunner().invoke(device.main, list(map(str, arguments)))


@pytest.mark.parametrize("works", [True, False])
def test_the_command_prints_and_keeps_what_was_measured(monkeypatch, tmp_path, works):
    fault = "write('failed', {}, reason='error', text='why', seconds=0.1)"
    script = READY + ("begin(); done(); " if works else f"begin(); {fault}; ") + PLAIN
    script = script if works else script.replace(PLAIN, f"{fault.replace('{}', 'PLAIN')}\n")
    script = f"WORKERS = 1\nPLAIN = dict(mode='plain')\n{STAND_IN}{script}{LOOP}"
    for name, value in (("gpus_here", list), ("MINIATURE", TINY), ("LOOK_EVERY", 0.01)):
        monkeypatch.setattr(device, name, value)
    monkeypatch.setattr(device, "worker_command", lambda team: [sys.executable, "-c", script])
    ran = run_of("--output", tmp_path / "out", "--minutes", 600)
    text = (tmp_path / "out" / "report.txt").read_text()
    assert ("best: policy: p" in text) == ("best: policy: p" in ran.output) == works
    if works:
        assert ran.exit_code == 0, ran.output
        rates = tmp_path / "out" / "rates.yaml"
        assert f"plan --recipe NAME --workers 1 --throughput {rates}" in text
    else:
        assert str(ran.exception) == "no step could be measured; the table says why"
        assert not (tmp_path / "out" / "rates.yaml").exists()
        assert "FAILED" in row_with(text, "plain")


def test_two_workers_measure_the_miniature(monkeypatch, tmp_path):
    """Real workers, and all parts; one setting, since each takes a trace."""
    one = replace(device.MINIATURE, policies=("float32",), modes=("fused",))
    monkeypatch.setattr(device, "gpus_here", list)
    monkeypatch.setattr(device, "MINIATURE", one)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    ran = run_of("--workers", 2, "--minutes", 60, "--output", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    results = Results(replace(one, workers=2), rows := read_rows(tmp_path / "out" / "rows.jsonl"))
    assert [row for row in rows if row["row"] == "failed"] == []
    assert {cell.what for cell in results.done} == {"check", "all_reduce", "step", "input", "loop"}
    (found,) = results.steps().values()
    # With the initial weights, about that of a guess among 1,000 classes.
    assert found["loss"] == pytest.approx(np.log(1000), rel=0.05)
    rates = load_throughput(tmp_path / "out" / "rates.yaml")
    assert (rates.model, rates.workers) == ("resnet8", 2)
    assert [(r.image_size, r.batch_size) for r in rates.rates] == [(16, 8)]
    assert rates.rates[0].images_per_second == pytest.approx(2 * 8 / found["step"], rel=1e-3)
    # The gradients of ResNet-8 with 16 channels everywhere, in float32: counted by hand, the
    # convolutions, then BatchNorm's scales and offsets, then the head.
    kernels = 3 * 3 * 3 * 16 + 6 * (3 * 3 * 16 * 16) + 2 * (16 * 16)
    assert rates.all_reduce.bytes == 4 * (kernels + 9 * 2 * 16 + 16 * 1000 + 1000)
    assert "this is a miniature" in ran.output
    assert "2 workers add up known values" in (tmp_path / "out" / "report.txt").read_text()
