"""Errors over originals and margins between curves, against other ways to compute them."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from scipy import stats

from captum_deduce.experiments.curves import Curve, error_over_originals, margins

# scipy called it random_state before version 1.15
SEED = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"


def curve(across, up, originals=1):
    """A curve through the same points for every original, of two pairs each."""
    spread = torch.ones(1, originals, dtype=torch.float64)
    both = 2 * spread.expand(len(across), -1)
    return Curve(
        torch.tensor(across, dtype=torch.float64)[:, None] * both,
        both,
        torch.tensor(up, dtype=torch.float64)[:, None] * both,
        both,
    )


def read(one, *distances):
    weights = torch.ones(1, one.searched.shape[1], dtype=torch.float64)
    return one.at(torch.tensor(distances, dtype=torch.float64), weights)[0].tolist()


def noisy_curves(originals):
    """Ours and another's, of originals that differ from one another much more than the two do."""
    draw = np.random.default_rng(5)
    hardness = draw.normal(0, 0.15, originals)
    pairs = np.full((2, originals), 9.0)
    found = {}
    for name, lift in (("ours", 0.2), ("theirs", 0.0)):
        across = np.array([20.0, 50.0])[:, None] + 20 * hardness
        up = np.array([0.3, 0.7])[:, None] + lift + hardness + draw.normal(0, 0.05, originals)
        found[name] = Curve(
            *(torch.from_numpy(each) for each in (across * 9, pairs, up * 9, pairs))
        )
    return found["ours"], found["theirs"]


def test_with_as_many_pairs_each_the_error_is_that_of_the_originals_means():
    values = torch.rand(60, dtype=torch.float64)
    originals = torch.arange(12).repeat_interleave(5)[torch.randperm(60)]
    means = [values[originals == each].mean().item() for each in range(12)]
    assert error_over_originals(values, originals) == pytest.approx(stats.sem(means))


def test_with_different_numbers_of_pairs_the_bootstrap_agrees():
    draw = np.random.default_rng(0)
    counts = draw.integers(1, 9, 60)
    originals = np.repeat(np.arange(60), counts)
    values = draw.normal(0, 0.1, len(originals)) + draw.normal(0, 1, 60)[originals]
    sums = np.bincount(originals, values)
    drawn = stats.bootstrap(
        (sums, counts.astype(float)),
        lambda total, number, axis: total.sum(axis) / number.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        **{SEED: 1},
    )
    error = error_over_originals(torch.from_numpy(values), torch.from_numpy(originals))
    assert error == pytest.approx(drawn.standard_error, rel=0.06)
    naive = values.std(ddof=1) / math.sqrt(len(values))
    assert error > 1.5 * naive


@pytest.mark.parametrize("count", [0, 3])
def test_one_original_has_no_error(count):
    values = torch.rand(count, dtype=torch.float64)
    assert error_over_originals(values, torch.full((count,), 7)) is None


def test_between_points_the_curve_is_straight_and_beyond_them_it_is_nowhere():
    one = curve([10.0, 20.0, 40.0], [0.1, 0.5, 0.6])
    expected = np.interp([10, 12.5, 20, 33, 40], [10, 20, 40], [0.1, 0.5, 0.6])
    np.testing.assert_allclose(read(one, 10, 12.5, 20, 33, 40), expected)
    assert np.isnan(read(one, 9.9, 40.1)).all()


def test_where_a_curve_turns_back_its_highest_stretch_counts():
    turning = curve([10.0, 30.0, 20.0], [0.1, 0.3, 0.9])
    assert read(turning, 15, 25) == pytest.approx([0.15, 0.6])


def test_points_without_a_place_and_single_points_make_no_stretch():
    broken = curve([10.0, 20.0, 40.0], [0.1, 0.5, 0.6])
    broken.distances[1] = broken.found[1] = 0
    assert np.isnan(read(broken, 15, 30)).all()
    assert np.isnan(read(curve([10.0], [0.5]), 10, 20)).all()


