"""A small convolutional classifier without residual connections, for use as an oracle."""

from __future__ import annotations

from torch import nn

from captum_deduce.models.small_classifier import SmallClassifier


class SmallCNN(SmallClassifier):
    """A classifier of small images that has nothing in common with a ResNet but the data.

    Two 5x5 convolutions, each with ReLU and a max pooling by 2, and two linear layers with ReLU
    between them: the form of LeNet-5 (LeCun, Bottou, Bengio and Haffner, "Gradient-based learning
    applied to document recognition", 1998), without batch norm. As
    :class:`~captum_deduce.metrics.Oracle` it says whether a counterfactual of another classifier is
    one for more than that classifier.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        num_classes (int, optional): Number of logits. Default: 10
        width (int, optional): Channels of the first convolution; the second has twice as many, the
            first linear layer eight times as many outputs. Default: 16
        image_size (int or tuple[int, int], optional): Their side, or height and width; at least 8.
            Default: 28

    Raises:
        TypeError: A size that is no int.
        ValueError: Sides below 8, or sizes below 1.

    Examples::

        >>> import torch
        >>> SmallCNN(3, num_classes=4, image_size=(9, 12))(torch.rand(2, 3, 9, 12)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        width: int = 16,
        image_size: int | tuple[int, int] = 28,
    ) -> None:
        super().__init__(in_channels, num_classes, width, image_size)
        height, columns = self.settings["image_size"]
        # Both poolings round half a side up.
        places = -(-height // 4) * -(-columns // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(width, 2 * width, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(2 * width * places, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, num_classes),
        )
