from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from captum_deduce import ClassGaussianMixture
from captum_deduce.classifiers import FrozenModel
from captum_deduce.density.loader import device_of, loader_features
from tests.density.test_class_gaussian_mixture import network


def test_features_and_targets_come_batch_by_batch(capsys):
    model = network().eval()
    batches = [
        (torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 2])),
        (torch.rand(1, 1, 6, 6), torch.tensor([1])),
    ]
    with torch.no_grad(), FrozenModel(model, model[4]) as frozen:
        found = list(loader_features("train_loader", batches, frozen, True))
        for (features, target, num_classes), (images, labels) in zip(found, batches, strict=True):
            torch.testing.assert_close(features, model[:5](images))
            assert target is labels
            assert num_classes == 3
    assert "features of train_loader: 100%" in capsys.readouterr().err


def test_modules_without_parameters_are_on_the_cpu():
    assert device_of([nn.ReLU(), nn.Flatten()]) == torch.device("cpu")
    assert device_of([nn.ReLU(), nn.Linear(2, 2, device="meta")]) == torch.device("meta")


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
