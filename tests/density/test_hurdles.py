"""The parameters, against scipy's fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from captum_deduce.density import DISTRIBUTIONS, Hurdles, Spread, gamma_shape


def hurdles_of(values: torch.Tensor, target: torch.Tensor, classes: int) -> Hurdles:
    positive = (values > 0).double()
    logs = torch.where(values > 0, values, 1.0).log()
    return Hurdles.estimated(
        Spread.of(values, target, positive, classes),
        Spread.of(logs, target, positive, classes).mean,
        Spread.of(values, target, torch.ones_like(values), classes),
        (values < 0).any(0),
    )


@pytest.mark.parametrize("shape", [0.01, 0.3, 1.0, 4.7, 80.0, 1e4])
def test_the_shape_solves_its_equation(shape):
    gap = torch.tensor([np.log(shape) - special.digamma(shape)], dtype=torch.float64)
    torch.testing.assert_close(gamma_shape(gap), torch.tensor([shape]).double(), rtol=1e-6, atol=0)


def test_each_distribution_is_found_where_it_made_the_values():
    made = np.random.default_rng(0)
    columns = {
        "gamma": made.gamma(4.0, 0.5, 3000),
        "exponential": made.exponential(3.0, 3000),
        "normal": made.normal(9.0, 1.0, 3000),
        "none": np.zeros(3000),
    }
    values = torch.tensor(np.stack(list(columns.values()), 1))
    fitted = hurdles_of(values, torch.zeros(3000, dtype=torch.int64), 1)
    assert [DISTRIBUTIONS[kind] for kind in fitted.kind[0]] == list(columns)
    shape, _, scale = stats.gamma.fit(columns["gamma"], floc=0)
    torch.testing.assert_close(fitted.first[0, 0].item(), shape, rtol=1e-6, atol=0)
    torch.testing.assert_close(fitted.scale[0, 0].item(), scale, rtol=1e-6, atol=0)
    assert fitted.first[0, 1] == 1
    torch.testing.assert_close(fitted.scale[0, 1].item(), columns["exponential"].mean())
    torch.testing.assert_close(fitted.scale[0, 2].item(), columns["normal"].std())
    assert fitted.expectation[0, 3] == 0


def test_two_sets_of_values_are_described_as_one():
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() + 1e6
    target = torch.arange(50) % 2
    ones = torch.ones_like(values)
    whole = Spread.of(values, target, ones, 2)
    parts = [Spread.of(values[p], target[p], ones[p], 2) for p in (slice(17), slice(17, None))]
    for found, expected in zip(parts[0].united(parts[1]), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(whole.scatter[1], ((values[1::2] - whole.mean[1]) ** 2).sum(0))
