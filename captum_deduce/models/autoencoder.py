"""A small convolutional autoencoder, whose encoder also makes the features of prototypes."""

from __future__ import annotations

from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.models.sizes import image_sides
from captum_deduce.models.stored import StoredModel


class Autoencoder(StoredModel):
    r"""Images to a code of half their sides and few channels, and back.

    The encoder is two 3x3 convolutions with ReLU, a max pooling by 2 and a 3x3 convolution; the
    decoder a 3x3 convolution with ReLU, nearest-neighbour upsampling, another with ReLU and a last
    one. Neither ends in an activation. With the defaults this is the shape that the authors of VLK
    use for MNIST (28x28 pixels to a code of 14x14), which is trained on the mean squared error, see
    :func:`~captum_deduce.training.train_autoencoder`.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        image_size (int or tuple[int, int], optional): Their side, or height and width; at least 8,
            odd ones too. Default: 28
        hidden_channels (int, optional): Channels between the convolutions. Default: 16
        code_channels (int, optional): Channels of the code. Default: None (``in_channels``)

    Attributes:
        encoder (nn.Sequential): N x in_channels x H x W to N x code_channels x ceil(H / 2) x
            ceil(W / 2).
        decoder (nn.Sequential): The way back.

    Raises:
        TypeError: A size that is no int.
        ValueError: Sides below 8, or no channels.

    Examples::

        >>> import torch
        >>> autoencoder = Autoencoder(in_channels=3, image_size=(9, 12))
        >>> images = torch.rand(2, 3, 9, 12)
        >>> autoencoder.encoder(images).shape, autoencoder(images).shape
        (torch.Size([2, 3, 5, 6]), torch.Size([2, 3, 9, 12]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        *,
        hidden_channels: int = 16,
        code_channels: int | None = None,
    ) -> None:
        super().__init__()
        height, width = image_sides(image_size)
        code = in_channels if code_channels is None else code_channels
        for name, value in (
            ("in_channels", in_channels),
            ("hidden_channels", hidden_channels),
            ("code_channels", code),
        ):
            checks.number(name, value, minimum=1, integer=True)
        self.settings = {
            "in_channels": in_channels,
            "image_size": (height, width),
            "hidden_channels": hidden_channels,
            "code_channels": code,
        }
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(hidden_channels, code, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(size=(height, width)),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, in_channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: Of the same shape.
        """
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction
