import re
import time

import pytest
from click.testing import CliRunner

from datasets.build_imagenet_data import main
from tests.datasets.samples import build, file_bytes, photograph, write_tree


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    data = file_bytes(photograph(1))
    images = {f"train/{name}/{number}.JPEG": data for name in "abc" for number in range(200)}
    images |= {f"val/a/{number}.JPEG": data for number in range(100)} | {"train/a/x.JPEG": b"x"}
    return write_tree(tmp_path_factory.mktemp("source"), images)


def test_a_plan_tells_what_the_build_is_and_writes_nothing(source, tmp_path):
    arguments = ["--source", source, "--output", tmp_path / "out", "--sizes", "32,16", "--plan"]
    began = time.monotonic()
    ran = CliRunner().invoke(main, [*map(str, arguments), "--processes", "2"])
    slow = 60 / (time.monotonic() - began)  # a tenth of its rate, the start of processes included
    assert ran.exit_code == 0, ran.output
    assert not (tmp_path / "out").exists()
    rows = {line[:8].strip(): line[8:] for line in ran.stdout.splitlines()}
    assert rows["set"] == "701 images (train 601, validation 100) in 3 classes, folders"
    assert re.fullmatch(r"600 images, [01] unreadable", rows["sample"])
    assert float(re.match(r"[\d,]+", rows["rate"])[0].replace(",", "")) > slow
    whole, main_process, each = (
        float(n)
        for n in re.findall(r"([\d.]+) MB \((\d+) \+ 2 x (\d+)\)", rows["memory"].replace(",", ""))[
            0
        ]
    )
    assert whole == pytest.approx(main_process + 2 * each, abs=2)
    # A process that writes does not carry what this one holds.
    assert 20 < each < 150
    manifests = build(source, tmp_path / "out", (32, 16), max_rejected=0.01)
    planned = {int(s): float(mb) for s, mb in re.findall(r"(\d+): ([\d.]+) MB", rows["disk"])}
    for size, manifest in manifests.items():
        shards = (shard for split in manifest.splits.values() for shard in split.shards.values())
        assert planned[size] == pytest.approx(sum(shard.bytes for shard in shards) / 1e6, abs=0.06)


def test_a_plan_tries_as_many_images_as_it_is_told(source, tmp_path):
    arguments = ["--source", source, "--output", tmp_path / "out", "--sizes", "16", "--plan"]
    arguments += ["--processes", "2", "--sample"]
    ran = CliRunner().invoke(main, [*map(str, arguments), "500"])
    assert re.search(r"^sample +500 images, [01] unreadable$", ran.stdout, re.M), ran.output
    ran = CliRunner().invoke(main, [*map(str, arguments), "0"])
    assert ran.exit_code == 2
    message = "error: --sample: received 0; give a number of images from 1"
    assert ran.stderr.splitlines()[-1] == message


def test_a_plan_refuses_what_the_build_would(tmp_path):
    arguments = ["--source", tmp_path, "--output", tmp_path / "out", "--sizes", 32, "--plan"]
    ran = CliRunner().invoke(main, list(map(str, arguments)))
    assert ran.exit_code == 2
    assert ran.stderr.startswith("error: source")
