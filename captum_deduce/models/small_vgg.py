"""A small classifier of 3x3 convolutions alone, for use as an oracle of another architecture."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from captum_deduce import checks
from captum_deduce.models.small_classifier import SmallClassifier


class SmallVGG(SmallClassifier):
    """A classifier of small images: 3x3 convolutions with ReLU, and nothing else but pooling.

    Three stages of two 3x3 convolutions, of one, two and four times ``width`` channels: the form of
    VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
    recognition", 2015). A max pooling by 2 stands between stages, the mean over all places and one
    linear layer behind the last. There is no dropout, and batch norm after each convolution only
    with ``batch_norm``, which photographs ask for and digits don't. Weights are initialised
    as by He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015, without which so many layers
    hardly train. It sees details that :class:`SmallCNN`, with its 5x5 convolutions and a weight for
    every pixel of its maps, does not see, and the other way round. What both agree on is less
    likely to be a quirk of one architecture.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        num_classes (int, optional): Number of logits. Default: 10
        width (int, optional): Channels of the first stage. Default: 16
        image_size (int or tuple[int, int], optional): Their side, or height and width; at least 8.
            Default: 28
        batch_norm (bool, optional): Normalise what each convolution returns. Default: False

    Raises:
        TypeError: A size that is no int, or a ``batch_norm`` that is no bool.
        ValueError: Sides below 8, or sizes below 1.

    Examples::

        >>> import torch
        >>> SmallVGG(3, num_classes=4, image_size=(9, 12))(torch.rand(2, 3, 9, 12)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        width: int = 16,
        image_size: int | tuple[int, int] = 28,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(in_channels, num_classes, width, image_size)
        checks.flag("batch_norm", batch_norm)
        self.settings["batch_norm"] = batch_norm
        stages: list[nn.Module] = []
        for before, channels in pairwise((in_channels, width, 2 * width, 4 * width)):
            for entering in (before, channels):
                stages.append(nn.Conv2d(entering, channels, 3, padding=1))
                if batch_norm:
                    stages.append(nn.BatchNorm2d(channels))
                stages.append(nn.ReLU())
            stages.append(nn.MaxPool2d(2, ceil_mode=True))
        self.layers = nn.Sequential(
            *stages[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
