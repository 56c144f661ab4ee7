"""DeDUCE beside steps in a ball: the target's probability at its highest within a distance.

Sparse visual counterfactual explanations (Boreiko et al., *Sparse Visual Counterfactual
Explanations in Image Space*, 2022) maximise the target's log-probability within a ball of the l_1.5
norm around the image, and within the range of its values, by Frank-Wolfe steps; they need no
generative model, but a classifier that was made robust. Here with steps of 2 / (t + 2) in place of
their adaptive ones; the best of the iterates counts. On the classifier that ``captum-deduce
reproduce`` trains with noise, by the oracles of ``quality.py``, on the same pairs:

    python benchmarks/l15_ball.py --data-root DIR
    python benchmarks/l15_ball.py --data-root DIR --radii 8 9.5 --iterations 300

First every pair in balls of the same radius, as published; then each in the smallest of these balls
in which the target's probability exceeds DeDUCE's ``confidence``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from quality import SMALL_BUDGET
from torch import Tensor

from captum_deduce import CounterfactualExplainer, Counterfactuals, datasets, search
from captum_deduce.experiments.methods import oracle_metrics
from captum_deduce.experiments.methods import search as search_all
from captum_deduce.experiments.plan import SIZES, every_target
from captum_deduce.experiments.runs import Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import evaluate
from captum_deduce.reports import metric_column
from captum_deduce.reports import table as as_table
from captum_deduce.search import Problem, target_log_probability
from captum_deduce.zoo import make_explainer

NORM = 1.5
VISIBLE = 1 / 255
"""Smaller changes vanish in an 8-bit image; L0 leaves them out."""


def furthest(gradient: Tensor, room: Tensor, radius: float) -> Tensor:
    """Solve the linear problem of a Frank-Wolfe step: the change in ball and range that gains most.

    The change of entry i is min(room_i, (|g_i| / mu)^2) in the gradient's direction, by the
    conditions of Karush, Kuhn and Tucker; mu, found by bisection, makes its norm the radius.

    Args:
        gradient (Tensor): A x ...
        room (Tensor): How far each entry can go in its gradient's direction, of the same shape.
        radius (float): Of the ball.

    Returns:
        Tensor: The changes, of the same shape.
    """
    slope, room = gradient.abs().flatten(1), room.flatten(1)
    slope = slope / slope.amax(1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)

    def change(log_mu: Tensor) -> Tensor:
        return torch.minimum(room, (slope / log_mu.exp()[:, None]) ** (1 / (NORM - 1)))

    low = torch.full_like(slope[:, 0], -40)
    high = -low
    for _ in range(60):
        middle = (low + high) / 2
        outside = change(middle).norm(NORM, 1) > radius
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return (change(high).view_as(gradient)) * gradient.sign()


class FrankWolfe(search.Procedure):
    """As many steps for each pair; the likeliest iterate counts."""

    def __init__(self, problem: Problem, settings: BallSearch) -> None:
        self.problem, self.settings = problem, settings
        self.max_iterations = settings.max_iterations

    def start(self, pairs: list[int]) -> search.State:
        """See :meth:`captum_deduce.search.Procedure.start`."""
        inputs = self.problem.inputs[pairs]
        steps = torch.zeros(len(pairs), dtype=torch.int64)
        return self.problem.rows(pairs) | {"images": inputs, "step": steps}

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """See :meth:`captum_deduce.search.Procedure.evaluate`."""
        images, target = state["images"].detach().requires_grad_(), state["target"]
        scores, _ = self.problem.forward(images, state)
        log_probability = target_log_probability(scores, target)
        (gradient,) = torch.autograd.grad(log_probability.sum(), images)
        confidence = log_probability.detach().exp()
        return search.Evaluation(
            images=images.detach(),
            confidence=confidence,
            success=confidence > self.settings.confidence,
            finished=torch.zeros_like(target, dtype=torch.bool),
            prediction=scores.detach().argmax(1),
            gradient=gradient,
            distance=-log_probability.detach(),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """See :meth:`captum_deduce.search.Procedure.step`."""
        original, gradient = state["original"], evaluation.gradient
        up, down = self.problem.upper - original, original - self.problem.lower
        change = furthest(gradient, torch.where(gradient > 0, up, down), self.settings.radius)
        part = (2 / (state["step"] + 2)).view(-1, 1, 1, 1)
        state["images"] = state["images"].lerp(original + change, part.to(change))
        state["step"] += 1
        return ~gradient.isfinite().flatten(1).all(1)


class BallSearch(CounterfactualExplainer):
    """The search for the highest probability within a ball."""

    def __init__(self, forward_func, *, radius, confidence=0.5, max_iterations=75) -> None:
        super().__init__(forward_func)
        self.radius, self.confidence, self.max_iterations = radius, confidence, max_iterations
        self.lower_bound, self.upper_bound = 0.0, 1.0

    def _procedure(self, problem: Problem) -> search.Procedure:
        return FrankWolfe(problem, self)


def in_smallest_ball(results: list[Counterfactuals], confidence: float) -> Counterfactuals:
    """Take each pair from the first result that is sure enough; the smallest ball comes first."""
    sure = torch.stack([result.confidence > confidence for result in results])
    first = sure.int().argmax(0).masked_fill(~sure.any(0), len(results) - 1)
    places = torch.arange(len(first))
    spent = torch.stack([result.evaluations for result in results]).cumsum(0)

    def chosen(values: list[Tensor]) -> Tensor:
        return torch.stack(values)[first, places]

    return replace(
        results[0],
        success=sure.any(0),
        counterfactuals=chosen([result.counterfactuals for result in results]),
        confidence=chosen([result.confidence for result in results]),
        evaluations=spent[first, places],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="the folder of MNIST's files")
    parser.add_argument("--images", type=int, default=10, help="each with all other classes (10)")
    parser.add_argument("--validation", action="store_true", help="measure on validation images")
    parser.add_argument("--iterations", type=int, default=75, help="in each ball (75)")
    parser.add_argument("--radii", type=float, nargs="+", default=[5, 6, 7, 8, 9, 10, 11, 12, 14])
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--output", type=Path, default=Path("captum-deduce-quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    size, device = SIZES["default"], torch.device("cpu")
    splits = datasets.load("mnist", arguments.data_root, seed=size.seed)
    models = Trained(size, splits, device, show_progress=False)
    data = splits.validation if arguments.validation else splits.test
    cases = every_target(data, 1, arguments.images)
    classifier = models.noise_trained
    explainers = {
        "realistic, closer": make_explainer(classifier, "realistic", **SMALL_BUDGET),
        "realistic": make_explainer(classifier, "realistic"),
    }
    confidences = {explainer.confidence for explainer in explainers.values()}
    balls = {
        f"radius {radius:g}": BallSearch(
            classifier.model, radius=radius, max_iterations=arguments.iterations
        )
        for radius in sorted(arguments.radii)
    }
    store = Store(arguments.output / "runs", device)
    runs = search_all(store, explainers | balls, cases)
    results = {name: run.result for name, run in runs.items()}
    within = [results[name] for name in balls]
    for confidence in sorted(confidences):
        results[f"smallest, confidence {confidence:g}"] = in_smallest_ball(within, confidence)

    metrics = {
        "L0": lambda result: (result.attributions.abs() > VISIBLE).flatten(1).sum(1).double(),
        "L1": Counterfactuals.l1,
        **oracle_metrics(models),
        "evaluations": lambda result: result.evaluations,
    }
    table = evaluate(results, metrics, pairs="own")
    shown = {name: metric_column(table, name, list(results), 3) for name in metrics}
    failed = [f"{1 - result.success.double().mean():.2%}" for result in results.values()]
    print(as_table([("search", list(results)), *shown.items(), ("failed", failed)]))


if __name__ == "__main__":
    main()
