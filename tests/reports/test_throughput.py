"""Rates between and beyond those measured, by hand; and what is refused."""

import pytest

from core.errors import UserError
from reports.throughput import AllReduce, Throughput, load_throughput

TABLE = Throughput(
    workers=2,
    rates=(
        {"image_size": 100, "batch_size": 10, "images_per_second": 200},  # step 0.1 s
        {"image_size": 100, "batch_size": 30, "images_per_second": 300},  # step 0.2 s
        {"image_size": 200, "batch_size": 10, "images_per_second": 50},  # step 0.4 s
    ),
)


@pytest.mark.parametrize(
    ("pixels", "batch", "seconds", "how"),
    [
        (100**2, 10, 0.1 / 10, "measured"),
        (100**2, 30, 0.2 / 30, "measured"),
        # Half-way between the steps of 0.1 and 0.2 s.
        (100**2, 20, 0.15 / 20, "interpolated"),
        # As the nearest batch's image: 0.2 / 30.
        (100**2, 60, 0.2 / 30, "extrapolated"),
        (100**2, 5, 0.01, "extrapolated"),
        # A third of the way from 10,000 to 40,000 pixels: 0.01 + (0.04 - 0.01) / 3.
        (20000, 10, 0.02, "interpolated"),
        # In proportion to the pixels, from the nearest size.
        (80**2, 10, 0.01 * 0.64, "extrapolated"),
        (250**2, 10, 0.04 * 1.5625, "extrapolated"),
    ],
)
def test_the_rule(pixels, batch, seconds, how):
    found, words = TABLE.seconds_per_image(pixels, batch)
    assert found == pytest.approx(seconds)
    assert words == how


def test_a_rate_that_was_taken_over_is_not_called_measured():
    """Nor is one between it and a measured one; the seconds are those of any other rate."""
    rates = [rate.model_dump() for rate in TABLE.rates]
    rates[2]["measured"] = False
    table = Throughput(workers=2, rates=rates)
    assert table.seconds_per_image(200**2, 10) == (pytest.approx(0.04), "extrapolated")
    assert table.seconds_per_image(20000, 10) == (pytest.approx(0.02), "extrapolated")
    assert table.seconds_per_image(100**2, 10) == (pytest.approx(0.01), "measured")


@pytest.mark.parametrize(
    ("pixels", "batch", "message"),
    [
        (70**2, 10, "4,900 pixels are too far from those measured"),
        (300**2, 10, "90,000 pixels are too far"),
        (100**2, 121, "a batch of 121 is too far from those measured at 10,000 pixels"),
        (200**2, 2, "a batch of 2 is too far"),
    ],
)
def test_what_is_too_far_is_refused(pixels, batch, message):
    with pytest.raises(UserError, match=message):
        TABLE.seconds_per_image(pixels, batch)


def test_an_all_reduce_by_hand():
    bandwidths = {"host_bandwidth": 100e9, "network_bandwidth": 10e9}
    costs = AllReduce(bytes=100e6, workers_per_host=8, latency=1e-4, **bandwidths)
    assert costs.seconds(1) == 0
    assert costs.seconds(2) == pytest.approx(1e-3)  # 2 * 1/2 of 1 ms
    assert costs.seconds(8) == pytest.approx(1.75e-3)  # 2 * 7/8 of 1 ms
    # Four hosts: beside it 2 * 3/4 of 10 ms, and six messages.
    assert costs.seconds(32) == pytest.approx(1.75e-3 + 15e-3 + 6e-4)
    half = costs.model_copy(update={"exposed": 0.5})
    assert half.seconds(2) == pytest.approx(0.5e-3)


def test_without_a_bandwidth_between_hosts_there_is_one_host():
    costs = AllReduce(bytes=100e6, workers_per_host=8, host_bandwidth=100e9)
    assert costs.seconds(8) == pytest.approx(1.75e-3)  # 2 * 7/8 of 1 ms
    with pytest.raises(UserError, match=r"9 workers are on 2 hosts.* give at most --workers 8"):
        costs.seconds(9)


def test_another_number_of_workers_changes_a_step_by_its_all_reduce():
    costs = {"bytes": 1e9, "host_bandwidth": 100e9, "network_bandwidth": 10e9, "latency": 0}
    table = TABLE.model_copy(update={"all_reduce": AllReduce(**costs)})
    # Two workers of one host: 2 * 1/2 of 10 ms; sixteen of two: 2 * 7/8 of 10 ms and
    # 2 * 1/2 of 100 ms.
    assert table.step_seconds(100**2, 10, 16) == (pytest.approx(0.1 - 0.01 + 0.1175), "scaled")
    assert table.step_seconds(100**2, 10, 2) == (pytest.approx(0.1), "measured")
    with pytest.raises(UserError, match=r"its rates are of 2 worker.* give --workers 2"):
        TABLE.step_seconds(100**2, 10, 4)


def test_a_csv_file_is_read(tmp_path):
    path = tmp_path / "two.csv"
    path.write_text("workers,image_size,batch_size,images_per_second\n2,32,64,500\n2,24,96,900\n")
    found = load_throughput(path)
    assert found.workers == 2
    assert found.hardware == "two"
    assert found.seconds_per_image(32**2, 64) == (pytest.approx(2 / 500), "measured")


def test_the_factor_makes_all_rates_faster():
    fast = TABLE.model_copy(update={"factor": 2.0})
    assert fast.seconds_per_image(100**2, 10)[0] == pytest.approx(0.005)


COLUMNS = "image_size,batch_size,images_per_second"
RATE = "{image_size: 32, batch_size: 8, images_per_second: 10}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.yaml", "rates: []", "rates"),
        ("r.yaml", "", "valid dictionary"),
        ("r.yaml", "{", "not readable as rates"),
        ("r.yaml", f"rates: [{RATE}, {RATE}]", "32 px at batch 8 is there twice"),
        ("r.yaml", f"rates: [{RATE}]\nspeed: 3", "speed"),
        ("r.yaml", "rates: [{image_size: 32, batch_size: 8, images_per_second: -1}]", "-1"),
        ("r.csv", f"{COLUMNS}\n32,x,10\n", "'x'"),
        ("r.csv", "size,batch\n32,8\n", "size"),
        ("r.csv", f"workers,{COLUMNS}\n1,32,8,9\n2,24,8,9\n", "different numbers of workers"),
    ],
)
def test_a_bad_table_is_refused_with_its_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_throughput(tmp_path / name)
    assert name in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load_throughput(tmp_path / "none.yaml")
