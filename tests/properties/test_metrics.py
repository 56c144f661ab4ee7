"""Metrics against their formulas in NumPy and SciPy, and what may not change them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from captum_deduce import Counterfactuals
from captum_deduce.metrics import (
    COUT,
    IM1,
    IM2,
    Oracle,
    ValidityUnderNoise,
    counterfactual_alignment,
    evaluate,
    failure_rate,
    fid,
    l0,
    l1,
    l2,
    linf,
    sites,
)
from captum_deduce.prototypes import nearest_rows
from tests.properties.strategies import (
    Case,
    cases,
    eighths,
    image_shapes,
    masks,
    normal,
    seeds,
    tensors,
    uniform,
)
from tests.reference import im1, im2
from tests.reference_metrics import frechet, transition

pytestmark = [
    pytest.mark.filterwarnings("ignore:the smaller set has"),
    pytest.mark.filterwarnings("ignore:a 'diag' covariance"),
]


@st.composite
def image_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = (draw(st.integers(1, 4)), *draw(image_shapes))
    before = draw(tensors(shape, eighths(-16, 16)))
    after = torch.where(draw(masks(shape)), draw(tensors(shape, eighths(-16, 16))), before)
    return before, after


@given(image_pairs(), eighths(0, 8))
def test_distances_are_numpys_norms_and_order_each_other(pair, tolerance):
    before, after = pair
    rows = (after - before).flatten(1).numpy()
    for own, order in ((l0, 0), (l1, 1), (l2, 2), (linf, np.inf)):
        expected = [np.linalg.norm(row, order) for row in rows]
        np.testing.assert_allclose(own(before, after).numpy(), expected, atol=1e-12)
        assert torch.equal(own(before, after), own(after, before))
    counted = (np.abs(rows) > tolerance).sum(1)
    np.testing.assert_array_equal(l0(before, after, tolerance=tolerance).numpy(), counted)
    places, entries = sites(before, after), l0(before, after)
    assert (places <= entries).all()
    assert (entries <= places * before.shape[1]).all()
    assert (linf(before, after) <= l2(before, after) + 1e-12).all()
    assert (l2(before, after) <= l1(before, after) + 1e-12).all()


@given(image_pairs(), seeds)
def test_distances_obey_the_triangle_and_are_zero_for_equal_images_only(pair, seed):
    before, after = pair
    between = torch.where(uniform(seed, *before.shape) < 0.5, before, after) + 0.125
    for own in (l0, l1, l2, linf):
        detour = own(before, between) + own(between, after)
        assert (own(before, after) <= detour + 1e-9).all()
        equal = (before == after).flatten(1).all(1)
        assert torch.equal(own(before, after) == 0, equal)


@given(masks((7,)), st.randoms(use_true_random=False))
def test_a_failure_rate_is_a_share_in_any_order(success, random):
    order = random.sample(range(7), 7)
    assert failure_rate(success) == pytest.approx(1 - np.mean(success.numpy()))
    assert failure_rate(success[order]) == failure_rate(success)


@given(seeds, st.integers(2, 4), st.integers(0, 20), st.integers(-10, 10))
def test_fid_is_the_published_distance_and_knows_neither_side_nor_place(seed, width, more, power):
    first = normal(seed, 2 * width + more + 4, width) @ normal(seed + 1, width, width)
    second = normal(seed + 2, 3 * width + 4, width) * uniform(seed + 3, width) + 0.5
    found = fid(first, second)
    assert found == pytest.approx(frechet(first.numpy(), second.numpy()), rel=1e-6, abs=1e-7)
    assert fid(second, first) == pytest.approx(found, rel=1e-9, abs=1e-9)
    turn, _ = torch.linalg.qr(normal(seed + 4, width, width))
    offset, scale = 10 * normal(seed + 5, width), 2.0**power
    assert fid(first @ turn + offset, second @ turn + offset) == pytest.approx(
        found, rel=1e-7, abs=1e-7
    )
    assert fid(first * scale, second * scale) == pytest.approx(found * scale**2, rel=1e-9)
    assert fid(first, first.flip(0)) <= 1e-9 * float(first.square().sum())


@given(cases(), seeds, st.integers(1, 7), st.integers(1, 9))
def test_transitions_are_those_of_a_loop_over_places(case, seed, steps, batch_size):
    before, after = case.images, case.images.clone()
    moved = uniform(seed, *before.shape) < 0.6
    after[moved] = uniform(seed + 1, *before.shape)[moved]
    source = (case.targets + 1) % case.model[3].out_features
    metric = COUT(case.model, steps, batch_size=batch_size)
    found = metric.transition(before, after, case.targets, source)
    for row in range(len(before)):
        arrays = before[row].numpy(), after[row].numpy()

        def probabilities(image: Any) -> Any:
            return case.probabilities(torch.from_numpy(image).unsqueeze(0))[0]

        classes = int(case.targets[row]), int(source[row])
        expected = transition(*arrays, steps, probabilities, *classes)
        assert float(found[row]) == pytest.approx(expected, abs=1e-9)
    assert (found.abs() <= 1 + 1e-12).all()
    swapped = metric.transition(before, after, source, case.targets)
    torch.testing.assert_close(swapped, -found, rtol=1e-12, atol=1e-12)


class Scaled(nn.Module):
    """A reconstruction that is known: the image times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


