"""JSMA against its two naive forms, and pairs against trying them all."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_deduce import JSMA, datasets, remove_spectral_normalization
from captum_deduce.explainers.jsma import most_salient_pair
from captum_deduce.models import resnet18
from captum_deduce.training.classifiers import train_classifier
from tests import reference
from tests.conftest import Digits
from tests.explainers.test_deduce import pairs_of
from tests.published import published_results


@pytest.fixture
def plain(digits: Digits) -> Digits:
    changed = copy.copy(digits)
    changed.model = remove_spectral_normalization(copy.deepcopy(digits.model))
    return changed


def scores_of(digits: Digits, image: Tensor) -> Tensor:
    return digits.model(image.unsqueeze(0))[0]


def loss_gradient(digits: Digits, image: reference.Array, target: int) -> reference.Array:
    x = torch.from_numpy(image).requires_grad_()
    loss = reference.cross_entropy(scores_of(digits, x), target)
    return torch.autograd.grad(loss, x)[0].numpy()


def assert_same_paths(result, attempts) -> None:
    for i, expected in enumerate(attempts):
        assert len(result.trajectory[i]) == len(expected.path)
        np.testing.assert_allclose(
            result.trajectory[i].numpy(), np.stack(expected.path), rtol=0, atol=1e-12
        )
        assert result.success[i].item() == expected.success
        np.testing.assert_allclose(
            result.counterfactuals[i].numpy(), expected.image, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(
    "settings", [{}, {"confidence": 0.95, "momentum": 0.4}, {"max_changes": 2}]
)
@pytest.mark.parametrize("skip_saturated", [True, False])
def test_equals_the_papers_variant_pixel_for_pixel(plain, settings, skip_saturated):
    settings = settings | {"skip_saturated": skip_saturated}
    images, targets = pairs_of(plain, 14)
    result = JSMA(plain.model).generate(
        images, targets, internal_batch_size=5, return_trajectory=True, **settings
    )
    naive_settings = {"momentum": 0.0, "max_changes": None} | settings
    attempts = [
        reference.algorithm_1(
            image.numpy(),
            target,
            lambda x: scores_of(plain, x).detach(),
            lambda x, target=target: loss_gradient(plain, x, target),
            retire_at_bounds=True,
            **naive_settings,
        )
        for image, target in zip(images, targets.tolist(), strict=True)
    ]
    assert_same_paths(result, attempts)


def test_bounds_of_each_image_equal_the_papers_variant_with_these(plain):
    images, targets = pairs_of(plain, 9)
    radius = torch.linspace(0.3, 0.7, 9, dtype=images.dtype).view(-1, 1, 1, 1)
    lower, upper = (images - radius).clamp_min(0), (images + radius).clamp_max(1)
    result = JSMA(plain.model).generate(
        images,
        targets,
        lower_bound=lower,
        upper_bound=upper,
        internal_batch_size=4,
        return_trajectory=True,
    )
    attempts = [
        reference.algorithm_1(
            image.numpy(),
            target,
            lambda x: scores_of(plain, x).detach(),
            lambda x, target=target: loss_gradient(plain, x, target),
            retire_at_bounds=True,
            momentum=0.0,
            max_changes=None,
            lower=low.numpy(),
            upper=high.numpy(),
        )
        for image, target, low, high in zip(images, targets.tolist(), lower, upper, strict=True)
    ]
    assert_same_paths(result, attempts)


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("increase", [True, False])
def test_equals_papernots_saliency_with_the_full_jacobian(plain, pixels, increase):
    images, targets = pairs_of(plain, 4)
    result = JSMA(
        plain.model, saliency="papernot", pixels_per_step=pixels, increase=increase
    ).generate(images, targets, return_trajectory=True, max_iterations=6)
    attempts = [
        reference.papernot(
            image.numpy(),
            target,
            lambda x: scores_of(plain, x),
            pixels=pixels,
            increase=increase,
            max_iterations=6,
        )
        for image, target in zip(images, targets.tolist(), strict=True)
    ]
    assert any(attempt.steps > 1 for attempt in attempts)
    assert_same_paths(result, attempts)


def best_pair_by_trial(a: Tensor, b: Tensor, admissible: Tensor) -> float:
    places = admissible.nonzero().flatten().tolist()
    products = [
        float((a[i] + a[j]) * (b[i] + b[j]))
        for i, j in itertools.combinations(places, 2)
        if a[i] + a[j] > 0 and b[i] + b[j] > 0
    ]
    return max(products, default=0.0)


@pytest.mark.parametrize("kind", ["independent", "opposed", "equal", "tied", "hopeless"])
@pytest.mark.parametrize("size", [2, 3, 40])
def test_the_best_of_all_pairs_is_found(kind, size, monkeypatch):
    monkeypatch.setattr("captum_deduce.explainers.jsma._PAIRS_AT_ONCE", 200)
    a = torch.randn(7, size, dtype=torch.float64)
    noise = torch.randn(7, size, dtype=torch.float64)
    b = {
        "independent": noise,
        "opposed": 0.5 - a + 0.1 * noise,
        "equal": a,
        "tied": (2 * noise).round(),
        "hopeless": -a.abs() - 1,
    }[kind]
    a = (2 * a).round() if kind == "tied" else a
    admissible = torch.rand(7, size) < 0.8
    pairs = most_salient_pair(a, b, admissible)
    for row in range(7):
        expected = best_pair_by_trial(a[row], b[row], admissible[row])
        chosen = pairs[row].nonzero().flatten()
        assert len(chosen) == (2 if expected > 0 else 0)
        found = float(a[row, chosen].sum() * b[row, chosen].sum())
        assert found == pytest.approx(expected)
        assert admissible[row, chosen].all()


def test_papernot_moves_one_way_only(plain):
    images, targets = pairs_of(plain, 6)
    for increase in (True, False):
        explainer = JSMA(plain.model, saliency="papernot", increase=increase)
        moves = explainer.attribute(images, targets)
        assert (moves >= 0).all() if increase else (moves <= 0).all()
        assert (moves != 0).any()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"saliency": "jacobian"}, ValueError, "saliency must be one of 'gradient', 'papernot'"),
        ({"increase": 1}, TypeError, "increase must be True or False"),
        (
            {"saliency": "papernot", "pixels_per_step": 3},
            ValueError,
            "pixels_per_step must be 1 or",
        ),
        ({"saliency": "papernot", "momentum": 0.5}, ValueError, "momentum must be 0 with"),
        ({"saliency": "papernot", "pixel": "site"}, ValueError, "pixel must be 'entry' with"),
        ({"saliency": "papernot", "skip_saturated": False}, ValueError, "skip_saturated must be"),
        ({"max_changes": 0}, ValueError, "max_changes"),
    ],
    ids=str,
)
def test_settings_that_are_refused(plain, settings, error, message):
    with pytest.raises(error, match=message):
        JSMA(plain.model, **settings)


@pytest.mark.slow
def test_counterfactuals_are_as_near_as_those_published_with_the_paper():
    """Of a ResNet-18 as theirs, but a quarter as wide and trained for one epoch of their 50."""
    theirs = published_results()["JSMA"][:180]  # 20 images
    try:
        train = datasets.load_mnist().train
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model = resnet18(width=16)
    train_classifier(model, train, epochs=1)
    ours = JSMA(model).generate(theirs.inputs, theirs.target)
    both = ours.success & theirs.success
    assert both.sum() > 0.8 * len(ours)
    for distance in ("l0", "l1"):
        mean, published = (getattr(r[both], distance)().double().mean() for r in (ours, theirs))
        assert 1 / 1.5 < mean / published < 1.5
