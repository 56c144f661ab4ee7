"""Rounds that take changed pixels back for good."""

from __future__ import annotations

import pytest
import torch

from captum_deduce import DeDUCE


@pytest.fixture
def pairs(digits):
    images = digits.images[:24]
    with torch.no_grad():
        return images, digits.model(images).topk(3).indices[:, 2]


@pytest.mark.parametrize("pixel", ["entry", "site"])
def test_what_was_taken_back_stays_and_each_success_changes_less(digits, pairs, pixel):
    images, targets = pairs
    explainer = DeDUCE.sparsest(digits.model, digits.layer, digits.density, pixel=pixel)
    result = explainer.generate(images, targets, return_trajectory=True)
    once = explainer.generate(images, targets, rounds=2, max_iterations=700)
    assert result.success.all()
    assert (result.l0() <= once.l0()).all()
    assert result.l0().double().mean() < once.l0().double().mean()
    for path, image, target in zip(result.trajectory, images, targets, strict=True):
        with torch.no_grad():
            found = digits.model(path).softmax(1)[:, target] > 0.5
        changed = (path != image).flatten(1)
        first = int(found.nonzero()[0])
        # After the first success no pixel changes that it had left as it was.
        assert not (changed[first:] & ~changed[first]).any()


def test_the_search_begins_again_at_the_closest_success_with_a_smaller_share(digits, pairs):
    images, targets = pairs
    settings = {"max_iterations": 400}
    explainer = DeDUCE.sparsest(digits.model, digits.layer, digits.density, **settings)
    few = explainer.generate(images, targets, rounds=2).l0()
    some = explainer.generate(images, targets, rounds=4).l0()
    many = explainer.generate(images, targets, rounds=8).l0()
    assert (some <= few).all()
    assert (many <= some).all()
    assert (many < some).any()


def test_a_mask_stays_law(digits, pairs):
    images, targets = pairs
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:] = 1
    explainer = DeDUCE.sparsest(digits.model, digits.layer, digits.density)
    result = explainer.generate(images, targets, mask=mask)
    assert result.success.any()
    assert not result.attributions[..., :2].any()


@pytest.mark.parametrize("setting", [{"rounds": 1}, {"pixels_per_step": 2}])
def test_settings_without_rounds_or_adaptive_steps_are_refused(digits, setting):
    with pytest.raises(ValueError, match="halving=True needs"):
        DeDUCE.sparsest(digits.model, digits.layer, digits.density, **setting)
