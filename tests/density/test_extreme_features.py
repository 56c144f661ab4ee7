"""Densities of extreme features: right to a stated tolerance, or with a warning, or refused.

Held against mpmath, to 60 digits. Where nothing was regularised it is the density of the samples'
own mean and covariance, else that of the mean and the covariance that the density states.
"""

from __future__ import annotations

import warnings

import mpmath
import pytest
import torch
from torch import Tensor

from captum_deduce import ClassGaussianMixture

D = 5
LABELS = torch.arange(120) % 3
TOLERANCE = 1e-8
"""Of a log-density or of one nat, whichever is larger, where there was no warning."""

PER_CONDITION = 1e-14
"""The same for each unit of the covariance's condition number, but for that of single features."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


PLAIN = drawn(120, D) + 3 * drawn(3, D, seed=1)[LABELS]
TURN = torch.linalg.qr(drawn(D, D, seed=2)).Q


def stretched(power: float) -> Tensor:
    return (PLAIN * 10 ** torch.linspace(0, -power, D).double()) @ TURN.T


def with_last(values: Tensor) -> Tensor:
    return torch.cat([PLAIN[:, :-1], values.reshape(-1, 1).expand(120, 1)], 1)


def exact(points: Tensor, rows: Tensor, stated: Tensor | None, kind: str) -> list[float]:
    """Log-densities under the normal with the mean of rows, and their covariance or another."""
    with mpmath.workdps(60):
        samples = mpmath.matrix(rows.tolist())
        mean = mpmath.ones(1, samples.rows) * samples / samples.rows
        if stated is None:
            centred = samples - mpmath.ones(samples.rows, 1) * mean
            covariance = centred.T * centred / (samples.rows - 1)
            if kind == "diag":
                covariance = mpmath.diag([covariance[k, k] for k in range(D)])
        else:
            dense = torch.diag(stated) if kind == "diag" else stated
            covariance = mpmath.matrix(dense.tolist())
        lower = mpmath.cholesky(covariance)
        volume = 2 * sum(mpmath.log(lower[k, k]) for k in range(D))
        found = []
        for point in points.tolist():
            coordinates = mpmath.lu_solve(lower, (mpmath.matrix([point]) - mean).T)
            squared = sum(x**2 for x in coordinates)
            found.append(float(-(D * mpmath.log(2 * mpmath.pi) + volume + squared) / 2))
        return found


def check_digits(density: ClassGaussianMixture, features: Tensor, tolerance: float) -> None:
    kind = density.covariance_type
    points = torch.cat([features[:3], features[3:6] + features.std(0)])
    for index in range(3):
        regularised = float(density.regularization_used[index]) > 0
        stated = density.covariance(index) if regularised else None
        expected = exact(points, features[LABELS.eq(index)], stated, kind)
        found = density.log_prob(points, index).tolist()
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


RIGHT = {
    "plain": PLAIN,
    "1e-8": PLAIN * 1e-8,
    "1e8": PLAIN * 1e8,
    "1e-30": PLAIN * 1e-30,
    "1e30": PLAIN * 1e30,
    "from 1e-8 to 1e8": PLAIN * 10 ** torch.linspace(-8, 8, D).double(),
    "far from 0": PLAIN + 1e7,
    "means far apart": PLAIN + 1e7 * LABELS.unsqueeze(1),
    "far from 0 in one feature": with_last(1e7 + drawn(120, 1, seed=3)),
}


@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("name", RIGHT)
def test_without_a_warning_a_log_density_is_right(name, kind):
    density = ClassGaussianMixture(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density.fit(RIGHT[name], LABELS)
    assert not density.regularization_used.any()
    check_digits(density, RIGHT[name], TOLERANCE)


@pytest.mark.parametrize("power", [2, 3, 4, 5, 5.5])
def test_a_log_density_loses_the_digits_of_its_condition(power):
    features = stretched(power)
    density = ClassGaussianMixture("full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        density.fit(features, LABELS)
    check_digits(density, features, max(TOLERANCE, PER_CONDITION * 10 ** (2 * power)))


WARNED = {
    "condition 1e14": (stretched(7), "others determine a feature but for a share of"),
    "condition 1e24": (stretched(12), "features that don't vary or depend on one another"),
    "a feature twice": (with_last(PLAIN[:, 0]), "regularised by a jitter of 1e-10"),
    "a constant feature": (with_last(torch.tensor(0.5)), "regularised by a jitter of 1e-10"),
    "constant at 1e8": (with_last(torch.tensor(1e8)), "regularised by a jitter of 1e-10"),
    "no variation": (PLAIN[:1].expand(120, D), "covariance replaced by 1 x identity"),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_can_not_be_right_is_shrunk_with_a_warning(name):
    features, message = WARNED[name]
    density = ClassGaussianMixture("full")
    with pytest.warns(UserWarning, match=message):
        density.fit(features, LABELS)
    assert (density.regularization_used > 0).all()
    check_digits(density, features, TOLERANCE)


@pytest.mark.parametrize("count", [2, 3, D, D + 1])
def test_a_class_of_few_samples_is_named_and_shrunk(count):
    rows = (LABELS != 1) | (torch.arange(120) < 3 * count)
    density = ClassGaussianMixture("full")
    with pytest.warns(UserWarning, match=rf"class 1 \({count} samples\).*covariances are shrunk"):
        density.fit(PLAIN[rows], LABELS[rows])
    amount = float(density.regularization_used[1])
    assert 0 < amount <= 1
    stated = density.covariance(1)
    expected = exact(PLAIN[:4], PLAIN[rows & (LABELS == 1)], stated, "full")
    found = density.log_prob(PLAIN[:4], 1).tolist()
    assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["full", "low_rank", "tied", "diag", "spherical"])
def test_a_class_without_samples_is_refused_and_has_no_density(kind):
    rows = LABELS != 1
    density = ClassGaussianMixture(kind, num_classes=4).fit(PLAIN[rows], LABELS[rows])
    assert density.fitted_classes.tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match=r"target names class\(es\) \[1\] .* no samples of"):
        density.log_prob(PLAIN[:2], [0, 1])
    every = density.log_probs(PLAIN[:2])
    assert every[:, [1, 3]].isneginf().all()
    assert every[:, [0, 2]].isfinite().all()
    expected = torch.logsumexp(every[:, [0, 2]], 1) - torch.tensor(2.0).double().log()
    torch.testing.assert_close(density.log_density(PLAIN[:2]), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e101])
def test_what_has_no_covariance_in_float64_is_refused(value):
    features = PLAIN.clone()
    features[7, 2] = value
    with pytest.raises(ValueError, match=r"features must be finite and at most .* first in row 7"):
        ClassGaussianMixture().fit(features, LABELS)


def test_single_precision_far_from_0_does_not_pass_for_variation():
    """A constant that float32 can't hold exactly, and features whose digits float32 has lost."""
    features = with_last(torch.tensor(1 / 3)).float()
    with pytest.warns(UserWarning, match="regularised by a jitter of 1e-10"):
        ClassGaussianMixture("full").fit(features, LABELS)
    near, far = PLAIN.float(), (PLAIN + 1000).float()
    first, second = (ClassGaussianMixture("full").fit(x, LABELS) for x in (near, far))
    # What float32 has rounded off the features: 6e-5 / 2 of a deviation, times a few deviations.
    gap = first.log_prob(near, LABELS) - second.log_prob(far, LABELS)
    assert gap.abs().max() < 5e-3
