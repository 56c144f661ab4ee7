"""FID against SciPy's matrix square root, and cuts of sFID that are counted by hand."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_deduce.metrics import FeatureExtractor, fid, split_fid
from tests import reference_metrics
from tests.visualization.samples import make_result


def draw(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, dtype=torch.float64, generator=generator)
    rows = torch.randn(count, width, dtype=torch.float64, generator=generator)
    return rows @ mixing + torch.randn(width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("first", "second", "width"), [(60, 90, 7), (40, 25, 1), (300, 200, 24)])
def test_it_is_the_formula(first, second, width):
    a, b = draw(first, width, 0), draw(second, width, 1)
    expected = reference_metrics.frechet(a.numpy(), b.numpy())
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert fid(b, a) == pytest.approx(expected, rel=1e-9)
    assert fid(a.float(), b.float()) == pytest.approx(expected, rel=1e-4)


def test_singular_covariances_are_warned_of_and_right():
    a, b = draw(9, 20, 0), draw(50, 20, 1)
    with pytest.warns(UserWarning, match="smaller set has 9 rows of 20 features: its covariance"):
        found = fid(a, b)
    first, second = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    # tr (AB)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose eigenvalues can be had without a root of
    # a matrix that has none to SciPy's precision.
    values, vectors = np.linalg.eigh(first)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ second @ half).clip(0)).sum()
    offset = (a.mean(0) - b.mean(0)).numpy()
    expected = offset @ offset + np.trace(first) + np.trace(second) - 2 * root
    assert found == pytest.approx(expected, rel=1e-6)


def test_commuting_covariances_have_a_closed_form():
    """Axes that don't mix: the sum of squared differences of means and of standard deviations."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 5, dtype=torch.float64, generator=generator)
    rows = torch.linalg.qr(rows - rows.mean(0)).Q * 399**0.5  # identity covariance, mean 0
    scales = torch.tensor([1.0, 2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    shift = torch.tensor([0.0, 1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    expected = shift.square().sum() + (scales - 1).square().sum()
    assert fid(rows, rows * scales + shift) == pytest.approx(expected.item(), rel=1e-10)


def test_a_set_is_at_no_distance_from_itself():
    rows = draw(80, 6, 3)
    assert 0 <= fid(rows, rows.flip(0)) < 1e-10 * rows.var(0).sum().item()


@pytest.fixture
def changed() -> tuple[Tensor, Tensor]:
    """Features of 26 counterfactuals of 10 originals."""
    of_each = torch.arange(26) % 10
    originals = draw(10, 3, 5)[of_each]
    return originals + 0.3 * draw(26, 3, 6), originals


def test_split_fid_is_the_mean_over_cuts(changed):
    features, originals = changed
    found = split_fid(features, originals, groups=torch.arange(26) % 10, splits=3, seed=4)
    generator = torch.Generator().manual_seed(4)
    halves = [torch.randperm(10, generator=generator)[:5].tolist() for _ in range(3)]
    expected = reference_metrics.split_frechet(
        features.numpy(), originals.numpy(), (torch.arange(26) % 10).tolist(), halves
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_cuts_are_halves_and_all_of_them_come():
    """Four originals can be cut in three ways: one cut is one of them, many average to all."""
    rows = draw(4, 1, 7)
    features = rows + draw(4, 1, 8)
    possible = [
        reference_metrics.split_frechet(features.numpy(), rows.numpy(), range(4), [half])
        for half in combinations(range(4), 2)
    ]
    singles = {round(split_fid(features, rows, splits=1, seed=seed), 8) for seed in range(20)}
    assert singles == {round(value, 8) for value in possible}
    many = split_fid(features, rows, splits=3000)
    assert many == pytest.approx(np.mean(possible), rel=0.1)


def test_equal_originals_are_one(changed):
    features, originals = changed
    which = torch.unique(originals, dim=0, return_inverse=True)[1]
    assert split_fid(features, originals) == split_fid(features, originals, groups=which * 3 - 7)
    images = originals.view(26, 3, 1, 1)
    result = make_result(images, features.view(26, 3, 1, 1))
    made, of_originals = FeatureExtractor(torch.nn.Flatten()).of_pairs(result)[::-1]
    assert split_fid(made, of_originals) == split_fid(features, originals)


def test_a_counterfactual_that_is_its_original_is_not_compared_with_itself():
    rows = draw(60, 4, 9)
    assert fid(rows, rows) < 1e-9
    assert split_fid(rows, rows) > 0.05
    assert split_fid(rows, rows) < split_fid(rows + 2, rows)


def test_small_halves_are_warned_of_once(changed):
    features, originals = changed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_fid(features, originals)
    wide = torch.cat([features, features.square()], 1), torch.cat([originals, originals**2], 1)
    with pytest.warns(UserWarning, match="smaller set has 5 rows of 6 features") as caught:
        split_fid(*wide)
    assert len(caught) == 1


def test_what_does_not_fit_is_refused(changed):
    features, originals = changed
    with pytest.raises(TypeError, match=r"^features must be a torch.Tensor, got ndarray"):
        fid(features.numpy(), originals)
    with pytest.raises(ValueError, match=r"^other must have the shape N x D with N at least 2"):
        fid(features, originals[:1])
    with pytest.raises(
        ValueError, match=r"^other must have as many features .*\(3 on cpu\), got 2"
    ):
        fid(features, originals[:, :2])
    with pytest.raises(ValueError, match=r"^features must be finite"):
        fid(features / 0, originals)
    with pytest.raises(TypeError, match=r"^features must be floating-point, got torch.int64"):
        fid(features.long(), originals)
    with pytest.raises(ValueError, match="a row for each pair, got 26 and 25 rows"):
        split_fid(features, originals[:25])
    with pytest.raises(ValueError, match="four different ones at least, two for each half, got 3"):
        split_fid(features, originals, groups=torch.arange(26) % 3)
    with pytest.raises(TypeError, match=r"groups must be a tensor of integers, got torch.float32"):
        split_fid(features, originals, groups=torch.zeros(26))
    with pytest.raises(ValueError, match=r"one integer per row \(26\), got shape \(4,\)"):
        split_fid(features, originals, groups=torch.arange(4))
    with pytest.raises(ValueError, match="splits must be a finite number"):
        split_fid(features, originals, splits=0)
