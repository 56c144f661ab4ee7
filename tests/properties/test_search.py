"""What a search may return, whatever its pairs, their order, its batches and its memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor

from captum_deduce import JSMA, Counterfactuals, DeDUCE, Schut, Wachter, search
from tests.properties.strategies import Case, cases, eighths, masks, seeds, tensors, uniform

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pairs failed"),
    pytest.mark.filterwarnings("ignore:a 'diag' covariance"),
]

# --- the loop alone: pairs whose evaluations are written down beforehand ---


@dataclass(frozen=True)
class Look:
    """What one evaluation of a pair shows."""

    confidence: float
    success: bool
    finished: bool
    stuck: bool
    distance: int


looks = st.builds(
    Look,
    confidence=eighths(0, 8) | st.just(float("nan")),
    success=st.booleans(),
    finished=st.booleans(),
    stuck=st.sampled_from([False, False, True]),
    distance=st.integers(0, 5),
)


class Script(search.Procedure):
    """Pair i has, at its k-th evaluation, what was written down; its image is the number k.

    The calls whose numbers are in ``short`` run out of memory, unless a single pair is left.
    """

    def __init__(
        self, pairs: list[list[Look]], *, short: frozenset[int], distances: bool, most: int
    ) -> None:
        self.pairs = pairs
        self.short = short
        self.distances = distances
        self.max_iterations = most
        self.calls = 0

    def start(self, pairs: list[int]) -> search.State:
        return {
            "step": torch.zeros(len(pairs), 1, dtype=torch.int64),
            "pair": torch.tensor(pairs),
            "forward_evaluations": torch.zeros(len(pairs), dtype=torch.int64),
        }

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        self.calls += 1
        if self.calls in self.short and len(pairs) > 1:
            raise torch.OutOfMemoryError
        assert state["pair"].tolist() == pairs
        seen = self._seen(state)
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        return search.Evaluation(
            images=state["step"].clone(),
            confidence=torch.tensor([look.confidence for look in seen]),
            success=torch.tensor([look.success for look in seen]),
            finished=torch.tensor([look.finished for look in seen]),
            prediction=100 * state["pair"] + state["step"].squeeze(1),
            gradient=torch.zeros(len(pairs)),
            distance=torch.tensor([look.distance for look in seen]) if self.distances else None,
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        stuck = torch.tensor([look.stuck for look in self._seen(state)])
        state["step"] = state["step"] + 1
        return stuck

    def _seen(self, state: search.State) -> list[Look]:
        steps = state["step"].squeeze(1).tolist()
        pairs = state["pair"].tolist()
        return [
            self.pairs[p][min(s, len(self.pairs[p]) - 1)] for p, s in zip(pairs, steps, strict=True)
        ]

    def expected(self, pair: int) -> tuple[int, int]:
        """Of a pair alone: which evaluation is the best, and after how many steps it ends."""
        best, merit = 0, (False, -np.inf)
        for step in range(self.max_iterations + 1):
            look = self.pairs[pair][min(step, len(self.pairs[pair]) - 1)]
            if look.success:
                own = (True, -float(look.distance) if self.distances else 0.0)
            else:
                own = (False, float(np.nan_to_num(look.confidence)))
            if own > merit:
                best, merit = step, own
            if look.finished or look.stuck:
                break
        return best, step


@st.composite
def scripts(draw: st.DrawFn, *, short: bool = False) -> Script:
    pairs = draw(st.lists(st.lists(looks, min_size=1, max_size=5), min_size=1, max_size=7))
    calls = frozenset(draw(st.sets(st.integers(1, 12), max_size=6))) if short else frozenset()
    most = draw(st.integers(0, 6))
    return Script(pairs, short=calls, distances=draw(st.booleans()), most=most)


def check_expected(script: Script, pairs: list[int], found: search.SearchResult) -> None:
    expected = [script.expected(pair) for pair in pairs]
    assert found.images.flatten().tolist() == [best for best, _ in expected]
    assert found.iterations.tolist() == [steps for _, steps in expected]
    assert found.forward_evaluations.tolist() == [steps + 1 for _, steps in expected]
    assert found.prediction.tolist() == [100 * pair for pair in pairs]


@given(scripts(), st.integers(1, 8))
def test_each_pair_ends_with_its_best_attempt_whatever_the_batch(script, batch_size):
    found = search.run(script, len(script.pairs), batch_size=batch_size)
    check_expected(script, list(range(len(script.pairs))), found)


@given(scripts(short=True), st.integers(1, 8))
def test_running_out_of_memory_changes_no_result(script, batch_size):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* too many for the memory")
        found = search.run(script, len(script.pairs), batch_size=batch_size)
    check_expected(script, list(range(len(script.pairs))), found)


@given(scripts(short=True), st.integers(1, 4))
def test_a_stream_finds_what_a_run_finds_and_draws_no_pair_too_early(script, batch_size):
    out = drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        for number in range(len(script.pairs)):
            assert drawn - out < batch_size
            drawn += 1
            yield number

    seen: list[int] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* too many for the memory")
        for pairs, found in search.stream(script, numbers(), batch_size=batch_size):
            check_expected(script, pairs, found)
            seen += pairs
            out += len(pairs)
    assert sorted(seen) == list(range(len(script.pairs)))


@given(scripts(), st.integers(1, 4))
def test_a_trajectory_is_every_attempt_in_order(script, batch_size):
    found = search.run(script, len(script.pairs), batch_size=batch_size, return_trajectory=True)
    for pair, path in enumerate(found.trajectory):
        assert path.flatten().tolist() == list(range(script.expected(pair)[1] + 1))


# --- searches of a classifier ---

METHODS = {
    "DeDUCE": lambda case, **settings: DeDUCE(*case.deduce, **settings),
    "paper": lambda case, **settings: DeDUCE.paper(*case.deduce, **settings),
    "closest": lambda case, **settings: DeDUCE.closest(*case.deduce, **settings),
    "sparsest": lambda case, **settings: DeDUCE.sparsest(*case.deduce, **settings),
    "realistic": lambda case, **settings: DeDUCE.realistic(*case.deduce, **settings),
    "JSMA": lambda case, **settings: JSMA(case.model, **settings),
    "Schut": lambda case, **settings: Schut([case.model], **settings),
    "Wachter": lambda case, **settings: Wachter(case.model, lambda_rounds=2, **settings),
}
methods = st.sampled_from(sorted(METHODS))
pixelwise = st.sampled_from(sorted(set(METHODS) - {"Wachter"}))


def explain(method: str, case: Case, **arguments: Any) -> Counterfactuals:
    settings = {
        name: arguments.pop(name)
        for name in ("max_iterations", "confidence", "lower_bound", "upper_bound", "refine")
        if name in arguments
    }
    explainer = METHODS[method](case, **{"max_iterations": 12, **settings})
    return explainer.generate(case.images, case.targets, show_progress=False, **arguments)


def check_same(first: Counterfactuals, second: Counterfactuals) -> None:
    for name in ("success", "iterations", "evaluations", "forward_evaluations", "prediction"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("counterfactuals", "confidence"):
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), rtol=1e-9, atol=1e-9
        )


@given(methods, cases(most_images=6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_neither_the_order_of_pairs_nor_the_batch_changes_a_result(
    method, case, batch_size, random
):
    order = torch.tensor(random.sample(range(len(case.images)), len(case.images)))
    found = explain(method, case)
    permuted = Case(case.model, case.density, case.images[order], case.targets[order])
    check_same(found[order], explain(method, permuted, internal_batch_size=batch_size))


@given(methods, cases())
def test_a_mask_of_ones_and_a_group_for_each_entry_change_nothing(method, case):
    found = explain(method, case)
    ones = torch.ones_like(case.images)
    check_same(found, explain(method, case, mask=ones))
    if method not in ("Wachter", "sparsest"):  # they move all at once, and places
        groups = torch.arange(case.images[0].numel()).view(1, *case.images.shape[1:])
        check_same(found, explain(method, case, feature_mask=groups))


@given(methods, cases(), st.data())
def test_images_keep_to_bounds_and_masks_of_their_own(method, case, data):
    mask = data.draw(masks(tuple(case.images.shape)))
    shape = tuple(case.images.shape)
    lower = case.images - data.draw(tensors(shape, eighths(0, 4)))
    upper = torch.maximum(lower + 1 / 8, case.images + data.draw(tensors(shape, eighths(0, 4))))
    found = explain(method, case, mask=mask.double(), lower_bound=lower, upper_bound=upper)
    images = found.counterfactuals
    assert torch.equal(images[~mask], case.images[~mask])
    assert (images >= lower).all()
    assert (images <= upper).all()


@given(methods, cases(), st.sampled_from([0.2, 0.5, 0.9]))
def test_what_is_said_of_an_image_is_true_of_it(method, case, confidence):
    found = explain(method, case, confidence=confidence)
    probabilities = case.probabilities(found.counterfactuals)
    rows = np.arange(len(probabilities))
    own = probabilities[rows, case.targets.numpy()]
    np.testing.assert_allclose(found.confidence.numpy(), own, atol=1e-9)
    before = case.probabilities(case.images)
    np.testing.assert_array_equal(found.prediction.numpy(), before.argmax(1))
    reached = (own > confidence) & (
        (probabilities.argmax(1) == case.targets.numpy()) | (confidence >= 0.5)
    )
    if method != "realistic":  # it asks for a density, too
        np.testing.assert_array_equal(found.success.numpy(), reached)
    if found.log_density is not None:
        with torch.no_grad():
            features = case.model[:3](found.counterfactuals)
        mean = case.density.means[case.targets]
        variance = case.density.covariances[case.targets]
        density = -0.5 * ((features - mean) ** 2 / variance + (2 * torch.pi * variance).log())
        torch.testing.assert_close(found.log_density, density.sum(1), rtol=1e-9, atol=1e-9)
        least = case.density.quantile(0.05)[case.targets]
        if method == "realistic":
            enough = reached & (found.log_density >= least).numpy()
            np.testing.assert_array_equal(found.success.numpy(), enough)


@given(pixelwise, cases(), st.integers(0, 15))
def test_no_search_takes_more_steps_or_pixels_than_it_is_given(method, case, budget):
    found = explain(method, case, max_iterations=budget)
    assert (found.iterations <= budget).all()
    assert (found.evaluations <= found.iterations + 1).all()
    if method in ("DeDUCE", "paper", "JSMA", "Schut"):  # a pixel a step, each by .2 of the range
        assert (found.l0() <= found.iterations).all()
        assert (found.l1() <= 0.2 * found.iterations.double() + 1e-9).all()
    if method in ("DeDUCE", "paper", "Schut"):
        assert (found.linf() <= 5 * 0.2 + 1e-9).all()


@given(methods, cases())
def test_a_failure_is_as_sure_of_the_target_as_the_original_at_least(method, case):
    found = explain(method, case, confidence=0.999)
    before = case.probabilities(case.images)[np.arange(len(case.images)), case.targets.numpy()]
    if method != "realistic":
        assert (found.confidence.numpy() >= before - 1e-9).all()
    assert found.counterfactuals.isfinite().all()


@given(pixelwise, cases(), seeds, st.data())
def test_inputs_normalised_outside_of_the_model_give_the_same_counterfactual(
    method, case, seed, data
):
    shape = case.images.shape[1:]
    mean = uniform(seed, shape[0], 1, 1) - 0.5
    std = 2.0 ** data.draw(tensors((shape[0], 1, 1), st.integers(-3, 3)))

    class Denormalised(torch.nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * std + mean)

    outside = Case(
        Denormalised(*case.model), case.density, (case.images - mean) / std, case.targets
    )
    settings = {"lower_bound": -mean / std, "upper_bound": (1 - mean) / std}
    found, other = explain(method, case), explain(method, outside, **settings)
    assert torch.equal(found.success, other.success)
    assert torch.equal(found.iterations, other.iterations)
    torch.testing.assert_close(
        found.counterfactuals, other.counterfactuals * std + mean, rtol=1e-7, atol=1e-7
    )


@given(st.sampled_from(["DeDUCE", "paper"]), cases())
def test_after_refinement_no_single_change_can_be_taken_back(method, case):
    found, refined = explain(method, case), explain(method, case, refine=True)
    assert torch.equal(found.success, refined.success)
    changed = refined.counterfactuals != case.images
    assert not (changed & (found.counterfactuals == case.images)).any()
    kept = torch.where(changed, found.counterfactuals, case.images)
    assert torch.equal(kept, refined.counterfactuals)
    for row in refined.success.nonzero().flatten().tolist():
        target = int(case.targets[row])
        for place in changed[row].flatten().nonzero().flatten().tolist():
            image = refined.counterfactuals[row].flatten().clone()
            image[place] = case.images[row].flatten()[place]
            assert case.probabilities(image.unsqueeze(0))[0, target] <= 0.5 + 1e-12


# --- losses and goals ---


@given(seeds, st.integers(1, 4), st.integers(2, 5), st.integers(-3, 3))
def test_log_probabilities_are_scipys_and_do_not_know_where_logits_begin(seed, n, classes, power):
    scores = 10.0**power * (uniform(seed, n, classes) - 0.5)
    target = torch.arange(n) % classes
    found = search.target_log_probability(scores, target)
    expected = log_softmax(scores.numpy(), axis=1)[np.arange(n), target.numpy()]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)
    shifted = search.target_log_probability(scores + 3.0, target)
    torch.testing.assert_close(found, shifted, rtol=1e-9, atol=1e-9)
    ahead = search.margin(scores, target)
    others = [
        max(row[c] for c in range(classes) if c != t) for row, t in zip(scores, target, strict=True)
    ]
    torch.testing.assert_close(ahead, scores[torch.arange(n), target] - torch.stack(others))


@given(seeds, st.floats(1e-5, 1e3), st.floats(-1e4, 1e4), st.floats(0.1, 3.0))
def test_the_relative_loss_has_the_gradient_of_equation_5(seed, cross_entropy, log_density, weight):
    if abs(log_density) < 1e-5:
        log_density = 1.0
    slopes = uniform(seed, 2, 3) - 0.5
    point = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    terms = torch.tensor([cross_entropy, log_density], dtype=torch.float64) + slopes @ point
    loss = search.relative_sum(terms[:1], terms[1:], weight).sum()
    (gradient,) = torch.autograd.grad(loss, point)
    expected = weight * slopes[0] / cross_entropy - slopes[1] / abs(log_density)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


@given(
    tensors((4,), eighths(0, 8)),
    tensors((4,), st.integers(0, 2), torch.int64),
    tensors((4,), st.floats(-1e6, 1e6)),
    eighths(0, 7),
    eighths(-800, 800),
)
def test_attempts_rank_by_confidence_until_it_will_do_and_then_by_density(
    confidence, prediction, log_density, threshold, least
):
    goal = search.Goal(threshold, torch.full((3,), least, dtype=torch.float64))
    target = torch.tensor([0, 1, 2, 0])
    merit = goal.merit(confidence, prediction, target, log_density)
    reached = goal.reached(confidence, prediction, target, log_density)
    confident = [
        bool(c > threshold and (threshold >= 0.5 or p == t))
        for c, p, t in zip(confidence, prediction, target, strict=True)
    ]
    assert reached.tolist() == [
        ok and bool(d >= least) for ok, d in zip(confident, log_density, strict=True)
    ]
    keys = [
        (ok, float(d if ok else c))
        for ok, d, c in zip(confident, log_density, confidence, strict=True)
    ]
    for first in range(4):
        for second in range(4):
            assert (keys[first] > keys[second]) == bool(merit[first] > merit[second])
