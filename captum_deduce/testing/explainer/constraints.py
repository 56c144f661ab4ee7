"""Checks of masks, bounds and groups."""

from __future__ import annotations

import torch

from captum_deduce.testing.contracts import in_words, require, require_equal
from captum_deduce.testing.explainer.trial import EXACT, Trial, few_steps, require_same


def _check_masked_pixels_stay(trial: Trial) -> None:
    """No entry outside the mask moves, and with a mask counterfactuals are still found."""
    explainer, subject = trial.pair()
    mask = torch.zeros(8, 8)
    mask[2:, 1:6] = 1
    result = explainer.generate(subject.images, subject.target, mask=mask)
    moved = (result.attributions[..., mask == 0] != 0).sum().item()
    require_equal("number of masked entries that moved", moved, 0)
    require(result.success.any(), "no success within 30 of 64 pixels", "some")


def _check_empty_masks(trial: Trial) -> None:
    """An image whose mask is all zeros stays as it is and fails at once, and harms no other."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    mask = torch.ones(6, 1, 8, 8)
    mask[[1, 4]] = 0
    empty = torch.tensor([False, True, False, False, True, False])
    expected = explainer.generate(images, target)
    result = explainer.generate(images, target, mask=mask)
    require_equal("success of empty masks", result.success[empty].tolist(), [False, False])
    require_equal("images with empty masks", result.counterfactuals[empty], images[empty])
    require_equal(
        "confidence", result.confidence, subject.confidence(result.counterfactuals, target), 1e-9
    )
    steps = result.iterations[empty].tolist()
    require(max(steps) <= 1, f"{steps} steps for empty masks", "one at most")
    require_same(result[~empty], expected[~empty], EXACT)
    nothing = explainer.generate(images, target, mask=torch.zeros(8, 8))
    require(not nothing.success.any(), "success with a mask of zeros", "none")
    require_equal("images under a mask of zeros", nothing.counterfactuals, images)


def _check_tighter_bounds(trial: Trial) -> None:
    """Bounds given to the call, numbers or tensors, are kept."""
    explainer, subject = trial.pair()
    inside = subject.images.clamp(0.1, 0.9)
    upper = torch.full((1, 8, 8), 0.9, dtype=torch.float64)
    result = explainer.generate(inside, subject.target, lower_bound=0.1, upper_bound=upper)
    lowest, highest = result.counterfactuals.min().item(), result.counterfactuals.max().item()
    require(
        lowest >= 0.1 and highest <= 0.9, f"values from {lowest!r} to {highest!r}", "0.1 to 0.9"
    )
    require(result.success.any(), "no success from 0.1 to 0.9", "some")


def _check_equal_bounds(trial: Trial) -> None:
    """Where lower and upper bound are equal, the call is refused by name or the entries stay."""
    explainer, subject = trial.pair()
    images = subject.images
    lower, upper = torch.zeros_like(images[0]), torch.ones_like(images[0])
    images[:, :, :2] = 0.5
    lower[:, :2] = upper[:, :2] = 0.5
    try:
        result = explainer.generate(images, subject.target, lower_bound=lower, upper_bound=upper)
    except ValueError as error:
        named = "lower_bound" in str(error) or "upper_bound" in str(error)
        require(named, in_words(error), "an error that names lower_bound and upper_bound")
        return
    require_equal(
        "entries whose bounds are equal", result.counterfactuals[:, :, :2], images[:, :, :2]
    )
    require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")


def _check_constraints_of_each_image(trial: Trial) -> None:
    """Bounds and masks with a row for each image are kept, as if each image were alone."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    radius = torch.linspace(0.4, 0.8, 6, dtype=images.dtype).view(-1, 1, 1, 1)
    lower, upper = (images - radius).clamp_min(0), images + radius
    mask = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.9
    together = explainer.generate(
        images, target, lower_bound=lower, upper_bound=upper, mask=mask, internal_batch_size=4
    )
    for i in (0, 5):
        alone = explainer.generate(
            images[i : i + 1],
            int(target[i]),
            lower_bound=lower[i],
            upper_bound=upper[i],
            mask=mask[i],
        )
        require_same(together[i], alone, EXACT)
    require(together.success.any(), "no success", "some")
    within = (together.counterfactuals >= lower) & (together.counterfactuals <= upper)
    require(within.all(), f"{int((~within).sum())} entries out of an image's own bounds", "none")
    moved = (together.attributions[~mask.unsqueeze(1)] != 0).sum().item()
    require_equal("number of masked entries that moved", moved, 0)


def _check_groups(trial: Trial) -> None:
    """A feature_mask is refused by name, or the entries of a group move as one."""
    explainer, subject = trial.pair()
    images, target, halves = subject.images, subject.target, torch.arange(8).view(1, 8, 1) // 4
    once, refused = few_steps(explainer, 1), 0
    for face in (explainer.generate, explainer.attribute, explainer.perturb):
        try:
            face(images, target, feature_mask=halves, **once)
        except ValueError as error:
            refused += 1
            named = "feature_mask" in str(error) and explainer.get_name() in str(error)
            require(named, in_words(error), "an error that names the method and feature_mask")
    require(refused in (0, 3), f"refused by {refused} of generate, attribute, perturb", "0 or 3")
    if refused:
        return
    moved = explainer.attribute(images, target, feature_mask=halves, **once)
    rows = (moved != 0).any(3).view(6, 2, 4)
    moving = rows.any(2).sum(1)
    require((moving <= 1).all(), f"{moving.tolist()} groups in a step", "one at most")
    require((rows.sum((1, 2)) > 1).all(), "groups of which one row moved", "all rows of the group")


CHECKS = (
    _check_masked_pixels_stay,
    _check_empty_masks,
    _check_tighter_bounds,
    _check_equal_bounds,
    _check_constraints_of_each_image,
    _check_groups,
)
