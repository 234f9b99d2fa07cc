"""What the tests of the input pipelines share."""

import pytest

from datasets.input import fused_jpeg


@pytest.fixture(params=["compiled", "TensorFlow's"])
def ops(request, monkeypatch):
    """With the compiled ops, and with TensorFlow's own in their place."""
    if request.param == "compiled":
        assert fused_jpeg.native() is not None, "make setup compiles it"
    else:
        monkeypatch.setattr(fused_jpeg, "native", lambda: None)
    return request.param
