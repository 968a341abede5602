from __future__ import annotations

import pytest
import torch
from torch import nn

from hypergpu_fl.errors import TaskError
from hypergpu_fl.task.device import describe, resolve_device
from hypergpu_fl.task.models import build_model
from hypergpu_fl.task.names import import_object


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def no_module(shape: tuple[int, int, int], classes: int) -> str:
    return "a model"


@pytest.mark.parametrize("name", ["mlp", "simple_cnn", "resnet18", f"{__name__}:linear"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 32)])
def test_every_model_takes_images_of_any_shape_to_logits(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, shape, 7, normalization="group", seed=0)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("shape", "stride"), [((3, 224, 224), 2), ((1, 224, 224), 2), ((1, 28, 28), 1)])
def test_the_first_convolution_of_resnet_fits_the_image(shape: tuple[int, int, int], stride: int) -> None:
    first = build_model("resnet18", shape, 10, normalization="group", seed=0).conv1
    assert isinstance(first, nn.Conv2d)
    assert (first.in_channels, first.stride) == (shape[0], (stride, stride))


@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_resnet_computes_what_torchvisions_does_with_the_same_arrays(normalization: str) -> None:
    import torchvision

    norms = {"group": lambda features: nn.GroupNorm(32, features), "batch": nn.BatchNorm2d}
    ours = build_model("resnet18", (3, 96, 96), 10, normalization=normalization, seed=0)
    oracle = torchvision.models.resnet18(num_classes=10, norm_layer=norms[normalization])
    oracle.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(images), oracle(images))


def test_resnet_has_running_statistics_only_with_batch_normalisation() -> None:
    group, batch = (build_model("resnet18", (3, 32, 32), 10, normalization=kind, seed=0) for kind in ("group", "batch"))
    assert not list(group.buffers()) and list(batch.buffers())


def test_weights_depend_on_the_seed_and_not_on_the_process() -> None:
    def first(seed: int) -> torch.Tensor:
        return next(build_model("mlp", (1, 8, 8), 10, normalization="group", seed=seed).parameters())

    state = torch.get_rng_state()
    one = first(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(one, first(1)) and not torch.equal(one, first(2))


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("simple_cn", "'simple_cn' is not known", "did you mean 'simple_cnn'"),
        ("cnn", "'cnn' is not known", "did you mean 'simple_cnn'"),
        ("ResNet-18", "'ResNet-18' is not known", "did you mean 'resnet18'"),
        ("qqqq", "'qqqq' is not known", "use one of: mlp"),
        (f"{__name__}:no_module", "made a str", "torch.nn.Module"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(name: str, cause: str, remedy: str) -> None:
    with pytest.raises(TaskError) as caught:
        build_model(name, (1, 8, 8), 10, normalization="group", seed=0)
    assert cause in caught.value.cause and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("reference", "cause"),
    [
        ("no_colon", "not of the form"),
        (":name", "not of the form"),
        ("no.such.module:name", "cannot be imported"),
        ("json:no_such", "has no 'no_such'"),
        ("json:__name__", "is a str"),
    ],
)
def test_a_reference_that_names_no_callable_is_refused(reference: str, cause: str) -> None:
    with pytest.raises(TaskError, match=cause) as caught:
        import_object(reference, "training.task")
    assert caught.value.remedy


def test_the_cpu_is_always_there() -> None:
    assert describe(resolve_device("cpu")) == "cpu"
    assert resolve_device("auto").type in {"cuda", "mps", "cpu"}


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_asked_for_is_not_replaced_by_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the machine of the test may have the device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(TaskError, match=name):
        resolve_device(name)