@given(
    image_shapes,
    st.lists(eighths(-8, 24), min_size=3, max_size=3),
    eighths(-8, 24),
    seeds,
    st.integers(1, 5),
)
def test_interpretability_is_the_papers_ratio(shape, factors, of_all, seed, batch_size):
    images = uniform(seed, 4, *shape) + 0.1
    target, original = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    autoencoders = [Scaled(factor) for factor in factors]
    first = IM1(autoencoders, epsilon=1e-6, batch_size=batch_size).ratio(images, target, original)
    metric = IM2(autoencoders, Scaled(of_all), epsilon=1e-6, batch_size=batch_size)
    second = metric.difference(images, target)
    for row, image in enumerate(images.numpy()):
        made = [image * factors[int(c[row])] for c in (target, original)]
        assert float(first[row]) == pytest.approx(im1(image, *made, 1e-6), rel=1e-9)
        expected = im2(image, made[0], image * of_all, 1e-6)
        assert float(second[row]) == pytest.approx(expected, rel=1e-9)


def known(case: Case, targets: Tensor | None = None) -> Counterfactuals:
    """A result of images that are as they are."""
    targets = case.targets if targets is None else targets
    numbers = torch.zeros(len(targets), dtype=torch.int64)
    probabilities = torch.from_numpy(case.probabilities(case.images))
    return Counterfactuals(
        inputs=case.images,
        counterfactuals=case.images,
        target=targets,
        success=torch.ones(len(targets), dtype=torch.bool),
        confidence=probabilities.gather(1, targets.unsqueeze(1)).squeeze(1),
        iterations=numbers,
        evaluations=numbers + 1,
        forward_evaluations=numbers,
        prediction=probabilities.argmax(1),
    )


@given(cases(), st.integers(1, 5), st.randoms(use_true_random=False), st.floats(0, 1))
def test_a_pairs_value_does_not_depend_on_the_other_pairs(case, batch_size, random, scale):
    order = torch.tensor(random.sample(range(len(case.images)), len(case.images)))
    result = known(case)
    metrics = [
        Oracle(case.model, batch_size=batch_size),
        ValidityUnderNoise(case.model, scale, samples=5, batch_size=batch_size),
        COUT(case.model, batch_size=batch_size),
    ]
    for metric in metrics:
        values = metric(result)
        torch.testing.assert_close(metric(result[order]), values[order], rtol=1e-9, atol=1e-9)
        alone = torch.cat([metric(pair) for pair in result])
        torch.testing.assert_close(alone, values, rtol=1e-9, atol=1e-9)
    seen = torch.from_numpy(case.probabilities(case.images).argmax(1)) == case.targets
    assert torch.equal(Oracle(case.model)(result) > 0.5, seen)
    assert torch.equal(ValidityUnderNoise(case.model, 0.0)(result) == 1, seen)


