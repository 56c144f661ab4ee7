"""What a step may do, whatever the image, its bounds, its mask and its budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_deduce.search import (
    AdamStep,
    Entries,
    Groups,
    Pixels,
    PixelStep,
    ShrinkageStep,
    Sites,
    refine_weight,
)
from tests.properties.strategies import (
    eighths,
    image_shapes,
    masks,
    normal,
    seeds,
    tensors,
    uniform,
)
from tests.reference import snapped


@dataclass(frozen=True)
class Moment:
    """A step that is to be made: the rule, and what it is given."""

    rule: PixelStep
    images: Tensor
    direction: Tensor
    changes: Tensor
    original: Tensor
    allowed: Tensor | None

    @property
    def numbers(self) -> Tensor:
        """Of which pixel each entry of an image is."""
        pixels, shape = self.rule.pixels, self.images.shape[1:]
        if isinstance(pixels, Groups):
            return pixels.index
        places = torch.arange(shape[1] * shape[2]).view(1, *shape[1:])
        if isinstance(pixels, Sites):
            return places.expand(shape)
        return torch.arange(shape.numel()).view(shape)

    def step(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.rule(self.images, self.direction, self.changes, self.original, self.allowed)

    def rows(self, rows: Tensor) -> Moment:
        allowed = None if self.allowed is None else self.allowed[rows]
        parts = (self.images, self.direction, self.changes, self.original)
        return Moment(self.rule, *(part[rows] for part in parts), allowed)


@st.composite
def pixel_kinds(draw: st.DrawFn, shape: tuple[int, ...]) -> Pixels:
    kind = draw(st.sampled_from(["entries", "sites", "groups"]))
    if kind != "groups":
        return Entries() if kind == "entries" else Sites()
    index = draw(tensors(shape, st.integers(0, 3), torch.int64))
    return Groups(index, int(index.max()) + 1)


@st.composite
def moments(draw: st.DrawFn, *, pixels: Pixels | None = None, most: int = 4) -> Moment:
    """Steps in the middle of a search: entries on bounds, equal scores, pixels that are used up."""
    count, shape = draw(st.integers(1, 3)), draw(image_shapes)
    batch = (count, *shape)
    lower = draw(tensors(shape, eighths(-8, 8)))
    span = draw(tensors(shape, eighths(1, 16)))
    images = lower + span * draw(tensors(batch, eighths(0, 8)))
    rule = PixelStep(
        step_size=draw(st.sampled_from([0.125, 0.2, 0.5, 1.0])),
        max_changes=draw(st.none() | st.integers(1, 3)),
        pixels_per_step=draw(st.integers(1, most)),
        pixels=draw(pixel_kinds(shape)) if pixels is None else pixels,
        skip_saturated=draw(st.booleans()),
        lower=lower,
        upper=lower + span,
    )
    changes = rule.initial_changes(images)
    changes = changes + draw(tensors(tuple(changes.shape), st.integers(0, 3), torch.int32))
    return Moment(
        rule=rule,
        images=images,
        direction=draw(tensors(batch, eighths(-16, 16))),
        changes=changes,
        original=lower + span * draw(tensors(batch, eighths(0, 8))),
        allowed=draw(st.none() | masks(batch)),
    )


def proposals(moment: Moment, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each entry would move, and whether it may: entry by entry, as algorithm 1 says."""
    rule, images = moment.rule, moment.images[row].flatten().tolist()
    proposed, movable = np.zeros(len(images)), np.zeros(len(images), dtype=bool)
    for place, value in enumerate(images):
        low, high = float(rule.lower.flatten()[place]), float(rule.upper.flatten()[place])
        sign = np.sign(float(moment.direction[row].flatten()[place]))
        moved = min(max(value - sign * (rule.step_size * (high - low)), low), high)
        moved = snapped(moved, low, high, float(moment.original[row].flatten()[place]))
        proposed[place] = moved
        allowed = moment.allowed is None or bool(moment.allowed[row].flatten()[place])
        far = abs(moved - value) > 1e-6 * (high - low)
        movable[place] = allowed and (far or not rule.skip_saturated)
    return proposed, movable


