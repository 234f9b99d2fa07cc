"""The drill's plan and its command, with a stand-in for the runs; real ones: test_drill.py."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import chaos


def test_a_drill_has_all_kinds_alike_at_steps_that_every_run_reaches():
    planned = chaos.plan(0, 18, chaos.KINDS)
    assert sorted(kind for kind, _, _ in planned) == sorted(2 * chaos.KINDS)
    for begin in range(0, 18, chaos.FAULTS_A_RUN):
        steps = [at for _, at, _ in planned[begin : begin + chaos.FAULTS_A_RUN]]
        assert steps == sorted(set(steps))
        assert 0 < steps[0] <= steps[-1] < chaos.STEPS
    assert planned == chaos.plan(0, 18, chaos.KINDS)


class StandIn:
    """A run that does nothing; no fault is real."""

    def __init__(self, folder, data, recipe):
        self.run = folder

    def start(self, resume):
        self.run.mkdir()

    def finish(self):
        pass


def strike(job, number, kind, at, seed):
    return chaos.Row(number, 1, kind, at, ended=1.5, status=1, resumed=at - 3, lost=3)


@pytest.mark.parametrize("equal", [True, False])
def test_the_command_collects_the_rows_of_its_parts_and_says_whether_all_recovered(
    monkeypatch, tmp_path, equal
):
    for name, value in (("Job", StandIn), ("strike", strike), ("prepare_digits", lambda p: p)):
        monkeypatch.setattr(chaos, name, value)
    out = tmp_path / "rows.jsonl"
    options = ["--faults", "7", "--kinds", "kill_all,ctrl_c", "--out", str(out)]
    for part, same in ((["--last", "5"], True), (["--first", "6"], equal)):
        monkeypatch.setattr(chaos, "same_end", lambda run, whole, same=same: same)
        ran = CliRunner().invoke(chaos.main, [*options, *part])
        assert ran.exit_code == (0 if same else 1), ran.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(1, 8))
    assert [row["equal"] for row in rows] == [True] * 5 + [equal] * 2
    assert f"7 faults, {7 if equal else 5} recovered bit for bit; at most 3 steps" in ran.output
    assert "begin with its first" in CliRunner().invoke(chaos.main, ["--first", "3"]).output
