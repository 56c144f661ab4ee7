"""Layers and small networks to normalise, and what they are independently of the package."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from captum_deduce.spectral import SpectralBound, spectral_normalize
from tests.reference import convolution_matrix, transposed_convolution_matrix


def bound_of(layer) -> SpectralBound:
    (bound,) = layer.parametrizations["weight"]
    return bound


def original_of(layer):
    return layer.parametrizations["weight"].original


def matrix_of(layer, weight, size):
    """The layer's operator on a signal of a given size, written out from the layer's settings."""
    weight = weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return weight
    settings = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if layer.transposed:
        settings |= {"padding": layer.padding, "output_padding": layer.output_padding}
        return transposed_convolution_matrix(weight, size, **settings)
    padding = layer.padding
    if padding == "same":  # torch puts the odd one at the end
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        settings["padding"] = tuple((t // 2, t - t // 2) for t in total)
    else:
        padding = (0,) * len(size) if padding == "valid" else padding
        settings["padding"] = tuple((p, p) for p in padding)
    if layer.padding_mode == "zeros":
        return convolution_matrix(weight, size, **settings)
    margins, settings["padding"] = settings["padding"], ((0, 0),) * len(size)
    widened = tuple(n + sum(margin) for n, margin in zip(size, margins, strict=True))
    mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[layer.padding_mode]
    sources = np.pad(np.arange(np.prod(size)).reshape(size), margins, mode=mode).flatten()
    padding_matrix = np.kron(np.eye(layer.in_channels), np.eye(np.prod(size))[sources])
    return convolution_matrix(weight, widened, **settings) @ padding_matrix


def largest_singular_value(layer, weight, size):
    return torch.linalg.svdvals(torch.from_numpy(matrix_of(layer, weight, size)))[0].item()


LAYERS = {
    "3x3": (lambda: nn.Conv2d(3, 4, 3, padding=1), (6, 7)),
    "stride": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1), (7, 8)),
    "stride above the kernel": (lambda: nn.Conv2d(2, 5, 2, stride=3), (8, 8)),
    "no padding": (lambda: nn.Conv2d(3, 4, (2, 5)), (5, 7)),
    "much padding": (lambda: nn.Conv2d(2, 3, 3, padding=(4, 3)), (4, 4)),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=(2, 3), padding=(2, 1)), (7, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 6)),
    "same": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), (6, 5)),
    "reflect": (lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), (5, 6)),
    "replicate": (
        lambda: nn.Conv2d(2, 4, 3, padding=2, stride=2, padding_mode="replicate", groups=2),
        (4, 5),
    ),
    "circular": (lambda: nn.Conv1d(2, 3, 5, padding="same", padding_mode="circular"), (9,)),
    "replicate 1x1": (lambda: nn.Conv2d(3, 2, 1, padding=1, padding_mode="replicate"), (3, 4)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (6, 5)),
    "kernel as large as the input": (lambda: nn.Conv2d(3, 8, 5), (5, 5)),
    "one row": (lambda: nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), (4, 6)),
    "one dimension": (lambda: nn.Conv1d(3, 5, 4, stride=2, padding=3), (14,)),
    "three dimensions": (
        lambda: nn.Conv3d(2, 3, (3, 2, 2), stride=(1, 2, 1), padding=1),
        (3, 4, 4),
    ),
    "1x1": (lambda: nn.Conv2d(6, 4, 1), (3, 4)),
    "1x1, groups and stride": (lambda: nn.Conv2d(6, 4, 1, groups=2, stride=2), (4, 5)),
    "linear": (lambda: nn.Linear(20, 11), (20,)),
    "large linear": (lambda: nn.Linear(180, 150), (180,)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), (5, 4)),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(4, 4, 3, stride=3, output_padding=(1, 2), groups=2, dilation=2),
        (3, 4),
    ),
    "transposed, output padding above the stride": (
        lambda: nn.ConvTranspose1d(2, 3, 3, dilation=3, output_padding=2),
        (6,),
    ),
    "transposed 1x1": (lambda: nn.ConvTranspose2d(4, 6, 1, stride=2, groups=2), (3, 3)),
    "transposed, three dimensions": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 3, 2)),
}


def example(layer, size):
    return torch.rand(1, *(size if isinstance(layer, nn.Linear) else (layer.in_channels, *size)))


def small_network():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 1),
        nn.Flatten(),
        nn.Linear(100, 5),
    )


def normalized_network(coeff=0.5, **options):
    images = torch.rand(1, 1, 5, 5)
    return spectral_normalize(small_network(), coeff, example_input=images, **options)


IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def buffers_of(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "param" in name}


def snapshot(model):
    return (
        [type(module) for module in model.modules()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        [list(module._parameters) for module in model.modules()],
        [id(parameter) for parameter in model.parameters()],
        {name: value.detach().clone() for name, value in tensors(model).items()},
    )


def tensors(model):
    return {
        name: value
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if not nn.parameter.is_lazy(value) and not value.is_meta
    }


def same(one, other):
    *settings, values = one
    *other_settings, other_values = other
    return (
        settings == other_settings
        and values.keys() == other_values.keys()
        and all(
            torch.equal(values[name].nan_to_num(7), other_values[name].nan_to_num(7))
            for name in values
        )
    )
