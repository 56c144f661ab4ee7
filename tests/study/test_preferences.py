from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from captum_deduce.study import bradley_terry, preferences
from captum_deduce.study.preferences import PRIOR

TRUTH = np.array([0.9, 0.2, -0.3, -0.8])


def people(count, comparisons, rng, spread=0.0):
    """For each person how often each method won, who differ from the truth by some spread."""
    own = TRUTH + spread * rng.standard_normal((count, len(TRUTH)))
    chance = 1 / (1 + np.exp(own[:, None] - own[:, :, None]))
    won = np.triu(rng.binomial(comparisons, chance), 1)
    lost = np.triu(comparisons - won, 1)
    return won + lost.transpose(0, 2, 1)


def test_it_maximises_the_likelihood():
    wins = people(20, 3, np.random.default_rng(1)).sum(0)
    table = wins + PRIOR * (1 - np.eye(4))

    def loss(strength):
        odds = strength[:, None] - strength[None]
        return (table * np.log1p(np.exp(-odds))).sum()

    expected = optimize.minimize(loss, np.zeros(4), options={"gtol": 1e-9}).x
    np.testing.assert_allclose(bradley_terry(wins), expected - expected.mean(), atol=1e-5)


def test_two_methods_have_the_odds_of_their_wins():
    first, second = bradley_terry([[7, 30], [10, 7]])
    assert first - second == pytest.approx(np.log((30 + PRIOR) / (10 + PRIOR)), abs=1e-6)


def test_a_method_that_always_wins_has_a_finite_strength():
    strength = bradley_terry([[0, 40, 40], [0, 0, 40], [0, 0, 0]])
    assert np.isfinite(strength).all()
    assert (np.diff(strength) < -3).all()


def test_the_true_order_is_recovered_with_its_strengths():
    found = preferences(people(100, 5, np.random.default_rng(0)), resamples=200)
    assert np.argsort(-found.strength).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.strength, TRUTH - TRUTH.mean(), atol=0.15)
    np.testing.assert_allclose(found.chances + found.chances.T, 1)
    assert found.chances[0, 3] == pytest.approx(1 / (1 + np.exp(-1.7)), abs=0.04)


def test_intervals_cover_the_truth_though_people_differ():
    rng = np.random.default_rng(0)
    covered = []
    for turn in range(40):
        # of people who differ the strengths of all together are a little smaller than the mean
        # of their own: the truth is what very many of them would give
        found = preferences(people(30, 4, rng, spread=0.7), resamples=100, seed=turn)
        covered.append((found.low <= LIMIT) & (found.high >= LIMIT))
    assert 0.88 < np.mean(covered) <= 0.99


LIMIT = bradley_terry(people(200_000, 4, np.random.default_rng(5), spread=0.7).sum(0))


def test_answers_of_one_person_are_not_taken_for_many():
    rng = np.random.default_rng(0)
    few = np.repeat(people(10, 1, rng), 20, axis=0).reshape(10, 20, 4, 4).sum(1)
    many = people(200, 1, rng)
    wide, narrow = (preferences(wins, resamples=100) for wins in (few, many))
    assert (wide.high - wide.low).mean() > 2 * (narrow.high - narrow.low).mean()


def test_one_person_gives_no_interval():
    found = preferences([[[0, 3], [1, 0]]])
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert found.strength[0] > 0


def test_the_seed_decides():
    wins = people(10, 2, np.random.default_rng(0))
    first, again, other = (preferences(wins, resamples=50, seed=seed).low for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_other_shapes_are_refused():
    for wrong in ([[0]], [[0, 1]], [[0, -1], [1, 0]], [[0, np.nan], [1, 0]]):
        with pytest.raises(ValueError, match="wins must be methods x methods"):
            bradley_terry(wrong)
    for wrong in (np.zeros((2, 2)), np.zeros((0, 2, 2))):
        with pytest.raises(ValueError, match="wins must be people x methods x methods"):
            preferences(wrong)
    with pytest.raises(ValueError, match="resamples must be"):
        preferences(np.zeros((2, 2, 2)), resamples=0)
