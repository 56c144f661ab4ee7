from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore
from sklearn.covariance import oas
from torch import Tensor

from captum_deduce.density import memory
from captum_deduce.density.estimation import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.quantiles import ClassQuantiles, LeaveOneOut
from captum_deduce.density.samples import Samples
from tests.reference import Array, class_covariances, log_density

C, D = 3, 5


def data(n: int = 60, seed: int = 0, weighted: bool = False):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) @ mixing + 20
    weight = torch.rand(n, dtype=torch.float64, generator=generator) * 3 + 0.2
    return features, torch.arange(n) % C, weight if weighted else torch.ones(n).double()


def left_out(
    covariance_type: str,
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    regularization: str = "jitter",
) -> Tensor:
    """The package's log-densities, in the order of the samples."""
    moments = Moments(covariance_type, C, D)
    moments.add(Samples(features, labels, weight))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        leave_one_out = LeaveOneOut(moments, estimate(moments, torch.arange(C), regularization))
    values, classes = leave_one_out.log_prob(features, weight, labels)
    assert torch.equal(classes, labels)
    return values


def refitted(
    covariance_type: str, features: Tensor, labels: Tensor, weight: Tensor, jitter: float = 0.0
) -> Array:
    """The same by fitting anew without each sample."""
    values = []
    for i in range(len(features)):
        rest = [np.delete(array.numpy(), i, axis=0) for array in (features, labels, weight)]
        means, covariances = class_covariances(*rest, covariance_type)
        covariance = covariances[labels[i]]
        covariance += jitter * np.trace(covariance) / D * np.eye(D)
        values.append(log_density(features[i].numpy(), means[labels[i]], covariance))
    return np.array(values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_log_densities_are_those_of_fits_without_the_sample(covariance_type, weighted):
    samples = data(weighted=weighted)
    expected = refitted(covariance_type, *samples)
    np.testing.assert_allclose(left_out(covariance_type, *samples), expected, rtol=1e-9)
    # and far from those of the fit to all
    means, covariances = class_covariances(*(array.numpy() for array in samples), covariance_type)
    inside = [
        log_density(z.numpy(), means[c], covariances[c])
        for z, c in zip(samples[0], samples[1], strict=True)
    ]
    assert np.mean(np.array(inside) - expected) > 0.05


def test_a_full_covariance_has_the_closed_form():
    features, labels, weight = data()
    found = left_out("full", features, labels, weight)
    for c in range(C):
        z = features[labels == c]
        n, covariance = len(z), torch.cov(z.T)
        offset = z - z.mean(0)
        m = (offset @ torch.linalg.inv(covariance) * offset).sum(1)
        h = n * m / (n - 1) ** 2
        m_loo = (n / (n - 1)) ** 2 * (n - 2) / (n - 1) * m / (1 - h)
        log_det = torch.logdet(covariance) + D * np.log((n - 1) / (n - 2)) + torch.log(1 - h)
        expected = -0.5 * (D * np.log(2 * np.pi) + log_det + m_loo)
        torch.testing.assert_close(found[labels == c], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_the_jitter_is_scaled_by_what_is_left(covariance_type, weighted):
    features, labels, weight = data(weighted=weighted)
    features[:, 3] = 0.1
    found = left_out(covariance_type, features, labels, weight)
    expected = refitted(covariance_type, features, labels, weight, jitter=1e-10)
    # The spectrum of the others rounds at 1e-16 of the trace, a millionth of the jitter.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_samples_that_alone_span_a_dimension_are_far_from_the_others():
    features, labels, weight = data(n=C * 4)
    found = left_out("full", features, labels, weight)
    expected = refitted("full", features, labels, weight, jitter=1e-10)
    assert (expected < -1e6).all()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_a_sample_that_alone_spans_an_oblique_direction_has_a_low_finite_log_density(seed):
    features, labels, weight = data(seed=seed)
    features[C:, 2] = 0.1
    oblique, _ = torch.linalg.qr(features[: D * C : C])
    found = left_out("full", features @ oblique, labels, weight)
    assert torch.isfinite(found).all()
    assert (found[:C] < found[C:].min() - 1e6).all()


@pytest.mark.parametrize("n", [C * 5, 90])
def test_oas_shrinkage_is_computed_anew(n):
    features, labels, weight = data(n=n)
    expected, expected_tied = [], []
    for i in range(n):
        rest, label = np.delete(features.numpy(), i, axis=0), np.delete(labels.numpy(), i)
        means = np.stack([rest[label == c].mean(0) for c in range(C)])
        own = labels[i]
        covariance, _ = oas(rest[label == own])
        expected.append(log_density(features[i].numpy(), means[own], covariance))
        covariance, _ = oas(rest - means[label], assume_centered=True)
        expected_tied.append(log_density(features[i].numpy(), means[own], covariance))
    found = left_out("full", features, labels, weight, "oas")
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    found = left_out("tied", features, labels, weight, "oas")
    np.testing.assert_allclose(found, expected_tied, rtol=1e-9)


@pytest.mark.parametrize("regularization", ["jitter", "oas"])
def test_weights_of_oas_and_jitter_may_have_any_scale(regularization):
    features, labels, weight = data(weighted=True)
    first = left_out("full", features, labels, weight, regularization)
    second = left_out("full", features, labels, 1000 * weight, regularization)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_identical_samples_keep_the_covariance_that_they_borrowed(covariance_type):
    features, labels, weight = data()
    features[labels == 1] = 4.0
    borrowed = torch.stack([features[labels == c].var(0).mean() for c in (0, 2)]).mean()
    expected = -0.5 * D * torch.log(2 * torch.pi * borrowed)
    found = left_out(covariance_type, features, labels, weight)[labels == 1]
    torch.testing.assert_close(found, expected.expand_as(found))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_sample_without_which_nothing_varies_has_a_low_finite_log_density(covariance_type, seed):
    features, labels, weight = data(seed=seed)
    features[:, 2] = 1.0
    features[:C, 2] = 2.0
    if covariance_type == "spherical":
        features[C:] = 1.0
    found = left_out(covariance_type, features, labels, weight)
    assert torch.isfinite(found).all()
    if covariance_type != "tied":  # where two others vary in that feature
        assert (found[:C] < found[C:].min() - 1e6).all()


@pytest.mark.parametrize(
    ("covariance_type", "needed"), [("full", 3), ("diag", 3), ("spherical", 3), ("tied", 2)]
)
def test_samples_are_left_out_where_the_rest_cannot_be_fitted(covariance_type, needed):
    features, labels, _ = data()
    for count, expected in ((needed - 1, 0), (needed, needed)):
        keep = (labels == 0) | (torch.arange(len(labels)) < C * count)
        moments = Moments(covariance_type, C, D)
        moments.add(Samples(features[keep], labels[keep], None))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gaussians = estimate(moments, torch.arange(C), "jitter")
        own = labels[labels == 2][:count]
        leave_one_out = LeaveOneOut(moments, gaussians)
        values, classes = leave_one_out.log_prob(features[labels == 2][:count], None, own)
        assert len(values) == expected
        assert classes.tolist() == [2] * expected
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("q", [0.0, 0.05, 0.31, 0.5, 0.999, 1.0])
def test_quantiles_equal_numpys(q):
    table, generator = ClassQuantiles(), torch.Generator().manual_seed(0)
    samples: dict[int, list[Tensor]] = {0: [], 2: [], 5: []}
    for count in (7, 1, 30, 4):
        batch = [(c, torch.randn(count + c, generator=generator).double()) for c in samples]
        classes = [torch.full((len(values),), c) for c, values in batch]
        table.add(torch.cat([values for _, values in batch]), torch.cat(classes))
        for c, values in batch:
            samples[c].append(values)
    table.add(torch.tensor([-2.5]).double(), torch.tensor([3]))
    samples[3] = [torch.tensor([-2.5]).double()]
    found = table.quantile(q, num_classes=7)
    for c in range(7):
        if c in samples:
            expected = np.quantile(torch.cat(samples[c]).numpy(), q)
            assert found[c].item() == pytest.approx(expected, rel=1e-14)
        else:
            assert torch.isnan(found[c])
    assert len(table) == sum(len(torch.cat(values)) for values in samples.values())


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_those_of_scipy(ties):
    generator = np.random.default_rng(3)
    values = {0: generator.normal(size=7), 3: generator.normal(size=20)}
    if ties:
        values = {index: np.round(part) for index, part in values.items()}
    kept = ClassQuantiles()
    for index, part in values.items():
        kept.add(torch.from_numpy(part), torch.full((len(part),), index))
    asked = np.concatenate([values[0], values[3], generator.normal(scale=3, size=6)])
    classes = np.array([0] * 7 + [3] * 20 + [0, 3, 0, 3, 1, 7])
    expected = [
        percentileofscore(values[c], a, kind="weak") / 100 if c in values else np.nan
        for a, c in zip(asked, classes, strict=True)
    ]
    found = kept.rank(torch.from_numpy(asked), torch.from_numpy(classes))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_eigenvectors_that_do_not_fit_into_memory_are_refused_with_a_remedy(monkeypatch):
    features, labels, _ = data(n=C * 4)  # too few for a covariance as it is
    moments = Moments("full", C, D)
    moments.add(Samples(features, labels, None))
    leave_one_out = LeaveOneOut(moments, estimate(moments, torch.arange(C), "oas"))
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0.0)
    with pytest.raises(ValueError, match=r"eigenvectors of 5 features .*; pass quantiles=False"):
        leave_one_out.log_prob(features, None, labels)


def test_values_live_where_they_are_asked_to():
    kept = ClassQuantiles(torch.device("meta"))
    assert {buffer.device.type for buffer in kept.buffers()} == {"meta"}
    assert {buffer.device.type for buffer in ClassQuantiles().buffers()} == {"cpu"}
