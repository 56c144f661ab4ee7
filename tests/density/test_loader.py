from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_deduce import ClassGaussianMixture
from captum_deduce.classifiers import FrozenModel
from captum_deduce.density.loader import loader_features
from tests.density.test_class_gaussian_mixture import network


def test_features_and_targets_come_batch_by_batch(capsys):
    model = network().eval()
    batches = [
        (torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 2])),
        (torch.rand(1, 1, 6, 6), torch.tensor([1])),
    ]
    with torch.no_grad(), FrozenModel(model, model[4]) as frozen:
        found = list(loader_features("train_loader", batches, frozen, True))
        for (features, target, scores), (images, labels) in zip(found, batches, strict=True):
            torch.testing.assert_close(features, model[:5](images))
            assert target is labels
            torch.testing.assert_close(scores, model(images))
    assert "features of train_loader: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "loader must yield at least one batch, got none"),
        ([torch.zeros(2, 1, 6, 6)], TypeError, r"loader must yield batches .* got Tensor$"),
        ([{"image": 1}], TypeError, r"loader must yield batches .* got dict$"),
        (
            [(torch.zeros(2, 1, 6, 6), [0, 1])],
            TypeError,
            r"loader must yield batches .* got tuple \['Tensor', 'list'\]",
        ),
        (
            [(torch.zeros(2, 1, 6, 6), torch.tensor([0, 1]), torch.ones(2))],
            TypeError,
            r"loader must yield batches .* got tuple \['Tensor', 'Tensor', 'Tensor'\]",
        ),
        ([(torch.zeros(2, 1, 6, 6), torch.zeros(2))], TypeError, "target must hold integers"),
        (
            TensorDataset(torch.zeros(2, 1, 6, 6), torch.tensor([0, 1])),
            TypeError,
            "got a single target; wrap a Dataset, .* in a DataLoader",
        ),
        ([(torch.zeros(1, 6, 6), 1)], TypeError, "wrap a Dataset, "),
    ],
)
def test_what_a_loader_must_not_yield_is_named(batches, error, message):
    model = network()
    with pytest.raises(error, match=message):
        ClassGaussianMixture.fit_loader(model, model[4], batches)
    assert model.training


class Centred(nn.Module):
    """Takes the mean of the batch off its features."""

    def forward(self, features: Tensor) -> Tensor:
        return features - features.mean(0)


class Doubling(nn.Module):
    """Works in place."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mul_(2)


@pytest.mark.parametrize("coupled", [False, True])
def test_features_that_depend_on_neighbours_are_warned_of(coupled):
    torch.manual_seed(0)
    first, last = Doubling(), Centred() if coupled else nn.Identity()
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(36, 4), last, nn.Linear(4, 3))
    batches = [(torch.rand(60, 1, 6, 6), torch.arange(60) % 3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ClassGaussianMixture.fit_loader(model, "3", batches, covariance_type="tied")
    assert len(caught) == coupled
    if coupled:
        assert "first image of loader other features when it sees it again" in str(
            caught[0].message
        )


def test_a_model_that_takes_no_single_image_is_fitted_all_the_same():
    class Pairs(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) % 2:
                raise ValueError("pairs only")
            return images.flatten(1)

    model = nn.Sequential(Pairs(), nn.Linear(36, 3))
    batches = [(torch.rand(60, 1, 6, 6), torch.arange(60) % 3)]
    density = ClassGaussianMixture.fit_loader(model, "0", batches, covariance_type="diag")
    assert density.counts.sum() == 60
