from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from torch.distributions import MultivariateNormal

from captum_deduce.density.estimation import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.regularization import JITTERS, add_to_diagonal, oas_shrinkage
from captum_deduce.density.samples import Samples
from tests.density.test_gaussians import C, D, data, dense, fitted


def singular(kind: str):
    features, labels = data()
    if kind == "constant":
        features[:, 2] = 0
    elif kind == "few":
        features, labels = features[: 3 * C], labels[: 3 * C]
    return features, labels


@pytest.mark.parametrize("kind", ["regular", "constant", "few"])
def test_the_jitter_is_the_first_with_which_numpys_cholesky_succeeds(kind):
    features, labels = singular(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if kind != "regular" else "error")
        gaussians, covariances = fitted("full", features, labels)
    for c in range(C):
        covariance = np.cov(features[labels == c].numpy().T)
        unit = np.trace(covariance) / D
        for jitter in [0, *(10.0**k for k in range(-10, 1))]:
            regularised = covariance + jitter * unit * np.eye(D)
            try:
                np.linalg.cholesky(regularised)
                break
            except np.linalg.LinAlgError:
                continue
        assert gaussians.amount[c].item() == jitter
        assert gaussians.added[c].item() == pytest.approx(jitter * unit)
        np.testing.assert_allclose(covariances[c].numpy(), regularised, rtol=1e-9, atol=1e-14)
    assert (gaussians.amount > 0).all() == (kind != "regular")


@pytest.mark.parametrize("negative", [1e-9, 1e-6, 1e-3, 0.5])
def test_the_ladder_is_climbed_as_far_as_needed(negative):
    values = torch.tensor([1.0, 1, 1, 1, 1, -negative], dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64))
    covariance = (basis * values) @ basis.T
    weight = torch.ones(1, dtype=torch.float64)
    moments = Moments.of_population(
        "full", weight, torch.zeros(1, D, dtype=torch.float64), covariance.unsqueeze(0)
    )
    with pytest.warns(UserWarning, match="class 0 .* regularised by a jitter"):
        gaussians = estimate(moments, torch.tensor([0]), "jitter")
    expected = next(j for j in JITTERS if j * values.mean() > negative)
    assert gaussians.amount.item() == expected


@pytest.mark.parametrize("seed", range(20))
def test_rounding_does_not_decide_whether_too_few_samples_are_regularised(seed):
    features, _ = data(n=D, seed=seed)
    with pytest.warns(
        UserWarning, match=r"class 1 \(6 samples\): regularised .* 1e-10 x trace/D.*'oas' help$"
    ):
        gaussians, _ = fitted("full", features, torch.ones(D, dtype=torch.int64))
    assert gaussians.amount[1] == 1e-10


@pytest.mark.parametrize("n", [12, 40, 300])
def test_oas_equals_scikit_learns(n):
    features, labels = data(n=n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if n == 12 else "error")
        gaussians, covariances = fitted("full", features, labels, regularization="oas")
    for c in range(C):
        expected, shrinkage = oas(features[labels == c].numpy())
        assert gaussians.amount[c].item() == pytest.approx(shrinkage, rel=1e-10)
        np.testing.assert_allclose(covariances[c].numpy(), expected, rtol=1e-10, atol=1e-12)


def test_tied_oas_equals_scikit_learns_for_features_centred_on_their_classes():
    features, labels = data(n=40)
    centred = features - torch.stack([features[labels == c].mean(0) for c in range(C)])[labels]
    expected, shrinkage = oas(centred.numpy(), assume_centered=True)
    gaussians, covariance = fitted("tied", features, labels, regularization="oas")
    np.testing.assert_allclose(gaussians.amount.numpy(), shrinkage)
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_oas_does_not_depend_on_the_scale_of_weights(covariance_type):
    features, labels = data(n=40)
    weight = torch.rand(40, dtype=torch.float64)
    first, first_covariance = fitted(covariance_type, features, labels, weight, "oas")
    second, second_covariance = fitted(covariance_type, features, labels, 7 * weight, "oas")
    torch.testing.assert_close(first.amount, second.amount)
    torch.testing.assert_close(first_covariance, second_covariance)
    equal, _ = fitted(covariance_type, features, labels, torch.full_like(weight, 0.3), "oas")
    plain, _ = fitted(covariance_type, features, labels, None, "oas")
    torch.testing.assert_close(equal.amount, plain.amount)


