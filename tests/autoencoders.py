"""An autoencoder that needs no training, for tests that need one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PrincipalComponents(nn.Module):
    """The projection onto the leading principal components of some images, and back."""

    def __init__(self, images: Tensor, count: int = 16) -> None:
        super().__init__()
        rows = images.flatten(1)
        mean = rows.mean(0)
        directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:count]
        self.encoder = nn.Sequential(nn.Flatten(), _linear(directions, -(directions @ mean)))
        self.decoder = nn.Sequential(
            _linear(directions.T, mean), nn.Unflatten(1, tuple(images.shape[1:]))
        )

    def forward(self, images: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
