"""The ResNets against torchvision's, naive shortcuts and explicit operator matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from captum_deduce import models
from captum_deduce.models.resnet import AveragePoolShortcut, ResNet
from tests import reference

SIZES = [8, 9, 15, 28, 32, 33, (8, 21)]


def torchvision_twin(make, model: ResNet, in_channels: int, num_classes: int) -> nn.Module:
    """Torchvision's network with our stem, and the very weights and statistics of our model."""
    twin = make(num_classes=num_classes)
    twin.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    twin.maxpool = nn.Identity()
    ours, theirs = model.state_dict(), twin.state_dict()
    assert len(ours) == len(theirs)
    twin.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    return twin.double().eval()


def with_random_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    return (image_size, image_size) if isinstance(image_size, int) else image_size


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (15, 9))])
def test_plain_networks_compute_what_torchvision_computes(name, channels, size):
    model = with_random_statistics(getattr(models, name)(channels, 7)).double().eval()
    twin = torchvision_twin(getattr(torchvision.models, name), model, channels, 7)
    images = torch.rand(2, channels, *size, dtype=torch.float64)
    expected = twin(images)
    atol = 1e-9 * expected.abs().max().item()
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_plain_networks_have_torchvisions_parameters_but_for_the_stem(name):
    theirs = getattr(torchvision.models, name)()
    stem = 3 * 64 * (7 * 7 - 3 * 3)
    assert parameter_count(getattr(models, name)(3, 1000)) == parameter_count(theirs) - stem


@pytest.mark.parametrize(
    ("name", "projections"),
    [
        ("resnet18", [(64, 128), (128, 256), (256, 512)]),
        ("resnet50", [(64, 256), (256, 512), (512, 1024), (1024, 2048)]),
    ],
)
def test_smooth_networks_save_the_projections(name, projections):
    plain = getattr(models, name)(3, 10)
    smooth = getattr(models, f"sn_{name}")(3, 10, image_size=8)
    saved = sum(inner * outer + 2 * outer for inner, outer in projections)
    assert parameter_count(smooth) == parameter_count(plain) - saved


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "features"), [("resnet18", 8 * 2), ("sn_resnet18", 8 * 2), ("sn_resnet50", 32 * 2)]
)
def test_any_size_from_8_gives_logits_and_features(name, features, channels, size):
    model = models.ARCHITECTURES[name](channels, 5, width=2, image_size=size)
    outputs = []
    model.avgpool.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = model(torch.rand(3, channels, *sides(size)))
    assert logits.shape == (3, 5)
    assert outputs[0].flatten(1).shape == (3, features)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "sn_resnet18", "resnet50", "sn_resnet50"])
def test_stages_halve_the_maps_as_strided_convolutions_do(name):
    model = models.ARCHITECTURES[name](1, 10, width=2, image_size=(9, 14))
    maps = model.stem(torch.rand(2, 1, 9, 14))
    sizes = []
    for stage in model.stages:
        maps = stage(maps)
        sizes.append(tuple(maps.shape[2:]))
    assert sizes == [(9, 14), (5, 7), (3, 4), (2, 2)]


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (7, 11), (1, 3)])
@pytest.mark.parametrize(("channels", "stride"), [((3, 6), 2), ((2, 2), 2), ((2, 8), 1)])
def test_shortcut_is_the_naive_average_with_zero_channels(size, channels, stride):
    images = torch.randn(4, channels[0], *size, dtype=torch.float64)
    shortcut = AveragePoolShortcut(*channels, stride)
    assert not list(shortcut.parameters())
    for image, output in zip(images.numpy(), shortcut(images).numpy(), strict=True):
        expected = reference.average_pool_shortcut(image, channels[1], stride)
        np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-12)


def test_smooth_blocks_add_the_shortcut_to_the_branch_before_a_leaky_activation():
    model = models.sn_resnet18(1, 10, width=3, image_size=8).double().eval()
    block = model.stages[1][0]
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    shortcut = np.stack([reference.average_pool_shortcut(x, 6, 2) for x in inputs.numpy()])
    total = block.branch(inputs).detach().numpy() + shortcut
    expected = np.where(total > 0, total, 0.01 * total)
    np.testing.assert_allclose(block(inputs).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet18", nn.ReLU), ("sn_resnet18", nn.LeakyReLU), ("sn_resnet50", nn.LeakyReLU)],
)
def test_each_activation_is_a_module_that_runs_once_and_not_in_place(name, kind):
    model = models.ARCHITECTURES[name](1, 10, width=2, image_size=8)
    activations = [module for module in model.modules() if isinstance(module, kind)]
    runs = []
    for activation in activations:
        assert not activation.inplace
        activation.register_forward_hook(lambda module, inputs, output: runs.append(module))
    model(torch.rand(2, 1, 8, 8))
    # ResNet-18 and -50 are named for their layers; without the last linear one each has its own
    assert len(activations) == int(name[-2:]) - 1
    assert sorted(map(id, runs)) == sorted(map(id, activations))


@pytest.mark.parametrize("name", ["sn_resnet18", "sn_resnet50"])
def test_every_convolution_of_the_smooth_networks_is_bounded_at_the_given_image_size(name):
    coefficient = 1.5
    model = models.ARCHITECTURES[name](2, 10, width=2, coeff=coefficient, image_size=(8, 9))
    assert not parametrize.is_parametrized(model.fc)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for convolution in convolutions:
            assert parametrize.is_parametrized(convolution, "weight")
            convolution.parametrizations.weight.original.mul_(100)
        for _ in range(30):
            model.train()(torch.rand(2, 2, 8, 9))
    stem = model.eval().stem[0]
    images = torch.eye(2 * 8 * 9).reshape(-1, 2, 8, 9)
    sigma = torch.linalg.matrix_norm(stem(images).flatten(1), 2).item()
    assert sigma == pytest.approx(coefficient, rel=0.02)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_plain_networks_are_not_normalised(name):
    model = models.ARCHITECTURES[name](width=2)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_weights_are_he_normal_and_follow_the_global_seed():
    torch.manual_seed(3)
    first = models.resnet18(1, 10, width=32)
    torch.manual_seed(3)
    second = models.resnet18(1, 10, width=32)
    weight = first.stages[3][1].branch[0].weight
    # variance 2 / (outputs x kernel entries), from 590,000 values
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)


def test_float64_images_go_through_a_float64_model():
    model = models.sn_resnet18(3, 4, width=2, image_size=8).eval()
    images = torch.rand(2, 3, 8, 8)
    single = model(images)
    double = model.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make", [models.resnet18, models.resnet50, models.sn_resnet18, models.sn_resnet50]
)
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"in_channels": 0}, ValueError, "in_channels.*0"),
        ({"num_classes": 1}, ValueError, "num_classes.*1"),
        ({"width": 2.5}, TypeError, "width.*2.5"),
        ({"image_size": 7}, ValueError, "image_size.*7"),
        ({"image_size": (8, 4)}, ValueError, "image_size.*4"),
        ({"image_size": (8, 8, 3)}, ValueError, r"image_size.*\(8, 8, 3\)"),
        ({"image_size": 28.0}, TypeError, "image_size.*28.0"),
        ({"image_size": "28"}, TypeError, "image_size.*'2'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, arguments, error, words):
    with pytest.raises(error, match=words):
        make(**arguments)
