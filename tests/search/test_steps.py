"""Steps against moves worked out by hand."""

from __future__ import annotations

import pytest
import torch

from captum_deduce.search.pixels import Entries, Groups, Sites
from captum_deduce.search.steps import AdamStep, PixelStep, ShrinkageStep, refine_weight


def step_rule(shape=(1, 1, 4), **changed) -> PixelStep:
    settings = {
        "step_size": 0.2,
        "max_changes": 5,
        "pixels_per_step": 1,
        "pixels": Entries(),
        "skip_saturated": True,
        "lower": torch.zeros(shape, dtype=torch.float64),
        "upper": torch.ones(shape, dtype=torch.float64),
    }
    return PixelStep(**(settings | changed))


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_the_largest_gradient_moves_against_its_sign():
    rule, images = step_rule(), row(0.5, 0.5, 0.5, 0.5)
    moved, changes, stuck = rule(
        images, row(1, -3, 2, 0), rule.initial_changes(images), images, None
    )
    torch.testing.assert_close(moved, row(0.5, 0.7, 0.5, 0.5))
    assert changes.flatten().tolist() == [0, 1, 0, 0]
    assert stuck.tolist() == [False]
    assert torch.equal(images, row(0.5, 0.5, 0.5, 0.5))


def test_a_saturated_pixel_is_skipped_or_wasted():
    images, gradient = row(0.0, 0.5, 1.0, 0.5), row(5, -1, -4, 0.5)
    skipping, literal = step_rule(), step_rule(skip_saturated=False)
    moved, changes, _ = skipping(images, gradient, skipping.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(0.0, 0.7, 1.0, 0.5))
    assert changes.flatten().tolist() == [0, 1, 0, 0]
    moved, changes, _ = literal(images, gradient, literal.initial_changes(images), images, None)
    torch.testing.assert_close(moved, images)
    assert changes.flatten().tolist() == [1, 0, 0, 0]


def test_pixels_changed_often_enough_and_masked_ones_stay():
    rule, images = step_rule(max_changes=2), row(0.5, 0.5, 0.5, 0.5)
    used = torch.tensor([[[[2, 0, 1, 0]]]], dtype=torch.int32)
    allowed = torch.tensor([[[[True, False, True, True]]]])
    moved, changes, _ = rule(images, row(9, 8, -7, 6), used, images, allowed)
    torch.testing.assert_close(moved, row(0.5, 0.5, 0.7, 0.5))
    assert changes.flatten().tolist() == [2, 0, 2, 0]


def test_adaptive_steps_move_until_they_promise_enough():
    """Gains are slope x length: 3 x .2, 2 x .2, 4 x .05 (near its bound), .5 x .2."""
    images, gradient = row(0.5, 0.5, 0.95, 0.5), row(3, 2, -4, 0.5)
    for most_gain, expected in (
        (0.1, row(0.3, 0.5, 0.95, 0.5)),
        (0.6, row(0.3, 0.5, 0.95, 0.5)),
        (0.61, row(0.3, 0.3, 0.95, 0.5)),
        (1.1, row(0.3, 0.3, 1.0, 0.5)),
        (9.0, row(0.3, 0.3, 1.0, 0.3)),
    ):
        rule = step_rule(pixels_per_step=4, most_gain=most_gain)
        moved, changes, _ = rule(images, gradient, rule.initial_changes(images), images, None)
        torch.testing.assert_close(moved, expected)
        assert torch.equal(changes.bool(), moved != images)
    most = step_rule(pixels_per_step=2, most_gain=9.0)
    moved, _, _ = most(images, gradient, most.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(0.3, 0.3, 0.95, 0.5))


def test_what_promises_as_much_as_is_asked_for_is_enough():
    """Gains of .5, .375 and .25, exact in binary: .875 is enough with two pixels."""
    images, gradient = row(0.5, 0.5, 0.5, 0.5), row(2, -1.5, 1, 0)
    rule = step_rule(step_size=0.25, pixels_per_step=4, most_gain=0.875)
    moved, _, _ = rule(images, gradient, rule.initial_changes(images), images, None)
    assert torch.equal(moved, row(0.25, 0.75, 0.5, 0.5))


