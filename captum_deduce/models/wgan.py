r"""A small Wasserstein GAN of images: what AnoGAN measures with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from captum_deduce import checks
from captum_deduce.models.sizes import image_sides
from captum_deduce.models.stored import StoredModel


class WGAN(StoredModel):
    r"""Generator and critic of a Wasserstein GAN (Arjovsky et al., *Wasserstein GAN*, 2017).

    The generator is four transposed convolutions from one pixel to the image, batch norm and ReLU
    between them and a sigmoid at the end. The critic is three 5x5 convolutions of stride 2 without
    biases, spectrally normalised (Miyato et al., *Spectral Normalization for Generative Adversarial
    Networks*, 2018), with batch norm and LeakyReLU between them; its judgement is the mean over
    places. With the defaults these are the networks behind the AnoGAN scores of the DeDUCE paper
    (64 latents to 3x3, 6x6, 13x13 and 28x28 pixels).

    Other sizes keep the strides. The generator's first two kernels make up for what is left: its
    maps grow to the image's sides, and what it draws beyond the lower and the right edge is cut
    off. The critic's last kernel is smaller where its map is, and its map is padded where a stride
    of 2 would skip its edge.

    Images have values in [0, 1]. :func:`~captum_deduce.training.train_wgan` trains it.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        image_size (int or tuple[int, int], optional): Their side, or height and width; at least 8.
            Default: 28
        latent_size (int, optional): Number of latents, Z. Default: 64
        hidden_channels (int, optional): Channels before the generator's last layer; twice and four
            times as many in the layers before it. Default: 64
        critic_channels (int, optional): Channels of the critic's first convolution; twice as many
            of the second. Default: 16

    Attributes:
        latent_size (int): Z.
        generator (nn.Sequential): N x Z to logits of pixels; see :meth:`generate`.
        feature_map (nn.Sequential): The critic up to and with its second convolution, see
            :meth:`features`.
        head (nn.Sequential): The rest of the critic, see :meth:`judge`.

    Raises:
        TypeError: A size that is no int.
        ValueError: Sides below 8, or sizes below 1.

    Examples::

        >>> import torch
        >>> wgan = WGAN(in_channels=3, image_size=(9, 12), latent_size=5, hidden_channels=4)
        >>> images = wgan.generate(torch.randn(2, 5))
        >>> images.shape, wgan.features(images).shape, wgan.judge(images).shape
        (torch.Size([2, 3, 9, 12]), torch.Size([2, 32, 3, 3]), torch.Size([2]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        *,
        latent_size: int = 64,
        hidden_channels: int = 64,
        critic_channels: int = 16,
    ) -> None:
        super().__init__()
        self.height, self.width = image_sides(image_size)
        for name, value in (
            ("in_channels", in_channels),
            ("latent_size", latent_size),
            ("hidden_channels", hidden_channels),
            ("critic_channels", critic_channels),
        ):
            checks.number(name, value, minimum=1, integer=True)
        self.settings = {
            "in_channels": in_channels,
            "image_size": [self.height, self.width],
            "latent_size": latent_size,
            "hidden_channels": hidden_channels,
            "critic_channels": critic_channels,
        }
        self.latent_size = latent_size
        first, second = zip(*map(_first_kernels, (self.height, self.width)), strict=True)
        self.generator = nn.Sequential(
            nn.Unflatten(1, (latent_size, 1, 1)),
            *_upward(latent_size, 4 * hidden_channels, first),
            *_upward(4 * hidden_channels, 2 * hidden_channels, second),
            *_upward(2 * hidden_channels, hidden_channels, (3, 3), stride=2),
            nn.ConvTranspose2d(hidden_channels, in_channels, 4, stride=2),
        )
        halved = [
            spectral_norm(_halving(*channels))
            for channels in (
                (in_channels, critic_channels),
                (critic_channels, 2 * critic_channels),
            )
        ]
        self.feature_map = nn.Sequential(
            halved[0], nn.BatchNorm2d(critic_channels), nn.LeakyReLU(0.2), halved[1]
        )
        # Both convolutions round half a side up.
        sides = [-(-side // 4) for side in (self.height, self.width)]
        kernel = [min(side, 5) for side in sides]
        skipped = [(side - k) % 2 for side, k in zip(sides, kernel, strict=True)]
        last = nn.Conv2d(2 * critic_channels, 1, (kernel[0], kernel[1]), stride=2, bias=False)
        self.head = nn.Sequential(
            nn.BatchNorm2d(2 * critic_channels),
            nn.LeakyReLU(0.2),
            nn.ZeroPad2d((0, skipped[1], 0, skipped[0])),
            spectral_norm(last),
        )

    def generate(self, latents: Tensor) -> Tensor:
        """Draw images; of standard normal latents, such as those of the training set.

        Args:
            latents (Tensor): N x Z.

        Returns:
            Tensor: N x in_channels x height x width, between 0 and 1.
        """
        drawn: Tensor = self.generator(latents)
        return drawn[..., : self.height, : self.width].sigmoid()

    def features(self, images: Tensor) -> Tensor:
        """What the critic's second convolution sees, before its batch norm: f_D of equation 7.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: N x (2 critic_channels) x ceil(height / 4) x ceil(width / 4).
        """
        seen: Tensor = self.feature_map(images)
        return seen

    def judge(self, images: Tensor) -> Tensor:
        """How real the critic finds images, on a scale without a zero.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: N.
        """
        verdicts: Tensor = self.head(self.features(images))
        return verdicts.flatten(1).mean(1)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw images, as :func:`captum_deduce.models.wgan.WGAN.generate` does."""
        return self.generate(latents)


def _first_kernels(side: int) -> tuple[int, int]:
    """Sides of the first two kernels; two layers of stride 2, with 3 and 4, follow."""
    third = -(-(side - 2) // 2)
    second = -(-(third - 1) // 2)
    kernel = min(second, 4)
    return second - kernel + 1, kernel


def _upward(
    channels: int, new_channels: int, kernel: tuple[int, int], stride: int = 1
) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(channels, new_channels, kernel, stride=stride),
        nn.BatchNorm2d(new_channels),
        nn.ReLU(),
    ]


def _halving(channels: int, new_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, new_channels, 5, stride=2, padding=2, bias=False)
