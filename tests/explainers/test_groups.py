"""Groups of entries that move as one, through whole searches."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    Polish,
    Schut,
    feature_masks,
    remove_spectral_normalization,
)
from captum_deduce.explainers.deduce import CLOSEST, SPARSEST
from tests import reference
from tests.conftest import train_briefly
from tests.explainers.test_deduce import naive, pairs_of
from tests.explainers.test_jsma import loss_gradient, scores_of


def random_map(*shape: int, groups: int = 11) -> Tensor:
    """Groups that are scattered over the image, with numbers that have gaps."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(groups, shape, generator=generator) * 7 - 20


MAPS = {"one map": random_map(1, 8, 8), "a map for each": random_map(9, 1, 8, 8)}
a_map_or_maps = pytest.mark.parametrize("feature_mask", MAPS.values(), ids=MAPS)


def assert_same_paths(result: Counterfactuals, expected: list[reference.Attempt]) -> None:
    for i, attempt in enumerate(expected):
        assert result.success[i].item() == attempt.success
        assert result.iterations[i].item() == attempt.steps
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(attempt.path), rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), attempt.image, atol=1e-12)


def groups_of(feature_mask: Tensor, row: int) -> np.ndarray:
    return feature_mask.expand(9, 1, 8, 8)[row].numpy()


@a_map_or_maps
@pytest.mark.parametrize(
    "settings",
    [{}, {"pixels_per_step": 2, "max_changes": 2}, {"skip_saturated": False, "momentum": 0.0}],
    ids=str,
)
def test_equals_algorithm_1_over_groups(digits, feature_mask, settings):
    images, targets = pairs_of(digits, 9)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, **settings)
    result = explainer.generate(
        images,
        targets,
        feature_mask=feature_mask,
        internal_batch_size=4,
        return_trajectory=True,
    )
    expected = [
        naive(digits, image, target, groups=groups_of(feature_mask, i), **settings)
        for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True))
    ]
    assert_same_paths(result, expected)


@a_map_or_maps
def test_a_mask_lets_a_part_of_each_group_move(digits, feature_mask):
    images, targets = pairs_of(digits, 9)
    mask = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.6
    result = DeDUCE(digits.model, digits.layer, digits.density).generate(
        images,
        targets,
        mask=mask,
        feature_mask=feature_mask,
        internal_batch_size=2,
        return_trajectory=True,
    )
    assert (result.attributions[~mask] == 0).all()
    expected = [
        naive(digits, image, target, groups=groups_of(feature_mask, i), mask=mask[i].numpy())
        for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True))
    ]
    assert_same_paths(result, expected)


@a_map_or_maps
def test_jsma_and_schut_equal_algorithm_1_over_groups(digits, feature_mask):
    # the bounded weights written out, so that naive runs are not too slow
    digits = replace(digits, model=remove_spectral_normalization(copy.deepcopy(digits.model)))
    images, targets = pairs_of(digits, 9)
    for explainer, settings in (
        (JSMA(digits.model), {"max_changes": None, "retire_at_bounds": True}),
        (Schut(digits.model, confidence=0.8), {"confidence": 0.8}),
    ):
        result = explainer.generate(
            images, targets, feature_mask=feature_mask, return_trajectory=True
        )
        expected = [
            reference.algorithm_1(
                image.numpy(),
                target,
                lambda x: scores_of(digits, x).detach(),
                lambda x, target=target: loss_gradient(digits, x, target),
                momentum=0.0,
                groups=groups_of(feature_mask, i),
                **settings,
            )
            for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True))
        ]
        assert_same_paths(result, expected)


# --- searches past the paper, in colour ---

IN_ROUNDS = {
    "three a step": {"pixels_per_step": 3, "max_changes": 2},
    "rounds": {"rounds": 3, "confidence": 0.8},
    "closest": CLOSEST,
    "sparsest": {**SPARSEST, "pixel": "entry"},
    "refined": {"refine": True, "pixels_per_step": 4, "max_iterations": 60},
}
in_rounds = pytest.mark.parametrize("settings", IN_ROUNDS.values(), ids=IN_ROUNDS)


