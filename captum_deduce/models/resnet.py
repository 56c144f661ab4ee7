r"""ResNets for small images, plain and with soft spectral normalisation.

Both keep the resolution of small images: a 3x3 stem of stride 1 and no max pooling. The spectrally
normalised ones have the changes that make features both smooth in the input and sensitive to it
(Mukhoti et al., *Deep Deterministic Uncertainty*, 2021): convolutions of bounded operator norm,
leaky activations, and shortcuts without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from captum_deduce import checks
from captum_deduce.models.sizes import image_sides
from captum_deduce.spectral import spectral_normalize

_RESNET18 = (2, 2, 2, 2)
_RESNET50 = (3, 4, 6, 3)


class AveragePoolShortcut(nn.Module):
    """A shortcut without weights: it pools what shrinks and adds zeros to what grows.

    A side of odd length shrinks as under a 3x3 convolution of the same stride: the windows at the
    far edge average what is left there.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, at least ``in_channels``.
        stride (int): How many pixels become one, along either side.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.added_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Pool and widen.

        Args:
            inputs (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: N x out_channels x ceil(height / stride) x ceil(width / stride).
        """
        pooled = functional.avg_pool2d(inputs, self.stride, ceil_mode=True)
        return functional.pad(pooled, (0, 0, 0, 0, 0, self.added_channels))


class ResidualBlock(nn.Module):
    """The activation of ``branch(x) + shortcut(x)``.

    Args:
        branch (nn.Module): Convolutions and batch norms, the last without an activation.
        shortcut (nn.Module): Brings the input into the shape of the branch's output.
        activation (nn.Module): Applied to the sum.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """Add the branch to the shortcut.

        Args:
            inputs (Tensor): N x channels x height x width.

        Returns:
            Tensor: Of the shape that the branch gives.
        """
        output: Tensor = self.activation(self.branch(inputs) + self.shortcut(inputs))
        return output


class ResNet(nn.Module):
    r"""A residual network for small images (He et al., *Deep Residual Learning*, 2016).

    Stages of ``width``, ``2 * width``, ``4 * width``, ... channels; all but the first halve the
    resolution in their first block, in its 3x3 convolution. The features are the output of
    ``avgpool``: with four stages ``8 * width`` values per image, ``32 * width`` with bottlenecks.

    Deviations from the network for ImageNet: the stem, no max pooling, and what ``activation`` and
    ``shortcut`` choose. Every activation is a module of its own and none works in place, which
    attribution methods that hook modules rely on.

    Args:
        blocks (Sequence[int]): The number of residual blocks of each stage.
        in_channels (int, optional): Channels of the images. Default: 1
        num_classes (int, optional): Number of logits. Default: 10
        width (int, optional): Channels of the first stage. Default: 64
        bottleneck (bool, optional): Blocks of 1x1, 3x3 and 1x1 convolutions that end on four times
            the stage's channels, instead of two 3x3 convolutions. Default: False
        activation (Callable, optional): Makes an activation module. Default: ``nn.ReLU``
        shortcut (Callable, optional): Makes the shortcut of the blocks that change shape, from
            (in_channels, out_channels, stride). Default: a strided 1x1 convolution and a batch norm

    Raises:
        TypeError: Sizes that are not whole numbers.
        ValueError: Sizes below 1, or fewer than 2 classes.

    Examples::

        >>> model = ResNet((1, 1), in_channels=3, num_classes=5, width=4)
        >>> model(torch.zeros(2, 3, 12, 9)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        in_channels: int = 1,
        num_classes: int = 10,
        width: int = 64,
        *,
        bottleneck: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        shortcut: Callable[[int, int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        checks.number("in_channels", in_channels, minimum=1, integer=True)
        checks.number("num_classes", num_classes, minimum=2, integer=True)
        checks.number("width", width, minimum=1, integer=True)
        make_shortcut = _projection if shortcut is None else shortcut
        self.stem = _convolutions(in_channels, [(3, width, 1)], activation).append(activation())
        self.stages = nn.Sequential()
        channels = width
        for index, length in enumerate(blocks):
            stage = nn.Sequential()
            for stride in [1 if index == 0 else 2] + [1] * (length - 1):
                layers = _branch_layers(width * 2**index, stride, bottleneck)
                out_channels = layers[-1][1]
                same_shape = stride == 1 and channels == out_channels
                stage.append(
                    ResidualBlock(
                        _convolutions(channels, layers, activation),
                        nn.Identity()
                        if same_shape
                        else make_shortcut(channels, out_channels, stride),
                        activation(),
                    )
                )
                channels = out_channels
            self.stages.append(stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Classify images.

        Args:
            inputs (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: Logits, N x num_classes.
        """
        logits: Tensor = self.fc(self.avgpool(self.stages(self.stem(inputs))).flatten(1))
        return logits


def resnet18(
    in_channels: int = 1,
    num_classes: int = 10,
    width: int = 64,
    image_size: int | Sequence[int] = 28,
) -> ResNet:
    """Make a plain ResNet-18: ReLU, and strided 1x1 convolutions with batch norm as shortcuts.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        num_classes (int, optional): Number of logits. Default: 10
        width (int, optional): Channels of the first stage; ``8 * width`` features. Default: 64
        image_size (int or (height, width), optional): At least 8; the network takes other sizes
            too. Default: 28

    Returns:
        ResNet: With new weights, drawn from torch's global generator.

    Raises:
        TypeError: Sizes that are not whole numbers.
        ValueError: Sizes that are too small.
    """
    image_sides(image_size)
    return ResNet(_RESNET18, in_channels, num_classes, width)


def resnet50(
    in_channels: int = 1,
    num_classes: int = 10,
    width: int = 64,
    image_size: int | Sequence[int] = 28,
) -> ResNet:
    """Make a plain ResNet-50: as :func:`resnet18`, with bottlenecks and ``32 * width`` features."""
    image_sides(image_size)
    return ResNet(_RESNET50, in_channels, num_classes, width, bottleneck=True)


def sn_resnet18(
    in_channels: int = 1,
    num_classes: int = 10,
    width: int = 64,
    coeff: float = 4.0,
    image_size: int | Sequence[int] = 28,
) -> ResNet:
    r"""Make the paper's classifier: a ResNet-18 with soft spectral normalisation.

    As published: LeakyReLU of slope 0.01, average-pool shortcuts, ordinary batch norm, every
    convolution bounded and the last linear layer not.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        num_classes (int, optional): Number of logits. Default: 10
        width (int, optional): Channels of the first stage; ``8 * width`` features. Default: 64
        coeff (float, optional): The bound of each convolution's operator norm, see
            :func:`captum_deduce.spectral.spectral_normalize`. Default: 4.0
        image_size (int or (height, width), optional): The size for which convolutions are bounded,
            at least 8. The network takes other sizes too, but the bound then is only near
            ``coeff``. Default: 28

    Returns:
        ResNet: With new weights, drawn from torch's global generator.

    Raises:
        TypeError: Sizes that are not whole numbers.
        ValueError: Sizes or a coefficient that are too small.

    Examples::

        >>> model = sn_resnet18(in_channels=1, num_classes=10, width=4, image_size=8)
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _smooth(_RESNET18, in_channels, num_classes, width, coeff, image_size, bottleneck=False)


def sn_resnet50(
    in_channels: int = 1,
    num_classes: int = 10,
    width: int = 64,
    coeff: float = 4.0,
    image_size: int | Sequence[int] = 28,
) -> ResNet:
    """Make an SN-ResNet-50: as :func:`sn_resnet18`, with bottlenecks, ``32 * width`` features."""
    return _smooth(_RESNET50, in_channels, num_classes, width, coeff, image_size, bottleneck=True)


def _smooth(
    blocks: Sequence[int],
    in_channels: int,
    num_classes: int,
    width: int,
    coeff: float,
    image_size: int | Sequence[int],
    *,
    bottleneck: bool,
) -> ResNet:
    height_and_width = image_sides(image_size)
    model = ResNet(
        blocks,
        in_channels,
        num_classes,
        width,
        bottleneck=bottleneck,
        activation=partial(nn.LeakyReLU, 0.01),
        shortcut=AveragePoolShortcut,
    )
    features = nn.Sequential(model.stem, model.stages)
    example = torch.zeros(1, in_channels, *height_and_width)
    spectral_normalize(features, coeff, example_input=example)
    return model


def _branch_layers(planes: int, stride: int, bottleneck: bool) -> list[tuple[int, int, int]]:
    """List a residual branch's convolutions, each as (kernel size, channels, stride)."""
    if bottleneck:
        return [(1, planes, 1), (3, planes, stride), (1, 4 * planes, 1)]
    return [(3, planes, stride), (3, planes, 1)]


def _convolutions(
    in_channels: int,
    layers: Sequence[tuple[int, int, int]],
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    """Chain convolutions, each with a batch norm, with activations between them."""
    modules: list[nn.Module] = []
    for kernel_size, out_channels, stride in layers:
        modules += [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            activation(),
        ]
        in_channels = out_channels
    return nn.Sequential(*modules[:-1])


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return _convolutions(in_channels, [(1, out_channels, stride)], nn.Identity)