def test_dispensable_changes_are_those_that_the_loss_misses_least():
    """Undoing raises the loss by gradient x (original - image): .6, -.1, .2, none changed, 0."""
    original = row(0.0, 0.5, 0.0, 0.3, 1.0)
    images = row(0.2, 1.0, 0.4, 0.3, 0.0)
    gradient = row(-3.0, 0.2, -0.5, -9.0, 0.0)
    rule = step_rule((1, 1, 5))
    for share, expected in (
        (0.25, [1]),
        (0.5, [1, 4]),
        (0.51, [1, 2, 4]),
        (1.0, [0, 1, 2, 4]),
        (0.0, []),
    ):
        undone = rule.dispensable(images, gradient, original, share)
        assert undone.flatten().nonzero().flatten().tolist() == expected
    assert not rule.dispensable(original, gradient, original, 1.0).any()


def test_dispensable_sites_are_judged_by_all_their_channels():
    original = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    images = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.0]]]], dtype=torch.float64)
    gradient = torch.tensor([[[[-1.0, -1.5]], [[-1.0, 9.0]]]], dtype=torch.float64)
    rule = step_rule((2, 1, 2), pixels=Sites())
    undone = rule.dispensable(images, gradient, original, 0.5)
    assert undone.shape == (1, 1, 1, 2)
    assert undone.flatten().tolist() == [False, True]


@pytest.mark.parametrize("skip_saturated", [True, False])
def test_without_an_admissible_pixel_the_image_is_stuck_and_stays(skip_saturated):
    rule = step_rule(skip_saturated=skip_saturated, max_changes=1)
    images = row(0.5, 0.5, 0.5, 0.5).repeat(2, 1, 1, 1)
    used = torch.ones_like(images, dtype=torch.int32)
    used[1, 0, 0, 3] = 0
    moved, changes, stuck = rule(images, row(1, 2, 3, 4).repeat(2, 1, 1, 1), used, images, None)
    assert stuck.tolist() == [True, False]
    torch.testing.assert_close(moved[0], images[0])
    torch.testing.assert_close(moved[1:], row(0.5, 0.5, 0.5, 0.3))
    assert torch.equal(changes[0], used[0])


def test_a_zero_gradient_moves_nothing_and_skips():
    rule, images = step_rule(), row(0.5, 0.5, 0.5, 0.5)
    _, _, stuck = rule(images, row(0, 0, 0, 0), rule.initial_changes(images), images, None)
    assert stuck.tolist() == [True]


def test_several_pixels_move_together_and_fewer_where_fewer_can():
    rule = step_rule(pixels_per_step=3)
    images = row(0.5, 0.0, 0.5, 0.5)
    moved, changes, _ = rule(images, row(1, 9, -3, 2), rule.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(0.3, 0.0, 0.7, 0.3))
    assert changes.flatten().tolist() == [1, 0, 1, 1]
    moved, changes, _ = step_rule(pixels_per_step=9)(
        images, row(1, 9, 0, 2), rule.initial_changes(images), images, None
    )
    torch.testing.assert_close(moved, row(0.3, 0.0, 0.5, 0.3))


def test_ties_go_to_the_first_pixel():
    rule, images = step_rule(), row(0.5, 0.5, 0.5, 0.5)
    _, changes, _ = rule(images, row(1, 2, -2, 2), rule.initial_changes(images), images, None)
    assert changes.flatten().tolist() == [0, 1, 0, 0]


def test_a_site_sums_its_channels_and_each_moves_by_its_own_sign():
    shape = (3, 1, 2)
    rule = step_rule(shape, pixels=Sites())
    images = torch.full((1, *shape), 0.5, dtype=torch.float64)
    images[0, 2, 0, 0] = 0.0  # can't fall further
    gradient = torch.tensor([[[[2.0, -4.0]], [[-2.0, 0.0]], [[9.0, 0.1]]]], dtype=torch.float64)
    moved, changes, _ = rule(images, gradient, rule.initial_changes(images), images, None)
    # Scores: 2 + 2 (the third channel can't move) against 4 + .1.
    assert changes.flatten().tolist() == [0, 1]
    torch.testing.assert_close(moved[0, :, 0, 1], torch.tensor([0.7, 0.5, 0.3]).double())
    torch.testing.assert_close(moved[0, :, 0, 0], images[0, :, 0, 0])
    literal = step_rule(shape, pixels=Sites(), skip_saturated=False)
    moved, changes, _ = literal(images, gradient, literal.initial_changes(images), images, None)
    assert changes.flatten().tolist() == [1, 0]
    torch.testing.assert_close(moved[0, :, 0, 0], torch.tensor([0.3, 0.7, 0.0]).double())


