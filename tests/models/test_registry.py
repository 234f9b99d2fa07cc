from models.registry import build_model, names


def test_names_are_the_known_ones():
    resnets = {f"resnet{d}" for d in (8, 14, 20, 18, 34, 50, 101, 152)}
    assert set(names()) == {*resnets, "whitened_cnn"}


def test_a_model_is_called_by_its_name():
    assert {build_model(name, (32, 32), 2).name for name in ("resnet8", "whitened_cnn")} == {
        "resnet8",
        "whitened_cnn",
    }
