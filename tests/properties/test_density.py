"""What densities promise, for any classes, weights, batches, orders and units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from scipy.stats import multivariate_normal
from sklearn.covariance import oas
from torch import Tensor

from captum_deduce import ClassGaussianMixture, ClassHurdles
from captum_deduce.density import ClassQuantiles, Moments, gamma_shape
from captum_deduce.density.samples import Samples as Fitted
from tests.properties.strategies import Samples, eighths, normal, samples, seeds, tensors, uniform
from tests.reference import class_covariances, low_rank_covariances

TYPES = ("full", "tied", "diag", "spherical")
covariance_types = st.sampled_from(TYPES)


def density(found: Samples, covariance_type: str, regularization: str = "jitter"):
    fresh = ClassGaussianMixture(covariance_type, regularization=regularization)
    return fresh.fit(found.features, found.labels, found.weights, quantiles=False)


def in_parts(found: Samples, cuts: list[int]) -> list[Samples]:
    """Cut where it is asked for; parts may be empty, and are left out."""
    borders = sorted(min(cut, len(found.labels)) for cut in cuts)
    ends = [*borders, len(found.labels)]
    parts = [found.rows(slice(*pair)) for pair in zip([0, *borders], ends, strict=True)]
    return [part for part in parts if len(part.labels)]


def check_same_density(first: ClassGaussianMixture, second: ClassGaussianMixture, at: Tensor):
    assert torch.equal(first.counts, second.counts)
    torch.testing.assert_close(first.means, second.means, rtol=1e-10, atol=1e-10, equal_nan=True)
    torch.testing.assert_close(first.log_probs(at), second.log_probs(at), rtol=1e-7, atol=1e-7)


cuts = st.lists(st.integers(0, 90), max_size=5)


@given(samples(), st.sampled_from([*TYPES, "low_rank"]), cuts, st.randoms(use_true_random=False))
def test_batches_of_any_size_in_any_order_are_one_fit(found, covariance_type, cuts, random):
    whole = density(found, covariance_type)
    order = torch.tensor(random.sample(range(len(found.labels)), len(found.labels)))
    pieces = ClassGaussianMixture(covariance_type, regularization="jitter")
    for part in in_parts(found.rows(order), cuts):
        pieces.partial_fit(part.features, part.labels, part.weights)
    check_same_density(whole, pieces, found.features)


@given(samples(), st.sampled_from([*TYPES, "low_rank"]), st.integers(0, 90), st.integers(0, 90))
def test_merging_is_associative_and_knows_no_order(found, covariance_type, first, second):
    parts = []
    for rows in in_parts(found, [first, second]):
        part = ClassGaussianMixture(covariance_type, regularization="jitter")
        parts.append(part.partial_fit(rows.features, rows.labels, rows.weights))
    parts += [ClassGaussianMixture(covariance_type, regularization="jitter")] * (3 - len(parts))

    def merged(*several: ClassGaussianMixture) -> ClassGaussianMixture:
        result = ClassGaussianMixture(covariance_type, regularization="jitter")
        for each in several:
            result.merge(each)
        return result

    a, b, c = parts
    left, right = merged(merged(a, b), c), merged(a, merged(b, c))
    whole = density(found, covariance_type)
    for united in (left, right, merged(c, b, a)):
        check_same_density(whole, united, found.features)


@given(samples(), covariance_types)
def test_log_prob_is_scipys_normal_with_numpys_covariance(found, covariance_type):
    fitted = density(found, covariance_type)
    means, covariances = class_covariances(*found.arrays, covariance_type)
    columns = [
        np.atleast_1d(multivariate_normal.logpdf(found.features.numpy(), mean, covariance))
        for mean, covariance in zip(means, covariances, strict=True)
    ]
    every = fitted.log_probs(found.features)
    np.testing.assert_allclose(every.numpy(), np.stack(columns, 1), rtol=1e-7, atol=1e-7)
    own = fitted.log_prob(found.features, found.labels)
    assert torch.allclose(own, every.gather(1, found.labels.unsqueeze(1)).squeeze(1), rtol=1e-10)
    mixture = special.logsumexp(np.stack(columns, 1), axis=1) - np.log(len(means))
    np.testing.assert_allclose(
        fitted.log_density(found.features).numpy(), mixture, rtol=1e-7, atol=1e-7
    )


@given(samples(least_features=2))
def test_low_rank_is_the_tied_covariance_but_for_classes_own_in_few_directions(found):
    fitted = density(found, "low_rank")
    rank = max(found.features.shape[1] // 2, 1)
    means, covariances = low_rank_covariances(*found.arrays, rank)
    np.testing.assert_allclose(fitted.covariances.numpy(), covariances, rtol=1e-5, atol=1e-8)
    for index, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        expected = multivariate_normal.logpdf(found.features.numpy(), mean, covariance)
        at = fitted.log_prob(found.features, index).numpy()
        np.testing.assert_allclose(at, expected, rtol=1e-6, atol=1e-6)


@given(samples(weighted=False, per_feature=0, least_features=2))
def test_shrinkage_is_scikit_learns(found):
    fitted = density(found, "full", "oas")
    for index in range(int(found.labels.max()) + 1):
        own = found.features[found.labels == index].numpy()
        covariance, _ = oas(own)
        np.testing.assert_allclose(fitted.covariance(index).numpy(), covariance, rtol=1e-8)


@given(samples(), st.sampled_from([*TYPES, "low_rank"]), st.integers(-40, 40), st.booleans())
def test_units_move_a_density_by_their_jacobian(found, covariance_type, power, shrunk):
    scale = 2.0**power
    regularization = "oas" if shrunk and covariance_type in ("full", "tied") else "jitter"
    plain = density(found, covariance_type, regularization)
    scaled = Samples(found.features * scale, found.labels, found.weights)
    other = density(scaled, covariance_type, regularization)
    jacobian = found.features.shape[1] * np.log(scale)
    torch.testing.assert_close(
        plain.log_probs(found.features) - jacobian,
        other.log_probs(scaled.features),
        rtol=1e-6,
        atol=1e-6,
    )


@given(samples(), st.sampled_from(["full", "tied"]), seeds)
def test_an_affine_map_of_features_moves_a_density_by_its_determinant(found, kind, seed):
    size = found.features.shape[1]
    matrix, offset = normal(seed, size, size) + 3 * torch.eye(size), 5 * normal(seed + 1, size)
    mapped = Samples(found.features @ matrix.T + offset, found.labels, found.weights)
    volume = torch.linalg.slogdet(matrix).logabsdet
    condition = torch.linalg.cond(matrix)
    tolerance = 1e-9 * float(condition) ** 2
    torch.testing.assert_close(
        density(found, kind).log_probs(found.features) - volume,
        density(mapped, kind).log_probs(mapped.features),
        rtol=tolerance,
        atol=tolerance,
    )


@given(samples(), covariance_types, st.integers(-20, 20))
def test_only_ratios_of_weights_matter(found, covariance_type, power):
    heavier = Samples(found.features, found.labels, found.weights * 2.0**power)
    first, second = density(found, covariance_type), density(heavier, covariance_type)
    at = found.features
    torch.testing.assert_close(first.log_probs(at), second.log_probs(at), rtol=1e-9, atol=1e-9)


@given(samples(), covariance_types)
def test_labels_are_responsibilities_of_one_class(found, covariance_type):
    soft = torch.nn.functional.one_hot(found.labels).double()
    responsible = ClassGaussianMixture(covariance_type, regularization="jitter")
    responsible.fit(found.features, soft, found.weights)
    check_same_density(density(found, covariance_type), responsible, found.features)


@given(samples(per_feature=2), covariance_types)
def test_left_out_samples_are_judged_by_a_fit_without_them(found, covariance_type):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = ClassGaussianMixture(covariance_type, regularization="jitter")
        fitted.fit(found.features, found.labels, found.weights)
        expected = []
        for row in range(len(found.labels)):
            others = found.rows(torch.arange(len(found.labels)) != row)
            means, covariances = class_covariances(*others.arrays, covariance_type)
            own = int(found.labels[row])
            point = found.features[row].numpy()
            expected.append(multivariate_normal.logpdf(point, means[own], covariances[own]))
    for q in (0.0, 0.05, 0.5, 1.0):
        quantiles = fitted.quantile(q)
        for index in range(fitted.num_classes):
            own = [v for v, c in zip(expected, found.labels.tolist(), strict=True) if c == index]
            assert float(quantiles[index]) == pytest.approx(np.quantile(own, q), rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(eighths(-40, 40), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.05, 1 / 3, 0.5, 1.0]),
    tensors((5,), eighths(-44, 44)),
)
def test_quantiles_are_numpys_and_ranks_scipys(values, q, asked):
    kept = ClassQuantiles()
    for value, index in values:
        kept.add(torch.tensor([value], dtype=torch.float64), torch.tensor([index]))
    quantiles = kept.quantile(q, 4)
    for index in range(4):
        own = [value for value, c in values if c == index]
        ranks = kept.rank(asked, torch.full((5,), index))
        if not own:
            assert quantiles[index].isnan()
            assert ranks.isnan().all()
            continue
        assert float(quantiles[index]) == pytest.approx(np.quantile(own, q), abs=1e-12)
        shares = [stats.percentileofscore(own, a, "weak") / 100 for a in asked.tolist()]
        np.testing.assert_allclose(ranks.numpy(), shares, atol=1e-12)


@given(samples(), st.sampled_from(["full", "low_rank", "tied", "diag", "spherical"]))
def test_gradients_are_those_of_the_formula(found, covariance_type):
    fitted = density(found, covariance_type)
    at = (found.features[:3] + 0.5).requires_grad_()
    classes = found.labels[:3]
    (gradient,) = torch.autograd.grad(fitted.log_prob(at, classes).sum(), at)
    covariances = fitted.covariances
    for row, index in enumerate(classes.tolist()):
        covariance = covariances if covariance_type == "tied" else covariances[index]
        if covariance.dim() < 2:
            covariance = torch.diag(covariance.expand(at.shape[1]))
        expected = torch.linalg.solve(covariance, fitted.means[index] - at[row].detach())
        torch.testing.assert_close(gradient[row], expected, rtol=1e-6, atol=1e-8)


@given(samples(), st.sampled_from(["full", "tied"]), seeds)
def test_moments_far_from_zero_keep_the_digits_of_deviations(found, covariance_type, seed):
    """The error grows as the mean over the deviations, where sums of squares lose its square.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
    """
    far = 1e6 * normal(seed, found.features.shape[1]).sign()
    plain, moved = (
        Moments(covariance_type, 0, far.numel()),
        Moments(covariance_type, 0, far.numel()),
    )
    for part in in_parts(found, [7, 20]):
        plain.add(Fitted(part.features, part.labels, part.weights))
        moved.add(Fitted(part.features + far, part.labels, part.weights))
    for index in range(plain.num_classes):
        first, second = (
            m.scatter if covariance_type == "tied" else m.class_scatter(index)
            for m in (plain, moved)
        )
        scatter = float(first.diagonal().max())
        weight = (
            found.weights if covariance_type == "tied" else found.weights[found.labels == index]
        )
        condition = 1e6 / (scatter / float(weight.sum())) ** 0.5
        allowed = 8 * torch.finfo(torch.float64).eps * condition * scatter
        assert float((first - second).abs().max()) <= allowed


# --- hurdle models ---


@given(seeds, st.integers(2, 40), cuts, st.booleans())
def test_hurdles_merge_in_any_order(seed, count, cuts, negative):
    features = normal(seed, count, 3)
    features = features if negative else features.relu()
    labels = torch.randint(3, (count,), generator=torch.Generator().manual_seed(seed))
    found = Samples(features, labels, torch.ones(count))
    whole = ClassHurdles(3).fit(features, labels)
    parts = [ClassHurdles(3).fit(p.features, p.labels) for p in in_parts(found, cuts)]
    merged = ClassHurdles(3)
    for part in reversed(parts):
        merged.merge(part)
    for name in ("counts", "active", "active_mean", "active_scatter", "log_mean", "mean"):
        first, second = getattr(whole, name), getattr(merged, name)
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)
    active = torch.stack([(features[labels == c] > 0).double().sum(0) for c in range(3)])
    assert torch.equal(whole.active, active)


@given(st.floats(1e-3, 1e3))
def test_gamma_shapes_solve_their_equation(shape):
    gap = np.log(shape) - special.digamma(shape)
    found = gamma_shape(torch.tensor([gap], dtype=torch.float64))
    assert float(found) == pytest.approx(shape, rel=1e-6)


@given(seeds, st.floats(0.2, 5.0))
def test_probabilities_of_hurdles_are_shares_and_tails(seed, scale):
    features = (scale * normal(seed, 60, 2) + uniform(seed + 1, 2)).relu()
    fitted = ClassHurdles(1).fit(features, torch.zeros(60, dtype=torch.int64))
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    silent = (features == 0).double().mean(0)
    torch.testing.assert_close(fitted.probability(zeros, 0)[0], silent)
    grid = torch.linspace(1e-6, 20 * scale, 200).double().unsqueeze(1).expand(-1, 2)
    tails = fitted.probability(grid, 0)
    assert (tails >= 0).all()
    assert (tails <= (1 - silent) / 2 + 1e-9).all()