def test_a_failure_lowers_agreement_and_leaves_distance_alone():
    """Two of three pairs found, at 10 and 30 (of 2 originals), seen by all oracles."""
    one = Curve(
        torch.tensor([[10.0, 30.0], [40.0, 60.0]], dtype=torch.float64),
        torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64),
        torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64),
        torch.tensor([[2.0, 1.0], [2.0, 1.0]], dtype=torch.float64),
    )
    assert read(one, 20, 35, 50) == pytest.approx([2 / 3] * 3)
    weights = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    alone = one.at(torch.tensor([10.0, 30.0], dtype=torch.float64), weights)
    assert alone[0].tolist() == pytest.approx([0.5, 0.5])


def test_margins_are_between_the_best_of_each_side():
    ours = {"low": curve([10.0, 50.0], [0.5, 0.6], 3), "high": curve([30.0, 50.0], [0.7, 0.9], 3)}
    others = {
        "rival": curve([0.0, 40.0], [0.0, 0.4], 3),
        "lower": curve([0.0, 50.0], [0.0, 0.1], 3),
    }
    early, middle, late, beyond = margins(ours, others, [20.0, 40.0, 45.0, 60.0], 0, resamples=50)
    assert (early.method, early.rival) == ("low", "rival")
    assert early.difference == pytest.approx(0.525 - 0.2)
    assert (middle.method, middle.rival) == ("high", "rival")
    assert middle.difference == pytest.approx(0.8 - 0.4)
    assert middle.interval == pytest.approx((0.4, 0.4))  # all originals are alike
    assert middle.reached == 1
    assert (late.method, late.rival) == ("high", "lower")
    assert late.difference == pytest.approx(0.85 - 0.09)
    assert (beyond.method, beyond.rival, beyond.difference, beyond.interval) == (None,) * 4


def test_one_side_alone_has_no_margin():
    (only,) = margins(
        {"a": curve([0.0, 9.0], [0, 1], 2)}, {"b": curve([8.0, 9.0], [0, 1], 2)}, [4], 0
    )
    assert (only.method, only.rival, only.difference, only.interval) == ("a", None, None, None)
    assert only.agreement == pytest.approx(4 / 9)


def test_one_original_has_a_margin_without_an_interval():
    (only,) = margins({"a": curve([0.0, 9.0], [0, 1])}, {"b": curve([0.0, 9.0], [0, 0])}, [9], 0)
    assert only.difference == 1
    assert only.interval is None


def test_the_interval_is_that_of_scipys_bootstrap_of_both_curves_together():
    ours, theirs = noisy_curves(originals=40)

    def difference(drawn, axis):
        rows = np.moveaxis(drawn.astype(int), axis, -1)

        def height(one):
            across = one.distances.numpy()[:, rows].sum(-1) / one.found.numpy()[:, rows].sum(-1)
            up = one.agreements.numpy()[:, rows].sum(-1) / one.searched.numpy()[:, rows].sum(-1)
            way = (35 - across[0]) / (across[1] - across[0])
            return up[0] + way * (up[1] - up[0])

        return height(ours) - height(theirs)

    expected = stats.bootstrap(
        (np.arange(40),),
        difference,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        **{SEED: 2},
    )
    (found,) = margins({"ours": ours}, {"theirs": theirs}, [35.0], seed=3)
    assert found.reached == 1
    low, high = expected.confidence_interval
    width = high - low
    assert found.interval == pytest.approx((low, high), abs=0.06 * width)
    assert found.interval[0] < found.difference < found.interval[1]
    # The originals' own spread cancels, as both curves are of the same ones.
    assert width < 0.5 * 4 * ours.agreements[0].div(9).std().item() / math.sqrt(40)


def test_resamples_that_do_not_reach_are_counted():
    ours, theirs = noisy_curves(originals=40)
    edge = float(ours.distances[0].sum() / ours.found[0].sum())
    (found,) = margins({"ours": ours}, {"theirs": theirs}, [edge + 1e-6], seed=3, resamples=500)
    assert 0.1 < found.reached < 0.9
    again = margins({"ours": ours}, {"theirs": theirs}, [edge + 1e-6], seed=3, resamples=500)
    assert again == [found]