def test_masked_channels_of_a_site_neither_count_nor_move():
    shape = (2, 1, 2)
    rule = step_rule(shape, pixels=Sites())
    images = torch.full((1, *shape), 0.5, dtype=torch.float64)
    gradient = torch.tensor([[[[9.0, -2.0]], [[1.0, 1.0]]]], dtype=torch.float64)
    allowed = torch.tensor([[[[False, True]], [[True, True]]]])
    moved, _, _ = rule(images, gradient, rule.initial_changes(images), images, allowed)
    torch.testing.assert_close(moved[0, :, 0, 0], torch.tensor([0.5, 0.5]).double())
    torch.testing.assert_close(moved[0, :, 0, 1], torch.tensor([0.7, 0.3]).double())


def test_a_group_sums_its_entries_and_each_moves_by_its_own_sign():
    rule = step_rule(pixels=Groups(torch.tensor([[[1, 0, 1, 0]]]), 2))
    images, gradient = row(0.5, 0.5, 0.5, 0.0), row(2, 3, -2, 9)  # the last can't fall further
    moved, changes, stuck = rule(images, gradient, rule.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(0.3, 0.5, 0.7, 0.0))
    assert changes.shape == (1, 2, 1, 1)
    assert changes.flatten().tolist() == [0, 1]
    literal = step_rule(pixels=rule.pixels, skip_saturated=False)
    moved, _, _ = literal(images, gradient, literal.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(0.5, 0.3, 0.5, 0.0))
    # only what the mask allows moves, and it alone counts
    allowed = row(0, 1, 1, 1).bool()
    moved, changes, _ = rule(images, gradient, changes, images, allowed)
    torch.testing.assert_close(moved, row(0.5, 0.3, 0.5, 0.0))
    assert changes.flatten().tolist() == [1, 1]
    once = step_rule(pixels=rule.pixels, max_changes=1)
    *_, stuck = once(images, gradient, changes, images, None)
    assert stuck.tolist() == [True]


def test_gains_and_numbers_of_pixels_count_groups():
    """Gains of the groups are (1 + 4) x .2, 3 x .2 and 2 x .2."""
    images, gradient = row(0.5, 0.5, 0.5, 0.5), row(1, -3, 2, -4)
    groups = Groups(torch.tensor([[[0, 1, 2, 0]]]), 3)
    for settings, expected in (
        ({"pixels_per_step": 3, "most_gain": 0.9}, row(0.3, 0.5, 0.5, 0.7)),
        ({"pixels_per_step": 3, "most_gain": 1.1}, row(0.3, 0.7, 0.5, 0.7)),
        ({"pixels_per_step": 2, "most_gain": 9.0}, row(0.3, 0.7, 0.5, 0.7)),
        ({"pixels_per_step": 2}, row(0.3, 0.7, 0.5, 0.7)),
        ({"pixels_per_step": 9}, row(0.3, 0.7, 0.3, 0.7)),
    ):
        rule = step_rule(pixels=groups, **settings)
        moved, _, _ = rule(images, gradient, rule.initial_changes(images), images, None)
        torch.testing.assert_close(moved, expected)


def test_dispensable_groups_are_judged_by_all_their_entries():
    original, images = row(0, 0, 0, 0.5), row(0.5, 0.5, 0.5, 0.5)
    gradient = row(-1, -1.5, -1, -9)  # undoing raises the loss by .5 + .5, .75, and nothing
    rule = step_rule(pixels=Groups(torch.tensor([[[0, 1, 0, 2]]]), 3))
    for share, expected in ((0.5, [False, True, False]), (0.51, [True, True, False])):
        undone = rule.dispensable(images, gradient, original, share)
        assert undone.shape == (1, 3, 1, 1)
        assert undone.flatten().tolist() == expected


def test_saliency_and_step_scale_with_the_range():
    lower = torch.tensor([[[0.0]], [[-10.0]]], dtype=torch.float64)
    upper = torch.tensor([[[1.0]], [[10.0]]], dtype=torch.float64)
    rule = step_rule((2, 1, 1), lower=lower, upper=upper)
    images = torch.zeros(1, 2, 1, 1, dtype=torch.float64) + 0.5
    gradient = torch.tensor([[[[1.0]], [[-0.1]]]], dtype=torch.float64)
    moved, _, _ = rule(images, gradient, rule.initial_changes(images), images, None)
    # 1 x 1 against .1 x 20.
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.5, 4.5]).double())


def test_values_snap_to_bounds_and_to_the_original():
    rule = step_rule()
    original = row(0.1, 0.2 + 4e-7, 0.9, 0.5)
    images = row(0.3, 0.4, 0.8 - 4e-7, 0.5)
    everything = step_rule(pixels_per_step=4)
    moved, _, _ = everything(images, row(1, 1, -1, 0), rule.initial_changes(images), original, None)
    assert moved.flatten().tolist() == [0.1, 0.2 + 4e-7, 1.0, 0.5]