def scores(moment: Moment, row: int, gain: bool = False) -> dict[int, float]:
    """Of the admissible pixels."""
    rule, numbers = moment.rule, moment.numbers.flatten().tolist()
    proposed, movable = proposals(moment, row)
    found: dict[int, float] = {}
    for place, number in enumerate(numbers):
        used_up = moment.changes[row].flatten()[number] >= (rule.max_changes or np.inf)
        if movable[place] and not used_up:
            length = float((rule.upper - rule.lower).flatten()[place])
            if gain:
                length = abs(proposed[place] - float(moment.images[row].flatten()[place]))
            slope = abs(float(moment.direction[row].flatten()[place]))
            found[number] = found.get(number, 0.0) + slope * length
    return found


def chosen(moment: Moment, changes: Tensor, row: int) -> list[int]:
    """The pixels that a step has counted as moved, in order."""
    return (changes[row] != moment.changes[row]).flatten().nonzero().flatten().tolist()


@given(moments())
def test_the_most_salient_admissible_pixels_move_and_no_others(moment):
    images, changes, stuck = moment.step()
    for row in range(len(images)):
        found, moved = scores(moment, row), chosen(moment, changes, row)
        assert len(moved) == min(moment.rule.pixels_per_step, len(found))
        assert bool(stuck[row]) == (not found)
        assert set(moved) <= set(found)
        left = [score for pixel, score in found.items() if pixel not in moved]
        assert min([found[pixel] for pixel in moved], default=0) >= max(left, default=0)
        if moment.rule.pixels_per_step == 1 and found:
            highest = max(found.values())
            assert moved == [min(p for p, score in found.items() if score == highest)]
        proposed, movable = proposals(moment, row)
        goes = movable & np.isin(moment.numbers.flatten().numpy(), moved)
        expected = np.where(goes, proposed, moment.images[row].flatten().numpy())
        np.testing.assert_array_equal(images[row].flatten().numpy(), expected)


@given(moments(), st.integers(1, 6))
def test_any_number_of_steps_keeps_bounds_mask_and_budget(moment, steps):
    before = moment.changes
    for _ in range(steps):
        images, changes, _ = moment.step()
        moment = replace(moment, images=images, changes=changes, direction=-moment.direction)
        moment = replace(moment, direction=moment.direction.roll(1, -1))
    rule = moment.rule
    assert (images >= rule.lower).all()
    assert (images <= rule.upper).all()
    if rule.max_changes is not None:
        assert (changes <= before.clamp_min(rule.max_changes)).all()
    assert ((changes - before).flatten(1).sum(1) <= steps * rule.pixels_per_step).all()


@given(moments())
def test_what_the_mask_forbids_keeps_its_bits(moment):
    images, _, _ = moment.step()
    if moment.allowed is not None:
        assert torch.equal(images[~moment.allowed], moment.images[~moment.allowed])
    moved = images != moment.images
    assert (moment.direction[moved] * (images - moment.images)[moved] < 0).all()


@given(moments())
def test_a_mask_of_ones_is_no_mask(moment):
    free = replace(moment, allowed=None)
    ones = replace(moment, allowed=torch.ones_like(moment.images, dtype=torch.bool))
    for with_mask, without in zip(ones.step(), free.step(), strict=True):
        assert torch.equal(with_mask, without)


@given(moments(), st.randoms(use_true_random=False))
def test_images_do_not_know_their_neighbours(moment, random):
    order = torch.tensor(random.sample(range(len(moment.images)), len(moment.images)))
    together, permuted = moment.step(), moment.rows(order).step()
    alone = [moment.rows(torch.tensor([row])).step() for row in range(len(moment.images))]
    for place, value in enumerate(together):
        assert torch.equal(value[order], permuted[place])
        assert torch.equal(value, torch.cat([step[place] for step in alone]))


