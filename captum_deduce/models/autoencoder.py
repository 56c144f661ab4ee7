"""A small convolutional autoencoder, whose encoder also makes the features of prototypes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce._version import __version__

if TYPE_CHECKING:
    from typing_extensions import Self

_FORMAT = "captum-deduce autoencoder"
_FORMAT_VERSION = "1"
_SMALLEST_SIDE = 8
_ARGUMENTS = ("in_channels", "height", "width", "hidden_channels", "code_channels")


class Autoencoder(nn.Module):
    r"""Images to a code of half their sides and few channels, and back.

    The encoder is two 3x3 convolutions with ReLU, a max pooling by 2 and a 3x3 convolution; the
    decoder a 3x3 convolution with ReLU, nearest-neighbour upsampling, another with ReLU and a last
    one. Neither ends in an activation. With the defaults this is the shape that the authors of VLK
    use for MNIST (28x28 pixels to a code of 14x14), which is trained on the mean squared error, see
    :func:`~captum_deduce.reconstruction.train_autoencoder`.

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
        code = in_channels if code_channels is None else code_channels
        for name, value, minimum in (
            ("in_channels", in_channels, 1),
            ("hidden_channels", hidden_channels, 1),
            ("code_channels", code, 1),
            *(("image_size", side, _SMALLEST_SIDE) for side in _sides(image_size)),
        ):
            checks.number(name, value, minimum=minimum, integer=True)
        height, width = _sides(image_size)
        self.settings = dict(
            zip(_ARGUMENTS, (in_channels, height, width, hidden_channels, code), strict=True)
        )
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and sizes to one safetensors file.

        Args:
            path (path): The file, by convention ``*.safetensors``.
        """
        # Clones, as safetensors refuses tensors that share memory.
        tensors = {name: value.cpu().clone() for name, value in self.state_dict().items()}
        metadata = {"format": _FORMAT, "format_version": _FORMAT_VERSION}
        metadata |= {"captum_deduce": __version__}
        metadata |= {name: str(value) for name, value in self.settings.items()}
        save_file(tensors, Path(path), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Read a file that :meth:`save` wrote; torch's global generator is left alone.

        Args:
            path (path): The file.
            device (torch.device or str, optional): Where the autoencoder goes. Default: "cpu"

        Returns:
            Autoencoder: As it was saved, in eval mode.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, or not an autoencoder that this version reads.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no autoencoder at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
        if metadata.get("format") != _FORMAT or metadata.get("format_version") != _FORMAT_VERSION:
            raise ValueError(
                f"{path} is not an autoencoder that captum-deduce {__version__} reads (its "
                f"metadata: {metadata})"
            )
        try:
            channels, height, width, hidden, code = (int(metadata[name]) for name in _ARGUMENTS)
            with torch.random.fork_rng(devices=[]):
                autoencoder = cls(
                    channels, (height, width), hidden_channels=hidden, code_channels=code
                )
            # Assigned, as copying would round float64 weights to the float32 of the new model.
            autoencoder.load_state_dict(tensors, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no complete autoencoder: {error}") from error
        return autoencoder.eval().to(device)


def _sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(image_size, tuple | list):
        if len(image_size) != 2:
            raise ValueError(
                f"image_size must be an int or (height, width), got {tuple(image_size)}"
            )
        return image_size[0], image_size[1]
    return image_size, image_size