def test_a_move_of_a_millionth_of_the_range_is_none():
    """More than 1e-6 has to be left to a bound."""
    images, original = row(1e-6, 0.0, 2e-6, 0.5), row(0.4, 0.4, 0.4, 0.4)
    rule = step_rule(pixels_per_step=4)
    moved, changes, _ = rule(images, row(9, 9, 9, 0), rule.initial_changes(images), original, None)
    assert changes.flatten().tolist() == [0, 0, 1, 0]
    assert moved.flatten().tolist() == [1e-6, 0.0, 0.0, 0.5]


def test_five_steps_of_a_fifth_reach_the_bound_exactly():
    rule = step_rule((1, 1, 1), lower=torch.zeros(1, 1, 1), upper=torch.ones(1, 1, 1))
    original = images = torch.zeros(1, 1, 1, 1)
    changes = rule.initial_changes(images)
    for _ in range(5):
        images, changes, stuck = rule(images, -torch.ones_like(images), changes, original, None)
        assert not stuck
    assert images.item() == 1.0
    for _ in range(5):
        images, _, _ = rule(
            images, torch.ones_like(images), rule.initial_changes(images), original, None
        )
    assert images.item() == 0.0


def test_entries_outside_the_bounds_stay_until_they_move():
    rule, images = step_rule(), row(1.3, 0.5, -0.2, 0.5)
    moved, _, _ = rule(images, row(0.1, -5, 0.2, 0), rule.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(1.3, 0.7, -0.2, 0.5))
    moved, _, _ = rule(images, row(9, -5, 0.2, 0), rule.initial_changes(images), images, None)
    torch.testing.assert_close(moved, row(1.0, 0.5, -0.2, 0.5))


def shrinkage(shape=(1, 1, 4), **changed) -> ShrinkageStep:
    settings = {
        "learning_rate": 0.1,
        "threshold": 0.05,
        "clip": 1000.0,
        "max_iterations": 100,
        "lower": torch.zeros(shape, dtype=torch.float64),
        "upper": torch.ones(shape, dtype=torch.float64),
    }
    return ShrinkageStep(**(settings | changed))


def first() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64)


def test_shrinkage_takes_the_threshold_off_each_move():
    original = row(0.5, 0.5, 0.5, 0.5)
    moved, ahead = shrinkage()(original, original, row(-2, 2, 0.5, -0.4), first(), original, None)
    # v is 0.7, 0.3, 0.45 and 0.54: the last two are within .05 of the original.
    torch.testing.assert_close(moved, row(0.65, 0.35, 0.5, 0.5))
    torch.testing.assert_close(ahead, row(0.65 + 0.15 / 4, 0.35 - 0.15 / 4, 0.5, 0.5))
    assert torch.equal(original, row(0.5, 0.5, 0.5, 0.5))


def test_the_step_starts_ahead_and_shrinks_towards_the_original():
    original, images, ahead = (
        row(0.2, 0.2, 0.8, 0.8),
        row(0.3, 0.4, 0.7, 0.9),
        row(0.4, 0.4, 0.6, 1),
    )
    moved, further = shrinkage()(images, ahead, row(0, 1, 0, 3), torch.tensor([75]), original, None)
    # The step size is .1 sqrt(1 - 75/100) = .05, so v is 0.4, 0.35, 0.6 and 0.85.
    expected = row(0.35, 0.3, 0.65, 0.8)
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(further, expected + 76 / 79 * (expected - images))


def test_shrinkage_stays_within_the_bounds():
    original = row(0.05, 0.95, 0.5, 0.5)
    moved, ahead = shrinkage()(original, original, row(9, -9, -4.6, 4.6), first(), original, None)
    torch.testing.assert_close(moved, row(0, 1, 0.91, 0.09))
    torch.testing.assert_close(ahead, row(0, 1, 1, 0))


def test_gradients_are_clipped_by_entry():
    original = row(0.5, 0.5, 0.5, 0.5)
    moved, _ = shrinkage(clip=1.0)(
        original, original, row(-1e9, 7, -0.8, 0.2), first(), original, None
    )
    torch.testing.assert_close(moved, row(0.55, 0.45, 0.53, 0.5))