def test_oas_at_its_limits():
    one = torch.ones((), dtype=torch.float64)
    # scikit-learn: no shrinkage of a single feature, all of it where nothing is off the target
    assert oas_shrinkage(one, one, 5 * one, num_features=1) == 0
    assert oas_shrinkage(4 * one, 4 * one, 5 * one, num_features=4) == 1
    _, expected = oas(np.array([[1.0], [2.0], [4.0]]))
    assert expected == 0


@pytest.mark.parametrize(
    ("covariance_type", "regularization"),
    [("full", "jitter"), ("full", "oas"), ("diag", "jitter"), ("spherical", "jitter")],
)
def test_a_class_without_spread_gets_that_of_the_others(covariance_type, regularization):
    features, labels = data()
    features[labels == 1] = 3.0
    alone = torch.cat([features[labels != 2], torch.full((1, D), 9.0)])
    label = torch.cat([labels[labels != 2], torch.tensor([2])])
    with pytest.warns(UserWarning, match=r"class 1 \(67 samples\): covariance replaced by"):
        gaussians, covariances = fitted(
            covariance_type, alone, label, regularization=regularization
        )
    own = features[labels == 0].var(0, unbiased=regularization == "jitter").mean()
    identity = torch.eye(D, dtype=torch.float64)
    expected = (own * identity).expand(2, D, D)
    torch.testing.assert_close(dense(covariances, covariance_type)[1:], expected)
    assert gaussians.amount[1:].tolist() == [torch.inf, torch.inf]
    log_prob = gaussians.log_prob(gaussians.project(features[:4]), 2)
    mean = torch.full((D,), 9.0, dtype=torch.float64)
    expected = MultivariateNormal(mean, own * identity).log_prob(features[:4])
    torch.testing.assert_close(log_prob, expected)


def test_a_single_sample_is_no_trouble_for_a_tied_covariance():
    features, labels = data()
    alone = torch.cat([features[labels != 2], torch.full((1, D), 9.0)])
    label = torch.cat([labels[labels != 2], torch.tensor([2])])
    gaussians, covariance = fitted("tied", alone, label)
    pair, expected = fitted("tied", features[labels != 2], labels[labels != 2])
    torch.testing.assert_close(covariance, expected)
    assert gaussians.amount.tolist() == pair.amount.tolist() == [0, 0, 0]


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_where_no_class_has_any_spread_the_covariance_is_the_identity(covariance_type):
    features = torch.arange(C).double().unsqueeze(1).expand(C, D)
    with pytest.warns(UserWarning, match="replaced by 1 x identity"):
        _, covariances = fitted(covariance_type, features, torch.arange(C))
    expected = torch.eye(D, dtype=torch.float64).expand(C, D, D)
    torch.testing.assert_close(dense(covariances, covariance_type), expected)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_a_constant_feature_is_regularised(covariance_type):
    features, labels = singular("constant")
    with pytest.warns(UserWarning, match="features that don't vary") as caught:
        gaussians, covariances = fitted(covariance_type, features, labels)
    advice = "; regularization='oas' helps"
    assert str(caught[0].message).endswith(advice) == (covariance_type == "full")
    variances = dense(covariances, covariance_type).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(variances[:, 2], 1e-10 * variances.mean(1), rtol=1e-6, atol=0)
    assert gaussians.amount.tolist() == [1e-10] * C


