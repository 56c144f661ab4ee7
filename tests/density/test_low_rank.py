"""Classes' own covariances in few directions, against explicit D x D matrices."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import oas
from torch import Tensor

from captum_deduce.density import choice, low_rank
from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.estimation import estimate
from captum_deduce.density.low_rank import (
    low_rank_moments,
    principal_directions,
    rank_of,
    shrinkage,
    tied_moments,
)
from captum_deduce.density.moments import Moments
from captum_deduce.density.quantiles import LeaveOneOut
from captum_deduce.density.samples import Samples
from tests.reference import Array, log_density, low_rank_covariances

C, D, R = 4, 10, 5


def data(n: int = 400, seed: int = 0, weighted: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Classes of unequal size and spread in some common directions; class 3 has few samples."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator)
    labels = torch.randint(C - 1, (n,), generator=generator)
    labels[torch.tensor([5, 30, 70])] = C - 1
    scales = torch.ones(C, D, dtype=torch.float64)
    scales[:, :3] = 4 * torch.rand(C, 3, dtype=torch.float64, generator=generator) + 1
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) * scales[labels]
    weight = torch.rand(n, dtype=torch.float64, generator=generator) + 0.5
    features = features @ mixing + 20 + labels.unsqueeze(1)
    return features, labels, weight if weighted else torch.ones_like(weight)


def expected(samples: tuple[Tensor, Tensor, Tensor]) -> tuple[Array, Array]:
    features, labels, weight = (part.numpy() for part in samples)
    return low_rank_covariances(features, labels, weight, R)


def fitted(samples: tuple[Tensor, Tensor, Tensor], **arguments) -> ClassGaussianMixture:
    return ClassGaussianMixture("low_rank", **arguments).fit(*samples, quantiles=False)


def same(first: ClassGaussianMixture, second: ClassGaussianMixture, **tolerance) -> None:
    features, _, _ = data()
    found, other = (density.log_probs(features) for density in (first, second))
    torch.testing.assert_close(found, other, **({"rtol": 1e-9, "atol": 1e-9} | tolerance))
    assert torch.equal(first.counts, second.counts)


@pytest.mark.parametrize("weighted", [False, True])
def test_densities_are_those_of_explicit_matrices(weighted):
    samples = data(weighted=weighted)
    density, (means, covariances) = fitted(samples), expected(samples)
    np.testing.assert_allclose(density.covariances, covariances, rtol=1e-8, atol=1e-8)
    values = torch.from_numpy(
        np.stack(
            [
                multivariate_normal(mean, covariance).logpdf(samples[0].numpy())
                for mean, covariance in zip(means, covariances, strict=True)
            ],
            1,
        )
    )
    found = density.log_probs(samples[0])
    torch.testing.assert_close(found, values, rtol=1e-9, atol=1e-9)
    mixed = torch.randint(C, (len(found),))
    rows = torch.arange(len(found))
    torch.testing.assert_close(density.log_prob(samples[0], mixed), values[rows, mixed])
    for c in range(C):
        np.testing.assert_allclose(density.covariance(c), covariances[c], rtol=1e-8, atol=1e-8)


def test_mixed_targets_are_evaluated_without_a_loop_over_classes(monkeypatch):
    samples = data()
    density, target = fitted(samples), torch.randint(C, (len(samples[0]),))
    whole = density.log_prob(samples[0], target)
    monkeypatch.setattr("captum_deduce.density.gaussians._GATHERED", 7)
    torch.testing.assert_close(density.log_prob(samples[0], target), whole)
    monkeypatch.setattr(type(density), "_class_log_prob", None)
    torch.testing.assert_close(density.log_prob(samples[0], target), whole)


def test_gradients():
    samples = data()
    density, target = fitted(samples), torch.arange(6) % C
    inputs = samples[0][:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: density.log_prob(z, target), inputs)
    assert torch.autograd.gradcheck(density.log_probs, inputs)
    assert torch.autograd.gradgradcheck(lambda z: density.log_prob(z, target), inputs)


def test_a_class_of_one_sample_has_the_tied_covariance_and_a_large_one_its_own():
    features, labels, _ = data(20_000)
    labels[labels == C - 1] = 0
    labels[0] = C - 1
    density = ClassGaussianMixture("low_rank").fit(features, labels, quantiles=False)
    tied = ClassGaussianMixture("tied").fit(features, labels, quantiles=False)
    torch.testing.assert_close(density.covariance(C - 1), tied.covariances)
    basis = density._estimated_from().basis
    own = basis.T @ density.covariance(1) @ basis
    alone = torch.cov((features[labels == 1] @ basis).T)
    torch.testing.assert_close(own, alone, rtol=0.02, atol=0.02 * float(alone.diagonal().max()))


@pytest.mark.parametrize("regularization", ["jitter", "oas"])
def test_what_is_singular_is_regularised_as_the_tied_covariance(regularization):
    features, labels, _ = data()
    features[:, 4] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = fitted((features, labels, torch.ones(400)), regularization=regularization)
        tied = ClassGaussianMixture("tied", regularization=regularization)
        tied.fit(features, labels, quantiles=False)
        assert torch.isfinite(density.log_prob(features, labels)).all()
        used = tied.regularization_used
        torch.testing.assert_close(density.regularization_used, used)


# --- leave one out ---


def refitted(samples: tuple[Tensor, Tensor, Tensor], basis: Array) -> Array:
    values = []
    for i in range(len(samples[0])):
        features, labels, weight = (np.delete(part.numpy(), i, axis=0) for part in samples)
        means, covariances = low_rank_covariances(features, labels, weight, R, basis)
        own = int(samples[1][i])
        values.append(log_density(samples[0][i].numpy(), means[own], covariances[own]))
    return np.array(values)


@pytest.mark.parametrize("weighted", [False, True])
def test_left_out_log_densities_are_those_of_fits_without_the_sample(weighted):
    samples = data(weighted=weighted)
    features, labels, weight = samples
    moments = Moments("full", C, D)
    moments.add(Samples(*samples))
    moments = low_rank_moments(moments)
    leave_one_out = LeaveOneOut(moments, estimate(moments, torch.arange(C), "jitter"))
    found, classes = leave_one_out.log_prob(features, weight, labels)
    assert torch.equal(classes, labels)
    anew = refitted(samples, moments.basis.numpy())
    np.testing.assert_allclose(found, anew, rtol=0, atol=1e-9)
    within = fitted(samples).log_prob(features, labels).numpy()
    assert np.mean(within - anew) > 0.1


@pytest.mark.parametrize("loader", [False, True])
def test_quantiles_are_of_left_out_samples(loader):
    features, labels, _ = data()
    if loader:
        model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(D, C).double())
        parts = list(zip(features.split(60), labels.split(60), strict=True))
        density = ClassGaussianMixture.fit_loader(
            model, model[0], parts, covariance_type="low_rank"
        )
        twice = ClassGaussianMixture.fit_loader(
            model, model[0], parts, covariance_type="low_rank", memory_budget=0
        )
        torch.testing.assert_close(twice.quantile(0.1), density.quantile(0.1))
    else:
        density = ClassGaussianMixture("low_rank").fit(features, labels)
    anew = refitted(data(), density._estimated_from().basis.numpy())
    for q in (0.05, 0.5):
        quantiles = [np.quantile(anew[labels == c], q) for c in range(C)]
        np.testing.assert_allclose(density.quantile(q), quantiles, rtol=1e-9)


def test_classes_of_identical_samples_have_quantiles():
    """Nothing varies: what is left out is judged by the fit to the others, which is another."""
    labels = torch.arange(60) % 3
    features = (3 * torch.randn(3, 6).double())[labels]
    others = torch.arange(60) > 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = ClassGaussianMixture("low_rank").fit(features, labels)
        fewer = ClassGaussianMixture("low_rank").fit(features[others], labels[others])
        expected = fewer.log_prob(features[:3], labels[:3])
    for q in (0.0, 1.0):
        torch.testing.assert_close(density.quantile(q), expected)


def test_shrinkage_is_computed_anew():
    features, labels, weight = data(120)
    density = ClassGaussianMixture("low_rank", regularization="oas").fit(features, labels)
    basis = density._estimated_from().basis.numpy()
    values = []
    for i, own in enumerate(labels.tolist()):
        rest, others = np.delete(features.numpy(), i, axis=0), np.delete(labels.numpy(), i)
        centres = np.stack([rest[others == c].mean(0) for c in range(C)])
        tied, _ = oas(rest - centres[others], assume_centered=True)
        means, covariances = low_rank_covariances(rest, others, weight.numpy()[1:], R, basis, tied)
        values.append(log_density(features[i].numpy(), means[own], covariances[own]))
    # But for how far it differs within the directions.
    for q in (0.1, 0.5):
        quantiles = [np.quantile(np.array(values)[labels == c], q) for c in range(C)]
        np.testing.assert_allclose(density.quantile(q), quantiles, rtol=0, atol=0.02)


# --- batches, merges, state ---


def test_batches_in_any_order_and_merges_equal_one_fit():
    samples = data(weighted=True)
    whole, merged = fitted(samples), ClassGaussianMixture("low_rank")
    order = samples[1].argsort()
    for rows in (torch.randperm(400), order, order.flip(0)):
        batches = ClassGaussianMixture("low_rank")
        for part in rows.split(23):
            batches.partial_fit(*(each[part] for each in samples))
            merged = merged.merge(
                ClassGaussianMixture("low_rank").partial_fit(*(each[part] for each in samples))
            )
        same(batches, whole)
    thrice = fitted(tuple(torch.cat([part] * 3) for part in samples))
    same(merged, thrice)


@pytest.fixture
def outgrowing(monkeypatch) -> None:
    """As though samples of a few batches were too many to keep."""
    monkeypatch.setattr(choice, "MOST_KEPT", 2000)
    monkeypatch.setattr(choice, "MOST_MATRICES", 0)


@pytest.mark.parametrize("covariance_type", ["auto", "low_rank"])
def test_directions_are_fixed_when_samples_are_too_many(outgrowing, covariance_type):
    samples = data(4000)
    density = ClassGaussianMixture(covariance_type)
    kinds = []
    for rows in torch.arange(4000).split(20):
        density.partial_fit(*(part[rows] for part in samples))
        kinds.append(density.moments.covariance_type)
    assert set(kinds[:1]) == {"full"}
    assert set(kinds[1:]) == {"low_rank"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = density.covariances
    # All but the directions is exact.
    basis = density.moments.basis.numpy()
    arrays = [part.numpy() for part in samples]
    _, covariances = low_rank_covariances(*arrays, R, basis)
    if covariance_type == "auto":
        assert density.chosen_covariance_type == "low_rank"
        np.testing.assert_allclose(found, covariances, rtol=0.03, atol=0.03 * np.max(covariances))
    else:
        np.testing.assert_allclose(found, covariances, rtol=1e-8, atol=1e-8)
    # A fit sees all samples before it fixes them.
    torch.testing.assert_close(
        fitted(samples).covariances, torch.from_numpy(expected(samples)[1]), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("budget", [2**30, 0])
def test_a_loader_whose_features_are_kept_finds_the_directions_of_all(outgrowing, budget):
    features, labels, weight = data()
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(D, C).double())
    parts = list(zip(features.split(60), labels.split(60), strict=True))
    density = ClassGaussianMixture.fit_loader(
        model, model[0], parts, covariance_type="low_rank", memory_budget=budget
    )
    assert density.moments.covariance_type == "low_rank"
    basis = None if budget else density.moments.basis.numpy()
    arrays = (features.numpy(), labels.numpy(), weight.numpy())
    _, covariances = low_rank_covariances(*arrays, R, basis)
    np.testing.assert_allclose(density.covariances, covariances, rtol=1e-8, atol=1e-8)
    assert torch.isfinite(density.quantile(0.1)).all()


def test_what_has_outgrown_is_merged_where_directions_agree(outgrowing):
    samples = data()
    whole, large = fitted(samples), fitted(tuple(part[:300] for part in samples))
    assert large.moments.covariance_type == "low_rank"
    small = ClassGaussianMixture("low_rank").partial_fit(*(part[380:] for part in samples))
    assert small.moments.covariance_type == "full"
    one, other = copy.deepcopy(large).merge(small), small.merge(large)
    same(one, other)
    together = ClassGaussianMixture("low_rank")
    for rows in torch.arange(400).split(20):
        together.merge(
            ClassGaussianMixture("low_rank").partial_fit(*(part[rows] for part in samples))
        )
    assert together.moments.covariance_type == "low_rank"
    assert together.counts.tolist() == whole.counts.tolist()
    twice = copy.deepcopy(large).merge(large)
    doubled = copy.deepcopy(large).partial_fit(*(part[:300] for part in samples))
    same(twice, doubled)
    before = whole.log_probs(samples[0])
    with pytest.raises(ValueError, match="other has its own directions"):
        whole.merge(large)
    assert torch.equal(whole.log_probs(samples[0]), before)


@pytest.mark.parametrize("outgrown", [False, True])
def test_states_and_files_hold_everything(outgrown, tmp_path, monkeypatch):
    if outgrown:
        monkeypatch.setattr(choice, "MOST_KEPT", 0)
    features, labels, _ = data()
    density = ClassGaussianMixture("low_rank").fit(features, labels)
    assert density.moments.covariance_type == ("low_rank" if outgrown else "full")
    density.save(tmp_path / "density.safetensors")
    loaded = ClassGaussianMixture.load(tmp_path / "density.safetensors")
    fresh = ClassGaussianMixture()
    fresh.load_state_dict(density.state_dict())
    for other in (loaded, fresh, copy.deepcopy(density), copy.deepcopy(density).half()):
        assert other.covariance_type == other.chosen_covariance_type == "low_rank"
        same(other, density)
        assert torch.equal(other.quantile(0.3), density.quantile(0.3))
        more = data(80, seed=1)
        again = copy.deepcopy(density).partial_fit(*more[:2])
        same(other.partial_fit(*more[:2]), again)


def test_the_directions_are_the_principal_ones():
    features, labels, weight = data()
    tied = Moments("tied", C, D)
    tied.add(Samples(features, labels, weight))
    found = principal_directions(tied.scatter, R)
    values, vectors = np.linalg.eigh(tied.scatter.numpy())
    np.testing.assert_allclose(
        np.abs(found.numpy().T @ vectors[:, ::-1][:, :R]), np.eye(R), atol=1e-8
    )
    full = Moments("full", C, D)
    full.add(Samples(features, labels, weight))
    for moments in (full, low_rank_moments(full)):
        torch.testing.assert_close(tied_moments(moments).scatter, tied.scatter)
        assert tied_moments(moments).covariance_type == "tied"
    assert values[-R:].min() > values[:-R].max()


def test_ranks_and_shrinkage():
    assert [rank_of(size) for size in (1, 2, 10, 127, 128, 4096)] == [1, 1, 5, 63, 64, 64]
    found = shrinkage(torch.tensor([0.0, 1, 11, 91]), 10)
    assert found.tolist() == pytest.approx([1, 1, 0.5, 0.1])
    assert low_rank.RANK == 64


@pytest.mark.parametrize("per_class", [2, 30])
def test_classes_of_few_samples_hold_less_than_a_matrix(per_class):
    """Batch by batch, merged, and read from a state."""
    num_classes, size, rank = 40, 20, 8
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes * per_class) % num_classes
    features = torch.randn(len(labels), size, dtype=torch.float64, generator=generator) + 3
    basis = torch.linalg.qr(features[:size].T).Q[:, :rank].contiguous()
    moments, others = (Moments("low_rank", num_classes, size, None, basis) for _ in range(2))
    order = torch.randperm(len(labels), generator=generator)
    for i, rows in enumerate(order.split(7)):
        (moments, others)[i % 2].add(Samples(features[rows], labels[rows], None))
    restored = Moments("low_rank", num_classes, size)
    restored.load_state_dict(others.state_dict())
    moments.merge(restored)
    for c in range(num_classes):
        projected = features[labels == c] @ basis
        offset = projected - projected.mean(0)
        torch.testing.assert_close(moments.class_scatter(c), offset.T @ offset)
    matrices = num_classes * rank**2 * 8
    assert moments.classes_nbytes <= (matrices if per_class > rank else matrices // 2)
