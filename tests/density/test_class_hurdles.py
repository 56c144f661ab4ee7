"""ClassHurdles against scipy's fits, however the samples come."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import ClassHurdles
from captum_deduce.density import DISTRIBUTIONS
from tests.reference_features import hurdle


@pytest.fixture
def features() -> Tensor:
    """Gamma, exponential, normal and rarely active features of 3 classes."""
    made = torch.Generator().manual_seed(1)
    normal = torch.randn(900, 8, generator=made, dtype=torch.float64)
    values = torch.stack(
        [
            normal[:, 0].square() + normal[:, 1].square(),
            normal[:, :6].square().sum(1),
            5 + normal[:, 2],
            (normal[:, 3] - 1.5).relu(),
            (normal[:, 4] + 0.5).relu(),
        ],
        1,
    )
    silent = torch.rand(900, 5, generator=made) < 0.3
    return values.masked_fill(silent, 0.0)


@pytest.fixture
def target() -> Tensor:
    return torch.arange(900) % 3


def test_probabilities_are_scipys(features, target):
    fitted = ClassHurdles().fit(features, target)
    asked = features[:60]
    found = fitted.probability(asked, target[:60])
    for row in range(60):
        for column in range(5):
            c = int(target[row])
            values = features[target == c, column].numpy()
            activity, tail, mean, name = hurdle(values)
            value = float(asked[row, column])
            expected = activity * tail(value) if value > 0 else 1 - activity
            assert DISTRIBUTIONS[fitted.distribution[c, column]] == name
            torch.testing.assert_close(found[row, column].item(), expected, rtol=1e-5, atol=1e-12)
            torch.testing.assert_close(fitted.activity[c, column].item(), activity)
            torch.testing.assert_close(fitted.expectation(target)[row, column].item(), mean)


def test_batches_and_merges_give_the_same(features, target):
    whole = ClassHurdles().fit(features, target)
    streamed, first, second = ClassHurdles(), ClassHurdles(), ClassHurdles()
    for part in torch.randperm(900, generator=torch.Generator().manual_seed(0)).split(70):
        streamed.partial_fit(features[part].float().double(), target[part])
    first.partial_fit(features[target == 0], target[target == 0])
    second.partial_fit(features[target > 0], target[target > 0])
    merged = ClassHurdles().merge(first).merge(second)
    expected = whole.probability(features, target)
    torch.testing.assert_close(merged.probability(features, target), expected)
    torch.testing.assert_close(
        streamed.probability(features, target), expected, rtol=1e-4, atol=1e-6
    )
    assert merged.counts.tolist() == [300, 300, 300]


def test_a_shift_costs_no_digits(features, target):
    """Sums of squares would lose them."""
    moved = ClassHurdles().fit(features[:, 2:3] * 0 + 1e7 + features[:, 1:2], target)
    torch.testing.assert_close(
        moved.active_scatter,
        ClassHurdles().fit(features[:, 1:2], target).scatter,
        rtol=1e-6,
        atol=0,
    )


def test_features_that_can_be_negative_have_no_hurdle(features, target):
    values = features - 1
    fitted = ClassHurdles().fit(values, target)
    assert (fitted.activity == 1).all()
    for c in range(3):
        mine = values[target == c]
        expected = torch.distributions.Normal(mine.mean(0), mine.std(0, correction=0)).cdf(
            torch.zeros(5).double()
        )
        found = fitted.probability(torch.zeros(1, 5).double(), [c])[0]
        torch.testing.assert_close(found, torch.minimum(expected, 1 - expected))


def test_features_without_spread():
    """Never active, always equal, active once, and a class of one sample."""
    values = torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 3.0], [0.0, 2.0, 0.0], [0.0, 1.0, 5.0]])
    fitted = ClassHurdles().fit(values, torch.tensor([0, 0, 0, 2]))
    assert fitted.fitted_classes.tolist() == [True, False, True]
    assert fitted.expectation(torch.tensor([0]))[0].tolist() == [0, 2, 3]
    seen = fitted.probability(torch.tensor([[0.0, 2.0, 0.0], [1.0, 2.0, 3.0]]), 0)
    assert seen.isfinite().all()
    torch.testing.assert_close(seen[0, [0, 2]], torch.tensor([1.0, 2 / 3]).double())
    assert seen[1, 0] == 0
    with pytest.raises(ValueError, match=r"class\(es\) \[1\] that no samples"):
        fitted.probability(values, 1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3))


def test_a_loader_is_fitted_to_what_the_model_predicts():
    model, images = network().train(), torch.rand(40, 1, 6, 6)
    loader = [(images[:25], torch.zeros(25)), (images[25:], torch.zeros(15))]
    fitted = ClassHurdles.fit_loader(model, model[2], loader)
    assert model.training
    with torch.no_grad():
        expected = ClassHurdles(3).fit(model[:3](images), model(images).argmax(1))
    assert torch.equal(fitted.counts, expected.counts)
    torch.testing.assert_close(fitted.mean, expected.mean)
    assert "classes=3, features=5, samples=40" in repr(fitted)


def test_the_state_survives(features, target):
    fitted = ClassHurdles().fit(features, target)
    other = ClassHurdles()
    other.load_state_dict(fitted.state_dict())
    expected = fitted.probability(features, target)
    for twin in (other, copy.deepcopy(fitted), fitted.half()):
        assert twin.mean.dtype == torch.float64
        torch.testing.assert_close(twin.probability(features, target), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x, t: f.fit(x, t.double()), TypeError, "target must hold integers"),
        (lambda f, x, t: f.fit(x, nn.functional.one_hot(t).double()), TypeError, "soft labels"),
        (lambda f, x, t: f.partial_fit(x[:, :2], t), ValueError, "N x 5, as those"),
        (lambda f, x, t: f.fit(x * torch.nan, t), ValueError, "features must be finite"),
        (lambda f, x, t: f.merge(3), TypeError, "other must be ClassHurdles, got int"),
        (
            lambda f, x, t: f.merge(ClassHurdles().fit(x[:, :2], t)),
            ValueError,
            "other must have 5 features, got 2",
        ),
        (lambda f, x, t: f.merge(ClassHurdles().fit(x, t + 1)), ValueError, "more than num_class"),
        (lambda f, x, t: f.probability(x, 7), ValueError, "target must lie in 0 ... 2"),
        (lambda f, x, t: ClassHurdles().probability(x, 1), RuntimeError, "nothing is fitted"),
        (lambda f, x, t: ClassHurdles(1.5), TypeError, "num_classes must be an int"),
    ],
)
def test_what_is_refused_leaves_everything_as_it_was(features, target, call, error, message):
    fitted = ClassHurdles(3).fit(features, target)
    before = copy.deepcopy(fitted.state_dict())
    with pytest.raises(error, match=message):
        call(fitted, features, target)
    for name, value in fitted.state_dict().items():
        assert torch.equal(value, before[name])