@given(moments(), st.integers(-3, 3))
def test_units_do_not_matter(moment, power):
    scale = 2.0**power
    rule = replace(moment.rule, lower=moment.rule.lower * scale, upper=moment.rule.upper * scale)
    scaled = Moment(
        rule,
        moment.images * scale,
        moment.direction / scale,
        moment.changes,
        moment.original * scale,
        moment.allowed,
    )
    images, changes, stuck = moment.step()
    other_images, other_changes, other_stuck = scaled.step()
    assert torch.equal(images * scale, other_images)
    assert torch.equal(changes, other_changes)
    assert torch.equal(stuck, other_stuck)


@given(moments(most=6), eighths(1, 40))
def test_gains_add_up_to_what_is_asked_for_and_not_beyond(moment, most_gain):
    rule = replace(moment.rule, most_gain=most_gain)
    moment = replace(moment, rule=rule)
    _, changes, _ = moment.step()
    for row in range(len(changes)):
        gains, moved = scores(moment, row, gain=True), chosen(moment, changes, row)
        own = sorted((gains[pixel] for pixel in moved), reverse=True)
        left = [gain for pixel, gain in gains.items() if pixel not in moved]
        assert min(own, default=0) >= max(left, default=0) - 1e-12
        assert sum(own[:-1]) < most_gain + 1e-9
        if len(moved) < min(rule.pixels_per_step, len(gains)):
            assert sum(own) > most_gain - 1e-9


@given(moments(pixels=Entries()), st.booleans())
def test_groups_of_one_place_are_sites_and_of_one_entry_entries(moment, sites):
    shape = moment.images.shape[1:]
    pixels = Sites() if sites else Entries()
    index = replace(moment, rule=replace(moment.rule, pixels=pixels)).numbers
    groups = Groups(index.contiguous(), int(index.max()) + 1)
    plain, grouped = (replace(moment.rule, pixels=kind) for kind in (pixels, groups))
    arguments = (moment.original, moment.allowed)
    images, changes, stuck = plain(
        moment.images, moment.direction, plain.initial_changes(moment.images), *arguments
    )
    other_images, other_changes, other_stuck = grouped(
        moment.images, moment.direction, grouped.initial_changes(moment.images), *arguments
    )
    assert torch.equal(changes.flatten(), other_changes.flatten())
    assert torch.equal(stuck, other_stuck)
    assert torch.equal(images, other_images)
    assert images.shape[1:] == shape


@given(st.data())
def test_groups_add_up_like_numpys_bincount(data):
    count, shape = data.draw(st.integers(1, 3)), data.draw(image_shapes)
    own = data.draw(st.booleans())
    index = data.draw(tensors((count, *shape) if own else shape, st.integers(0, 4), torch.int64))
    values = data.draw(tensors((count, *shape), eighths(-16, 16)))
    flags = data.draw(masks((count, *shape)))
    groups = Groups(index, 5)
    total, any_flag = groups.total(values, flags), groups.any(flags)
    spread = groups.spread(total)
    for row in range(count):
        numbers = (index[row] if own else index).flatten().numpy()
        weights = (values[row] * flags[row]).flatten().numpy()
        expected = np.bincount(numbers, weights, minlength=5)
        np.testing.assert_array_equal(total[row].flatten().numpy(), expected)
        flagged = np.bincount(numbers, flags[row].flatten().numpy(), minlength=5) > 0
        np.testing.assert_array_equal(any_flag[row].flatten().numpy(), flagged)
        np.testing.assert_array_equal(spread[row].flatten().numpy(), expected[numbers])


