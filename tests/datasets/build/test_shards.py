import pytest

from datasets.build.shards import shard_counts


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({"train": 1281167, "validation": 50000}, {"train": 1024, "validation": 128}),
        ({"train": 10000, "validation": 1000}, {"train": 8, "validation": 1}),
        ({"train": 20000, "validation": 10000}, {"train": 16, "validation": 8}),
        ({"train": 3}, {"train": 3}),
        ({"train": 8, "validation": 1}, {"train": 8, "validation": 1}),
    ],
)
def test_default_shards(images, expected):
    assert shard_counts(images) == expected
