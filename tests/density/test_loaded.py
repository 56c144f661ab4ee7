from __future__ import annotations

import pytest
import torch

from captum_deduce import ClassGaussianMixture, storage

TARGET = torch.arange(90) % 3


@pytest.fixture(params=["full", "tied", "diag", "low_rank"])
def stored(request, tmp_path):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(90, 5, generator=generator).double() + TARGET[:, None]
    density = ClassGaussianMixture(request.param).fit(features, TARGET)
    path = tmp_path / "density.safetensors"
    density.save(path)
    return path, density, features


def rewritten(path, **changes):
    tensors, words = storage.read(path, "density")
    for name, change in changes.items():
        key = name.replace("__", ".")
        assert key in tensors, sorted(tensors)
        tensors[key] = change(tensors[key])
    storage.write(path, tensors, words)


def test_what_was_fitted_is_loaded(stored):
    path, density, features = stored
    loaded = ClassGaussianMixture.load(path)
    assert torch.equal(loaded.log_prob(features, TARGET), density.log_prob(features, TARGET))


def with_value(value):
    def change(tensor):
        changed = tensor.clone()
        changed.flatten()[0] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moments__mean": with_value(float("nan"))}, "mean must be finite"),
        ({"moments__mean": lambda mean: mean.flatten()}, "mean must be K x D"),
        ({"moments__mean": lambda mean: mean.float()}, r"mean must be torch\.float64"),
        ({"moments__weight": with_value(-1.0)}, "weight must not be negative"),
        ({"moments__weight": lambda weight: weight[:-1]}, "weight has shape"),
        ({"moments__weight": with_value(0.0)}, "must have a positive weight"),
        ({"log_densities__classes": with_value(3)}, "must name classes from 0 to 2"),
        ({"log_densities__classes": lambda classes: classes[1:]}, "a class for each value"),
        ({"_extra_state": with_value(2**60)}, "index out of range"),
        ({"_extra_state": lambda state: torch.tensor([*state, 0, 7])}, "each of 3 components"),
    ],
)
def test_a_state_that_no_fit_leaves_is_refused_with_its_path(stored, changes, words):
    path, _, _ = stored
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=rf"(?s)density\.safetensors holds no complete.*{words}"):
        ClassGaussianMixture.load(path)


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize(
    "change",
    [
        lambda scatter: scatter + torch.eye(5).roll(1, 0) * scatter.abs().max(),
        lambda scatter: scatter - 2 * torch.diag_embed(scatter.diagonal(dim1=-2, dim2=-1)),
        lambda scatter: scatter + 9 * scatter.abs().max() * (1 - torch.eye(5)),
    ],
    ids=["not symmetric", "negative", "more than alone"],
)
def test_matrices_that_are_no_scatter_are_refused(tmp_path, kind, change):
    features = torch.randn(90, 5, generator=torch.Generator().manual_seed(3)).double()
    path = tmp_path / "density.safetensors"
    ClassGaussianMixture(kind).fit(features, TARGET).save(path)
    rewritten(path, moments__scatter=lambda scatter: change(scatter).double())
    with pytest.raises(ValueError, match=r"density\.safetensors .* positive semidefinite"):
        ClassGaussianMixture.load(path)


@pytest.mark.filterwarnings("ignore:too few samples")
@pytest.mark.parametrize("kind", ["full", "tied", "low_rank"])
def test_features_that_do_not_vary_or_are_copies_are_loaded(tmp_path, kind):
    features = torch.randn(90, 5, generator=torch.Generator().manual_seed(3)).double()
    features[:, 1] = 1e6 * features[:, 0]
    features[:, 2] = 7.0
    density = ClassGaussianMixture(kind, regularization="jitter").fit(features, TARGET)
    density.save(tmp_path / "density.safetensors")
    loaded = ClassGaussianMixture.load(tmp_path / "density.safetensors")
    assert torch.equal(loaded.log_prob(features, TARGET), density.log_prob(features, TARGET))
