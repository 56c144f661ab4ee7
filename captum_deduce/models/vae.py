r"""A small variational autoencoder of images, which draws what REVISE looks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from captum_deduce import checks
from captum_deduce.models.sizes import image_sides
from captum_deduce.models.stored import StoredModel


class VAE(StoredModel):
    r"""A variational autoencoder (Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014).

    The encoder is two 5x5 convolutions of stride 2 with ReLU and a linear layer to mean and
    log-variance of the latents; the decoder a linear layer and two 5x5 transposed convolutions of
    stride 2 with ReLU, a row and a column of zeros at the upper and the left edge, a 3x3 transposed
    convolution and a sigmoid. With the defaults this is the network behind the REVISE results of
    the DeDUCE paper (28x28 pixels to 7x7 to 32 latents). For sides that are no multiples of 4, what
    the decoder draws beyond the lower and the right edge is cut off.

    Images have values in [0, 1]. :func:`~captum_deduce.training.train_vae` trains it.

    Args:
        in_channels (int, optional): Channels of the images. Default: 1
        image_size (int or tuple[int, int], optional): Their side, or height and width; at least 8.
            Default: 28
        latent_size (int, optional): Number of latents, Z. Default: 32
        hidden_channels (int, optional): Channels of the first convolution; the second has twice as
            many. Default: 32

    Raises:
        TypeError: A size that is no int.
        ValueError: Sides below 8, or sizes below 1.

    Examples::

        >>> vae = VAE(in_channels=3, image_size=(9, 12), latent_size=5)
        >>> mean, log_variance = vae.encode(torch.rand(2, 3, 9, 12))
        >>> mean.shape, vae.decode(mean).shape
        (torch.Size([2, 5]), torch.Size([2, 3, 9, 12]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        *,
        latent_size: int = 32,
        hidden_channels: int = 32,
    ) -> None:
        super().__init__()
        self.height, self.width = image_sides(image_size)
        for name, value in (
            ("in_channels", in_channels),
            ("latent_size", latent_size),
            ("hidden_channels", hidden_channels),
        ):
            checks.number(name, value, minimum=1, integer=True)
        self.settings = {
            "in_channels": in_channels,
            "image_size": [self.height, self.width],
            "latent_size": latent_size,
            "hidden_channels": hidden_channels,
        }
        first, second = hidden_channels, 2 * hidden_channels
        # Both convolutions of the encoder round half a side up.
        map_shape = (second, -(-self.height // 4), -(-self.width // 4))
        map_size = map_shape[0] * map_shape[1] * map_shape[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(map_size, 2 * latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, map_size),
            nn.ReLU(),
            nn.Unflatten(1, map_shape),
            nn.ConvTranspose2d(second, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.ConvTranspose2d(first, first, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.ZeroPad2d((1, 0, 1, 0)),
            nn.ConvTranspose2d(first, in_channels, 3, padding=1),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        r"""Describe the latents that could have drawn images: :math:`q(\mathbf z | \mathbf x)`.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            tuple[Tensor, Tensor]: Mean and logarithm of the variance of a Gaussian, each N x Z.
        """
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Draw images.

        Args:
            latents (Tensor): N x Z.

        Returns:
            Tensor: N x in_channels x height x width, between 0 and 1.
        """
        return self._logits(latents).sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images from the means of their latents.

        Args:
            images (Tensor): N x in_channels x height x width.

        Returns:
            Tensor: Of the same shape.
        """
        return self.decode(self.encode(images)[0])

    def negative_elbo(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""The two terms of what training minimises, with one sample of the latents.

        .. math::
            -\mathbb E_{\mathbf z \sim q(\mathbf z | \mathbf x)} \log p(\mathbf x | \mathbf z)
            \;+\; \mathrm{KL}\bigl(q(\mathbf z | \mathbf x) \,\|\, \mathcal N(0, I)\bigr)

        As usual for grey values in [0, 1], each entry counts as a Bernoulli variable: the first
        term is the binary cross-entropy, which for grey values is not 0 at best.

        Args:
            images (Tensor): N x in_channels x height x width, in [0, 1].
            generator (torch.Generator, optional): Of the sample, on the CPU. Default: None (the
                global one)

        Returns:
            tuple[Tensor, Tensor]: Reconstruction term and divergence, N values each, in nats.
        """
        mean, log_variance = self.encode(images)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        logits = self._logits(mean + (0.5 * log_variance).exp() * noise)
        reconstruction = binary_cross_entropy_with_logits(logits, images, reduction="none")
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return reconstruction.flatten(1).sum(1), divergence.sum(1)

    def _logits(self, latents: Tensor) -> Tensor:
        drawn: Tensor = self.decoder(latents)
        return drawn[..., : self.height, : self.width]
