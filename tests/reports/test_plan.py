"""`recipe.py plan` as a user runs it."""

import json
from itertools import pairwise

import pytest

from core.errors import UserError
from core.schedule import Schedule
from reports.plan import plan, print_plan
from training.recipes import load_recipe


def test_the_json_has_the_published_schedule(run_command):
    ran = run_command(
        "plan", "--recipe", "imagenet104", "--workers", 8, "--at", "0,1,625", "--json"
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["workers"], found["images"], found["total_steps"]) == (8, 1281167, 19683)
    ends = [0, 1296, 4536, 11411, 14679, 19683]
    assert [p["steps"] for p in found["phases"]] == [list(pair) for pair in pairwise(ends)]
    assert [p["steps_per_epoch"] for p in found["phases"]] == [216, 216, 625, 817, 1251]
    third = found["phases"][2]
    assert third["epoch"] == [21, 32]
    assert (third["lr"], third["lr_method"]) == ([0.45, 0.02], "exp")
    assert (third["batch_size"], third["image_size"]) == (256, [224, 224])
    # From the published log.
    rates = [f"{row['learning_rate']:.5f}" for row in found["at"]]
    assert rates == ["1.00000", "1.00077", "1.48225"]
    assert found["at"][2]["epoch"] == pytest.approx(625 / 216)
    assert (found["at"][2]["batch_size"], found["at"][2]["image_size"]) == (740, [128, 128])


def test_records_of_other_lengths_are_told_apart():
    images = {"20/train": 4000, "28/train": 5000}
    assert plan(load_recipe("demo").schedule(1, images))["images"] == images
    assert plan(load_recipe("demo").schedule(1, dict.fromkeys(images, 4000)))["images"] == 4000


def test_the_table_names_all_phases(run_command):
    ran = run_command("plan", "--recipe", "demo")
    assert ran.returncode == 0, ran.stderr
    for words in ("0 to 2", "2 to 9", "linear", "exp", "28 x 28", "20/train"):
        assert words in ran.stdout


def test_the_table_shows_what_a_phase_has_of_its_own(capsys):
    phase = load_recipe("demo").training_strategy.root[0].model_dump() | {"augmentation": {}}
    changes = {"lr": [0.1, 0.3], "lr_method": "cosine", "momentum": [0.96, 0.9]}
    own = {"augmentation": {"area": [0.5, 1]}, "freeze": ["stem_[cb]*", "logits"]}
    last = {"epoch": [2, 4], "lr_method": "polynomial", "power": 1, "momentum": [0.9, 0.8]}
    schedule = Schedule([phase | changes | own, phase | last], workers=2, images=4000)
    print_plan(plan(schedule, [40, 120]))
    said = " ".join(capsys.readouterr().out.split())
    assert "phase 1 augments with area [0.5, 1.0]" in said
    assert "phase 1 freezes stem_[cb]*, logits" in said
    assert "phase 2 augments" not in said
    for words in ("cosine", "0.96 to 0.9 │", "0.2 │ 0.93 │", "0.085 │ 0.85 │"):
        assert words in said
    print_plan(plan(load_recipe("demo").schedule(2), [40]))
    assert "momentum" not in capsys.readouterr().out


def test_planning_needs_neither_tensorflow_nor_keras(run_process):
    code = (
        "import sys, click\n"
        "sys.argv = ['recipe.py', 'plan', '--recipe', 'imagenet104']\n"
        "import recipe\n"
        "recipe.main(standalone_mode=False)\n"
        "assert not {'tensorflow', 'keras', 'horovod'} & set(sys.modules)\n"
    )
    ran = run_process("-c", code)
    assert ran.returncode == 0, ran.stderr


def test_a_step_outside_the_run_is_refused():
    schedule = load_recipe("imagenet104").schedule(8)
    assert plan(schedule, [19683])["at"][0]["learning_rate"] == pytest.approx(0.002)
    with pytest.raises(UserError, match="--at 19684: the run has steps 0 to 19683"):
        plan(schedule, [19684])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nope"], "recipe 'nope': neither a preset"),
        (["--recipe", "demo", "--at", "1,x"], "--at: received '1,x'"),
        (["--recipe", "demo", "--workers", "100"], "phase 1, key 'batch_size': received 50,"),
        (["--recipe", "demo", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_mistakes_get_a_line_and_a_status(run_command, arguments, message):
    ran = run_command("plan", *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