@pytest.mark.parametrize(
    ("covariance_type", "enough"), [("full", 9), ("diag", 2), ("spherical", 2)]
)
def test_too_few_samples_are_named(covariance_type, enough):
    features, labels = data()
    counts = torch.tensor([60, enough, enough - 1])
    rows = torch.cat([(labels == c).nonzero().flatten()[:n] for c, n in enumerate(counts)])
    with pytest.warns(UserWarning, match="class 2") as caught:
        fitted(covariance_type, features[rows], labels[rows])
    (message,) = [str(warning.message) for warning in caught]
    assert f"a {covariance_type!r} covariance of {D} features" in message
    assert f"class 2 ({enough - 1} samples)" in message
    assert "class 0" not in message
    assert "class 1" not in message


@pytest.mark.parametrize(("missing", "how"), [(0, None), (1, "squared"), (3, "regularised")])
def test_too_few_samples_for_a_tied_covariance_are_named(missing, how):
    features, labels = data(n=8 + C - missing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted("tied", features, labels)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (missing > 0)
    assert all(f"all classes ({8 + C - missing} samples): {how}" in m for m in messages)


@pytest.mark.parametrize("n", [12, 20])
def test_distances_of_others_come_out_as_many_times_too_large_as_the_warning_says(monkeypatch, n):
    monkeypatch.setattr("captum_deduce.density.regularization.SAMPLES_PER_FEATURE", 1000)
    generator = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="class 0") as caught:
        fitted("full", torch.randn(n, D).double(), torch.zeros(n).long())
    (factor,) = re.findall(
        r"squared distances of others come out (\S+) times", str(caught[0].message)
    )
    ratios = []
    for _ in range(20_000):
        inverse = np.linalg.inv(np.cov(generator.normal(size=(n, D)), rowvar=False))
        ratios.append(np.trace(inverse) / D)
    assert float(factor) == pytest.approx(np.mean(ratios), rel=0.05)


def test_features_that_others_determine_but_for_rounding_are_named():
    features, labels = data()
    features[:, 2] = features[:, 0] - 2 * features[:, 3] + 1e-6 * torch.randn(len(features))
    share = min(
        1 / (np.linalg.inv(correlation)[2, 2])
        for correlation in (np.corrcoef(features[labels == c].T) for c in range(C))
    )
    assert 1e-14 < share < 1e-10
    with pytest.warns(
        UserWarning, match=r"class 0 \(.* others determine a feature but for"
    ) as caught:
        gaussians, _ = fitted("full", features, labels)
    assert str(caught[0].message).endswith("; regularization='oas' helps")
    assert gaussians.amount.tolist() == [0] * C
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("full", features, labels, regularization="oas")


def test_few_effective_samples_are_named_though_nothing_need_be_regularised():
    features, labels = data()
    weight = torch.full((len(features),), 1e-6, dtype=torch.float64)
    weight[: 4 * C] = 1
    with pytest.warns(UserWarning, match=r"class 0 \(4\.\d+ samples\): no regularisation needed"):
        gaussians, _ = fitted("full", features, labels, weight)
    assert gaussians.amount.tolist() == [0, 0, 0]


def test_shrinkage_ends_the_warnings_unless_nothing_varies():
    features, labels = data(n=4 * C)
    features[:, 1] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for covariance_type in ("full", "tied"):
            fitted(covariance_type, features, labels, regularization="oas")
    features[labels == 1] = 2.0
    with pytest.warns(UserWarning, match=r": class 1 \(4 samples\): covariance replaced by .*y$"):
        fitted("full", features, labels, regularization="oas")


def test_a_long_list_of_classes_is_cut():
    moments = Moments("diag", 30, D)
    moments.add(Samples(torch.randn(30, D), torch.arange(30), None))
    with pytest.warns(UserWarning, match=r"class 9 \(1 samples\): .* identity; and 20 more$"):
        estimate(moments, torch.arange(30), "jitter")


@pytest.mark.parametrize("shape", [(D, D), (D,), ()])
def test_the_diagonal_is_added_to_a_copy(shape):
    covariance = torch.rand(shape)
    expected = covariance + (2 * torch.eye(D) if len(shape) == 2 else 2)
    before = covariance.clone()
    assert torch.equal(add_to_diagonal(covariance, 2.0), expected)
    assert torch.equal(covariance, before)
