"""What the small classifiers that serve as oracles share: their sizes, and layers in a row."""

from __future__ import annotations

from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.models.sizes import image_sides
from captum_deduce.models.stored import StoredModel


class SmallClassifier(StoredModel):
    """A classifier of small images whose ``layers`` follow one another.

    A subclass builds these from the checked ``settings``.

    Args:
        in_channels (int): Channels of the images.
        num_classes (int): Number of logits.
        width (int): Channels of the first stage.
        image_size (int or tuple[int, int]): Their side, or height and width; at least 8.

    Raises:
        TypeError: A size that is no int.
        ValueError: Sides below 8, or sizes below 1.
    """

    layers: nn.Sequential

    def __init__(
        self, in_channels: int, num_classes: int, width: int, image_size: int | tuple[int, int]
    ) -> None:
        super().__init__()
        height, columns = image_sides(image_size)
        for name, value in (
            ("in_channels", in_channels),
            ("num_classes", num_classes),
            ("width", width),
        ):
            checks.number(name, value, minimum=1, integer=True)
        self.settings = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "width": width,
            "image_size": [height, columns],
        }

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: N x num_classes logits.
        """
        logits: Tensor = self.layers(images)
        return logits