@given(cases(), seeds, st.sampled_from(["probability", "score"]))
def test_alignment_of_a_classifier_with_itself_is_one_and_reverses_by_ratio(case, seed, scale):
    end = uniform(seed, *case.images.shape)
    other = nn.Sequential(nn.Flatten(), nn.Linear(case.images[0].numel(), 3)).double()
    with torch.no_grad():
        other[1].weight.copy_(normal(seed + 1, *other[1].weight.shape))
        other[1].bias.copy_(normal(seed + 2, 3))
    arguments = (case.images, end, case.targets)
    itself = counterfactual_alignment(case.model, case.model, *arguments, case.targets, scale=scale)
    torch.testing.assert_close(itself, torch.ones_like(itself))
    before, after = (case.model(images).detach() for images in (case.images, end))
    if scale == "probability":
        before, after = before.softmax(1), after.softmax(1)
    moved = (after - before).numpy()
    classes = counterfactual_alignment(case.model, case.model, *arguments, scale=scale)
    rows = np.arange(len(moved))
    expected = moved / moved[rows, case.targets.numpy()][:, None]
    np.testing.assert_allclose(classes.numpy(), expected, rtol=1e-6, atol=1e-9)
    forth = counterfactual_alignment(case.model, other, *arguments, 1, scale=scale)
    back = counterfactual_alignment(
        other, case.model, case.images, end, 1, case.targets, scale=scale
    )
    torch.testing.assert_close(forth * back, torch.ones_like(forth), rtol=1e-6, atol=1e-6)


@given(seeds, st.integers(1, 6), st.integers(1, 20), st.integers(1, 30), st.integers(-20, 20))
def test_nearest_rows_are_scipys(seed, asked, held, chunk, power):
    rows, known_rows = normal(seed, asked, 3), normal(seed + 1, held, 3)
    k = min(3, held)
    scale = 2.0**power
    distances, places = nearest_rows(rows * scale, known_rows * scale, k, chunk)
    from scipy.spatial.distance import cdist

    every = np.sort(cdist(rows.numpy(), known_rows.numpy()), axis=1)[:, :k] * scale
    np.testing.assert_allclose(distances.numpy(), every, rtol=1e-6)
    own = (rows.unsqueeze(1) - known_rows[places]).norm(dim=2) * scale
    torch.testing.assert_close(own, distances, rtol=1e-6, atol=0)


@given(seeds, st.integers(2, 12), st.integers(1, 4), st.booleans())
def test_comparisons_of_two_results_are_scipys_paired_tests(seed, count, originals, shared):
    """Pairs of one original count once, by their mean difference."""
    of_original = torch.arange(count) % originals if shared else torch.arange(count)
    images = uniform(seed, count, 1, 2, 2)[of_original] + of_original.view(-1, 1, 1, 1)
    first, second = (images + 0.1 * normal(seed + k, count, 1, 2, 2) for k in (1, 2))
    numbers = torch.arange(count)
    results = {
        name: Counterfactuals(
            inputs=images,
            counterfactuals=changed,
            target=numbers,
            success=torch.ones(count, dtype=torch.bool),
            confidence=torch.ones(count, dtype=torch.float64),
            iterations=numbers,
            evaluations=numbers,
            forward_evaluations=numbers,
            prediction=numbers + 1,
        )
        for name, changed in (("a", first), ("b", second))
    }
    table = evaluate(results, {"L1": Counterfactuals.l1})
    difference = (results["a"].l1() - results["b"].l1()).numpy()
    groups = of_original.numpy()
    means = np.array([difference[groups == g].mean() for g in np.unique(groups)])
    (test,) = (each for each in table.paired_tests() if each.metric == "L1")
    assert test.difference == pytest.approx(difference.mean(), abs=1e-12)
    assert (test.pairs, test.units) == (count, len(means))
    if len(means) < 2:
        assert test.t_pvalue is None
        return
    t = np.sqrt(len(means)) * means.mean() / means.std(ddof=1)
    assert test.t_pvalue == pytest.approx(2 * stats.t.sf(abs(t), len(means) - 1), rel=1e-9)
    assert test.wilcoxon_pvalue == pytest.approx(stats.wilcoxon(means).pvalue)