def test_each_image_has_its_own_iteration():
    original = row(0.5, 0.5, 0.5, 0.5)
    both = original.expand(2, -1, -1, -1)
    moved, _ = shrinkage()(
        both, both, row(-2, -2, -2, -2).expand_as(both), torch.tensor([0, 99]), both, None
    )
    torch.testing.assert_close(moved[0], row(0.65, 0.65, 0.65, 0.65)[0])
    torch.testing.assert_close(moved[1], original[0])


def test_masked_entries_stay_even_outside_of_the_bounds():
    original = row(-0.2, -0.2, 0.5, 0.5)
    allowed = row(0, 1, 0, 1).bool()
    moved, ahead = shrinkage()(original, original, row(-5, -5, -5, -5), first(), original, allowed)
    torch.testing.assert_close(moved, row(-0.2, 0.25, 0.5, 0.95))
    torch.testing.assert_close(ahead, row(-0.2, 0.25 + 0.45 / 4, 0.5, 1))


def test_shrinkage_counts_in_units_of_the_range():
    """Inputs between -2 and 8 make ten times the moves of the same inputs between 0 and 1."""
    original, gradient = row(0.1, 0.5, 0.7, 0.9), row(-2, 1.5, 0.4, -3)
    images, ahead = row(0.2, 0.5, 0.6, 1), row(0.3, 0.4, 0.6, 1)
    unit = shrinkage(clip=2.0)(images, ahead, gradient, first(), original, None)
    scale = torch.full((1, 1, 4), 10.0, dtype=torch.float64)
    wide = shrinkage(clip=2.0, lower=scale * -0.2, upper=scale * 0.8)(
        images * 10 - 2, ahead * 10 - 2, gradient / 10, first(), original * 10 - 2, None
    )
    for found, expected in zip(wide, unit, strict=True):
        torch.testing.assert_close(found, expected * 10 - 2)


def test_weights_rise_tenfold_until_a_success_and_then_close_in():
    infinite = torch.tensor([float("inf")]).double()
    weight, failure, success = torch.ones(1).double(), torch.zeros(1).double(), infinite
    weights = []
    for found in (False, False, True, False, True, True, False):
        weight, failure, success = refine_weight(weight, failure, success, torch.tensor([found]))
        weights.append(weight.item())
    assert weights == [10, 100, 55, 77.5, 66.25, 60.625, 63.4375]


def test_weights_fall_towards_0_while_each_round_succeeds():
    weight, failure, success = (torch.tensor([value]).double() for value in (1.0, 0.0, torch.inf))
    for expected in (0.5, 0.25, 0.125):
        weight, failure, success = refine_weight(weight, failure, success, torch.tensor([True]))
        assert weight.item() == expected


# --- Adam, with a count of each pair's own ---


@pytest.mark.parametrize("decays", [{}, {"decay": 0.5, "square_decay": 0.9}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_pair_moves_as_under_torchs_adam_whenever_it_began(dtype, decays):
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(30, 3, 2, 2, 2, generator=generator, dtype=dtype)
    gradients *= torch.tensor([1e-3, 1.0, 1e3], dtype=dtype).view(3, 1, 1, 1)
    begins = [0, 4, 11]
    rule = AdamStep(learning_rate=0.03, **decays)
    points = torch.zeros(3, 2, 2, 2, dtype=dtype)
    mean, square = torch.zeros_like(points), torch.zeros_like(points)
    count = torch.zeros(3, dtype=torch.int64)
    for step in range(30):
        active = torch.tensor([step >= begin for begin in begins])
        count = count + active
        kept = active.view(3, 1, 1, 1)
        update, rate = rule(gradients[step] * kept, mean, square, count.clamp_min(1))
        assert (rate > 0).all()
        points = points - update
    for pair, begin in enumerate(begins):
        alone = torch.zeros(2, 2, 2, dtype=dtype, requires_grad=True)
        betas = tuple(decays.values()) or (0.9, 0.999)
        optimizer = torch.optim.Adam([alone], lr=0.03, betas=betas)
        for step in range(begin, 30):
            alone.grad = gradients[step, pair].clone()
            optimizer.step()
        torch.testing.assert_close(points[pair], alone.detach(), rtol=1e-4, atol=1e-6)


def test_adams_rate_is_the_metric_of_its_update():
    """At the first step mean and square are the gradient and its square: it moves by +-rate |g|."""
    gradient = torch.tensor([[4.0, -0.25, 0.0]]).double()
    zeros = torch.zeros(1, 3).double()
    update, rate = AdamStep(0.1)(gradient, zeros.clone(), zeros.clone(), torch.tensor([1]))
    expected = 0.1 / (gradient.abs() + 1e-8)
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(update, rate * gradient, rtol=1e-9, atol=0)
