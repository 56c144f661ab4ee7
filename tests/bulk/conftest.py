"""A small classifier of digits in float64, and an explainer of it that is quick."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture, DeDUCE, datasets


@dataclass(frozen=True)
class Small:
    """Images with their labels, and the explainer of a classifier that gets a tenth wrong."""

    explainer: DeDUCE
    images: Tensor
    labels: Tensor

    @property
    def pairs(self) -> list[tuple[Tensor, int]]:
        """A map-style data set."""
        return list(zip(self.images, self.labels.tolist(), strict=True))


def small_explainer(dtype: torch.dtype = torch.float64) -> tuple[DeDUCE, Tensor, Tensor]:
    """The same weights in every process."""
    train, validation, test = datasets.load_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.images), train.target).backward()
            optimizer.step()
        optimizer.zero_grad()
    model = model.to(dtype).eval()
    with torch.no_grad():
        features = model[:3](train.images.to(dtype))
    density = ClassGaussianMixture("tied").fit(features, train.target)
    explainer = DeDUCE(model, model[2], density, step_size=0.4, max_iterations=60)
    images = torch.cat([test.images, validation.images]).to(dtype)
    return explainer, images, torch.cat([test.target, validation.target])


@pytest.fixture(scope="session")
def _small() -> Small:
    torch.set_num_threads(1)
    return Small(*small_explainer())


@pytest.fixture
def small(_small: Small) -> Small:
    return _small