@given(moments(), st.sampled_from([0.125, 1 / 3, 0.5, 1.0]))
def test_what_is_taken_back_is_what_the_loss_misses_least(moment, share):
    undone = moment.rule.dispensable(moment.images, moment.direction, moment.original, share)
    for row in range(len(undone)):
        numbers = moment.numbers.flatten().tolist()
        rise, changed = dict.fromkeys(numbers, 0.0), set()
        image, original = moment.images[row].flatten(), moment.original[row].flatten()
        for place, number in enumerate(numbers):
            slope = float(moment.direction[row].flatten()[place])
            rise[number] += slope * float(original[place] - image[place])
            if image[place] != original[place]:
                changed.add(number)
        count = int(np.ceil(np.float64(share) * len(changed)))
        expected = sorted(changed, key=lambda number: (rise[number], number))[:count]
        assert undone[row].flatten().nonzero().flatten().tolist() == sorted(expected)


@given(image_shapes, st.integers(1, 3), seeds, st.booleans(), st.integers(0, 9))
def test_shrinkage_is_the_published_formula_entry_by_entry(shape, count, seed, masked, iteration):
    lower, span = normal(seed, *shape), uniform(seed + 1, *shape) + 0.1
    rule = ShrinkageStep(
        learning_rate=0.3,
        threshold=0.05,
        clip=0.7,
        max_iterations=10,
        lower=lower,
        upper=lower + span,
    )
    images, ahead, original = (lower + span * uniform(seed + k, count, *shape) for k in range(2, 5))
    gradient = 2 * normal(seed + 5, count, *shape)
    allowed = uniform(seed + 6, count, *shape) > 0.3 if masked else None
    steps = torch.full((count,), iteration)
    following, further = rule(images, ahead, gradient, steps, original, allowed)
    for at in np.ndindex(count, *shape):
        s, low = float(span[at[1:]]), float(lower[at[1:]])
        x0, x, y = (float(value[at]) for value in (original, images, ahead))
        step = 0.3 * (1 - iteration / 10) ** 0.5 * s * np.clip(s * float(gradient[at]), -0.7, 0.7)
        excess = y - step - x0
        shrunk = np.sign(excess) * max(abs(excess) - 0.05 * s, 0.0)
        new = np.clip(x0 + shrunk, low, low + s) if shrunk else x0
        if allowed is not None and not allowed[at]:
            new = x0
        point = np.clip(new + (iteration + 1) / (iteration + 4) * (new - x), low, low + s)
        if allowed is not None and not allowed[at]:
            point = x0
        assert float(following[at]) == pytest.approx(new, abs=1e-12)
        assert float(further[at]) == pytest.approx(point, abs=1e-12)


@given(seeds, st.integers(1, 12), st.integers(1, 5))
def test_adam_is_torchs(seed, steps, size):
    parameter = torch.nn.Parameter(normal(seed, 1, size))
    optimizer = torch.optim.Adam([parameter], lr=0.05, eps=1e-8)
    rule, mine = AdamStep(0.05), parameter.detach().clone()
    mean, square = torch.zeros_like(mine), torch.zeros_like(mine)
    for step in range(steps):
        gradient = normal(seed + step + 1, 1, size) * 10.0 ** (step % 5 - 2)
        parameter.grad = gradient.clone()
        optimizer.step()
        move, _ = rule(gradient, mean, square, torch.tensor([step + 1]))
        mine -= move
    torch.testing.assert_close(mine, parameter.detach(), rtol=1e-10, atol=1e-12)


@given(st.floats(1e-4, 1e4), st.floats(1e-3, 10.0), st.integers(5, 30))
def test_weights_close_in_on_the_least_that_succeeds(needed, first, rounds):
    weight = torch.tensor([first], dtype=torch.float64)
    low, high = torch.zeros(1).double(), torch.full((1,), torch.inf).double()
    width = torch.inf
    for _ in range(rounds):
        found = weight >= needed
        weight, low, high = refine_weight(weight, low, high, found)
        assert float(low) < needed <= float(high)
        assert float(low) < float(weight) < float(high)
        if torch.isfinite(high):
            assert float(high - low) <= width
            width = float(high - low) / 2 + 1e-12 * float(high)  # but for rounding