@pytest.fixture(scope="module")
def colour() -> tuple[nn.Sequential, ClassGaussianMixture, Tensor, Tensor]:
    """A network that knows four noisy patterns, a density of its features, and twelve pairs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 63, 8), nn.Tanh()
        )
        model.append(nn.Linear(8, 4))
        labels = torch.arange(400) % 4
        images = (0.25 * torch.randn(4, 3, 7, 9)[labels] + 0.2 * torch.randn(400, 3, 7, 9)) + 0.5
        images = images.clamp(0, 1)
        train_briefly(model, images, labels, epochs=8)
    with torch.no_grad():
        features = model[:5](images)
    density = ClassGaussianMixture().fit(features, labels)
    return model, density, images[:12], (labels[:12] + 1 + torch.arange(12) % 3) % 4


def assert_equal(one: Counterfactuals, other: Counterfactuals) -> None:
    assert one.success.any()
    for name in ("counterfactuals", "success", "iterations", "confidence", "forward_evaluations"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@in_rounds
def test_groups_of_one_entry_are_entries_to_the_bit(colour, settings):
    model, density, images, target = colour
    explainer = DeDUCE(model, model[4], density, **settings)
    alone = torch.arange(3 * 7 * 9).view(3, 7, 9)
    of_each = alone.unsqueeze(0) + torch.arange(12).view(12, 1, 1, 1)
    expected = explainer.generate(images, target, internal_batch_size=5)
    for given in (alone.unsqueeze(0), of_each):
        found = explainer.generate(images, target, feature_mask=given, internal_batch_size=5)
        assert_equal(found, expected)


@in_rounds
def test_groups_of_the_channels_of_a_place_are_sites_to_the_bit(colour, settings):
    model, density, images, target = colour
    explainer = DeDUCE(model, model[4], density, **(settings | {"pixel": "site"}))
    expected = explainer.generate(images, target)
    places = torch.arange(63).view(1, 7, 9)
    assert_equal(explainer.generate(images, target, feature_mask=places), expected)
    assert_equal(explainer.generate(images, target, pixel="patch", patch_size=1), expected)


@in_rounds
def test_patches_are_the_squares_of_a_grid(colour, settings):
    model, density, images, target = colour
    explainer = DeDUCE(model, model[4], density, **(settings | {"pixel": "patch"}), patch_size=3)
    squares = feature_masks.grid(7, 9, 3)
    found = explainer.generate(images, target)
    assert_equal(found, explainer.generate(images, target, feature_mask=squares))
    in_turn = explainer.generate(
        images, target, feature_mask=squares.expand(12, 1, 7, 9), internal_batch_size=5
    )
    torch.testing.assert_close(found.counterfactuals, in_turn.counterfactuals)


@in_rounds
@pytest.mark.parametrize("pixel", ["site", "patch"])
def test_no_entry_moves_that_the_mask_does_not_let(colour, settings, pixel):
    model, density, images, target = colour
    explainer = DeDUCE(model, model[4], density, **(settings | {"pixel": pixel}), patch_size=3)
    mask = torch.rand(12, 3, 7, 9, generator=torch.Generator().manual_seed(0)) < 0.7
    found = explainer.generate(images, target, mask=mask)
    assert found.success.any()
    assert (found.attributions[~mask] == 0).all()
    assert (found.attributions[mask] != 0).any()


def test_refinement_leaves_no_group_that_is_not_needed(colour):
    model, density, images, target = colour
    squares = feature_masks.grid(7, 9, 3)
    explainer = DeDUCE(model, model[4], density, refine=True, pixels_per_step=4)
    found = explainer.generate(images, target, feature_mask=squares)
    assert found.success.sum() > 9
    found = found[found.success]
    for image, result, wanted in zip(
        found.inputs, found.counterfactuals, found.target, strict=True
    ):
        changed = (image != result).any(0)
        for group in squares[0][changed].unique():
            trial = torch.where(squares == group, image, result)
            assert model(trial.unsqueeze(0)).softmax(1)[0, wanted] <= 0.5


@pytest.mark.parametrize("only_changed", [True, False])
def test_polishing_moves_no_group_that_the_search_left_alone(colour, only_changed):
    model, density, images, target = colour
    squares = feature_masks.grid(7, 9, 3)
    explainer = DeDUCE(model, model[4], density, pixels_per_step=4)
    before = explainer.generate(images, target, feature_mask=squares)
    polish = Polish(only_changed=only_changed, steps=20)
    after = explainer.generate(images, target, feature_mask=squares, polish=polish)
    for old, new in zip(before.attributions != 0, after.attributions != 0, strict=True):
        touched = torch.isin(squares[0], squares[0][old.any(0)])
        assert not (new.any(0) & ~touched).any()
    assert (after.counterfactuals != before.counterfactuals).any()


def test_an_adaptive_search_with_halving_needs_few_groups(colour):
    model, density, images, target = colour
    squares = feature_masks.grid(7, 9, 3)

    def mean_groups(explainer: DeDUCE) -> float:
        found = explainer.generate(images, target, feature_mask=squares)
        assert found.success.all()
        changed = (found.attributions != 0).any(1)
        return sum(len(squares[0][image].unique()) for image in changed) / 12

    assert mean_groups(DeDUCE.sparsest(model, model[4], density)) <= mean_groups(
        DeDUCE.closest(model, model[4], density, rounds=1)
    )


@pytest.mark.parametrize("shape", [(7, 9), (1, 7, 9), (3, 1, 1), (3, 7, 9), (12, 1, 7, 9)], ids=str)
def test_maps_broadcast_as_masks_do(colour, shape):
    model, _, images, target = colour
    given = random_map(*shape)
    explainer = JSMA(model)
    whole = given.expand(12, 3, 7, 9) if len(shape) < 4 else given.expand(-1, 3, -1, -1)
    assert_equal(
        explainer.generate(images, target, feature_mask=given),
        explainer.generate(images, target, feature_mask=whole),
    )


def test_captums_tools_give_every_copy_the_groups_of_its_image(colour):
    model, _, images, target = colour
    explainer: CounterfactualExplainer = JSMA(model, max_iterations=1)
    columns = (torch.arange(9).view(1, 1, 1, 9) // torch.arange(1, 13).view(12, 1, 1, 1)).expand(
        12, 1, 7, 9
    )
    averaged = NoiseTunnel(explainer).attribute(
        images, nt_samples=4, stdevs=1e-6, target=target, feature_mask=columns
    )
    alone = explainer.attribute(images, target, feature_mask=columns)
    torch.testing.assert_close(averaged, alone, rtol=0, atol=1e-4)
    changes = sensitivity_max(
        explainer.attribute,
        images,
        perturb_radius=1e-6,
        n_perturb_samples=2,
        target=target,
        feature_mask=columns,
    )
    assert (changes < 1e-3).all()


def test_what_has_no_groups_is_refused(colour):
    model, _, images, target = colour
    with pytest.raises(ValueError, match='feature_mask needs saliency="gradient"'):
        JSMA(model, saliency="papernot").generate(
            images, target, feature_mask=feature_masks.grid(7, 9, 3)
        )
    rows = nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r'pixel="patch" needs inputs .* got \(4, 5\)'):
        JSMA(rows, pixel="patch").generate(torch.rand(4, 5), 1)
    pairs = torch.tensor([0, 0, 1, 1, 1])
    moved = JSMA(rows, max_iterations=1).attribute(torch.rand(4, 5), 1, feature_mask=pairs)
    assert not ((moved[:, :2] != 0).any(1) & (moved[:, 2:] != 0).any(1)).any()


def test_maps_made_in_inference_mode_are_taken(colour):
    model, _, images, target = colour
    expected = JSMA(model).generate(images, target, feature_mask=feature_masks.grid(7, 9, 3))
    with torch.inference_mode():
        squares = feature_masks.grid(7, 9, 3) * 1
        found = JSMA(model).generate(images, target, feature_mask=squares)
    assert_equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_groups_on_a_gpu(colour):
    model, _, images, target = colour
    squares = feature_masks.grid(7, 9, 3)
    expected = JSMA(model).generate(images, target, feature_mask=squares)
    there = copy.deepcopy(model).cuda()
    for settings in ({"feature_mask": squares}, {"pixel": "patch", "patch_size": 3}):
        found = JSMA(there).generate(images.cuda(), target, **settings)
        assert torch.equal(found.success.cpu(), expected.success)
        torch.testing.assert_close(found.l1().cpu(), expected.l1(), rtol=1e-3, atol=1e-3)
