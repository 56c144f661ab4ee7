"""What limits the AnoGAN score of near counterfactuals: a search that is told the score.

``DeDUCE.realistic`` on the classifier trained with noise, then a descent from its images on the L1
distance plus a weight times the AnoGAN loss itself, the latents of the very generator that will
score moving along; it keeps the goal of ``realistic`` (confidence and density). No explainer may
know its judge: this one does, to see what the judge would let it reach. In the generator's place
the total variation of the image can be made small (``--prior variation``): what smoothness alone
can do. On the pairs that ``quality.py --anogan 40`` scores:

    python benchmarks/anogan_limit.py --data-root DIR
    python benchmarks/anogan_limit.py --data-root DIR --most-changes 60
    python benchmarks/anogan_limit.py --data-root DIR --prior variation --weights 0.1 0.3
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import trange

from captum_deduce import datasets
from captum_deduce.classifiers import FrozenModel
from captum_deduce.experiments.methods import evenly_among, make_anogan
from captum_deduce.experiments.plan import SIZES, Cases, every_target
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import Oracle
from captum_deduce.metrics.latent_descent import Objective
from captum_deduce.models import WGAN
from captum_deduce.reports import table as as_table
from captum_deduce.search import target_log_probability
from captum_deduce.zoo import make_explainer

VISIBLE = 1 / 255
"""Smaller changes vanish in an 8-bit image."""
RATE, LATENT_RATE = 0.02, 0.1
"""Adam's steps for images and latents; they shrink to a twentieth."""
EARLY = 0.3
"""The share of the steps in which latents move alone, and at whose double the changes are few."""


class Judgement(NamedTuple):
    """How far images are beyond the goal; both parts are negative where it is missed."""

    margin: Tensor
    density: Tensor

    @property
    def reached(self) -> Tensor:
        """Which images are at the goal, bool."""
        return (self.margin > 0) & (self.density >= 0)

    @property
    def penalty(self) -> Tensor:
        """Smooth, and small as soon as both are somewhat beyond the goal."""
        return softplus(0.05 - self.margin) + 0.5 * softplus(-10 * self.density)


def variation(images: Tensor) -> Tensor:
    """Sum the differences of neighbours, rounded off at 0, for each image."""
    steps = [images.diff(dim=dimension).square().add(1e-3).sqrt() for dimension in (2, 3)]
    return torch.stack([step.flatten(1).sum(1) for step in steps]).sum(0)


def distance(images: Tensor, originals: Tensor) -> Tensor:
    return (images - originals).abs().flatten(1).sum(1)


def keep_largest(change: Tensor, count: int) -> Tensor:
    """Undo all changes of an image but its ``count`` largest."""
    size = change.abs().flatten(1)
    least = size.topk(min(count, size.shape[1])).values[:, -1]
    return change * (change.abs() >= least.view(-1, 1, 1, 1))


def descend(
    start: Tensor,
    originals: Tensor,
    judge: Callable[[Tensor], Judgement],
    prior: Callable[[Tensor], Tensor],
    latents: Tensor,
    weight: float,
    most_changes: int,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Make distance plus weighted prior small, and keep the goal.

    Returns:
        tuple[Tensor, Tensor]: The best images that reach it, and for each whether there was one;
        else it is the start.
    """
    change = (start - originals).requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [change]}, {"params": [latents.requires_grad_()]}], betas=(0.9, 0.99)
    )
    best, lowest = start.clone(), torch.full((len(start),), math.inf)
    multiplier = torch.full((len(start),), 10.0)
    alone, few = int(EARLY * steps), int(2 * EARLY * steps)
    for step in trange(steps, desc=f"weight {weight:g}", leave=False):
        left = 1 - step / steps + 0.05
        optimizer.param_groups[0]["lr"] = RATE * left if step >= alone else 0.0
        optimizer.param_groups[1]["lr"] = LATENT_RATE * left
        images = originals + change
        found = judge(images)
        loss = distance(images, originals) + weight * prior(images)
        if step >= (few if most_changes else alone):
            better = found.reached.detach() & (loss.detach() < lowest)
            best[better], lowest[better] = images[better].detach(), loss[better].detach()
        if step >= alone:
            multiplier *= torch.where(found.reached, 0.93, 1.07)
        optimizer.zero_grad()
        (loss + multiplier * found.penalty).sum().backward()
        optimizer.step()
        with torch.no_grad():
            change.copy_((originals + change).clamp(0, 1) - originals)
            if most_changes and step >= alone:
                done = min(1.0, (step - alone) / max(few - alone, 1))
                entries = change[0].numel()
                change.copy_(
                    keep_largest(change, round(entries * (most_changes / entries) ** done))
                )
    best = torch.where((best - originals).abs() < VISIBLE, originals, best)
    return best, lowest.isfinite()


def generator_prior(wgan: WGAN, latents: Tensor, feature_weight: float) -> Callable:
    objective = Objective(wgan.generate, wgan.features, feature_weight)
    return lambda images: objective.losses(latents, images, objective.features(images))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="the folder of MNIST")
    parser.add_argument("--images", type=int, default=100, help="each with all other classes (100)")
    parser.add_argument("--pairs", type=int, default=40, help="of these, evenly (40)")
    parser.add_argument("--prior", choices=("generator", "variation"), default="generator")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.25, 0.35, 0.5, 1.0])
    parser.add_argument(
        "--most-changes", type=int, default=0, help="entries that may differ (0: any number)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of the descent (1000)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    size = SIZES["default"]
    models = Trained(
        size,
        datasets.load(size.dataset, arguments.data_root, seed=size.seed),
        torch.device("cpu"),
        show_progress=True,
    )
    every = every_target(models.splits.test, 1, arguments.images)
    pairs: Cases = every[evenly_among(torch.ones(len(every), dtype=torch.bool), arguments.pairs)]
    explainer = make_explainer(models.noise_trained, "realistic")
    start = explainer.generate(pairs.inputs, pairs.target)
    oracle, wgan = Oracle(models.oracles), models.wgan.requires_grad_(False)
    anogan = make_anogan(wgan, size.anogan, size.seed)
    least = explainer.density.quantile(explainer.density_quantile)[pairs.target]
    confident = math.log(explainer.confidence / (1 - explainer.confidence))
    # Other draws than those at which the score begins.
    draws = torch.randn(2000, wgan.latent_size, generator=torch.Generator().manual_seed(10**6))
    nearest = Objective(wgan.generate, wgan.features, anogan.feature_weight).nearest

    rows = []

    def measure(name: str, images: Tensor, found: Tensor) -> None:
        change = (images - pairs.inputs)[found].flatten(1)
        agreed = oracle.agreement(images[found], pairs.target[found])
        rows.append(
            [
                name,
                f"{(change != 0).double().sum(1).mean():.1f}",
                f"{change.abs().sum(1).mean():.1f}",
                f"{agreed.mean():.3f}",
                f"{anogan.score(images[found]).mean():.1f}",
                f"{int(found.sum())}",
            ]
        )

    measure("DeDUCE.realistic", start.counterfactuals, start.success)
    with FrozenModel(explainer.forward_func, explainer.layer, [wgan]) as frozen:

        def judge(images: Tensor) -> Judgement:
            scores, features = frozen(images)
            log_p = target_log_probability(scores, pairs.target)
            density = explainer.density.log_prob(features, pairs.target)
            log_rest = torch.log1p(-log_p.exp().clamp(max=1 - 1e-7))
            return Judgement(log_p - log_rest - confident, (density - least) / least.abs())

        for weight in arguments.weights:
            latents = nearest(start.counterfactuals, draws, 1, 128)[:, 0].clone()
            prior = variation
            if arguments.prior == "generator":
                prior = generator_prior(wgan, latents, anogan.feature_weight)
            images, found = descend(
                start.counterfactuals,
                pairs.inputs,
                judge,
                prior,
                latents,
                weight,
                arguments.most_changes,
                arguments.steps,
            )
            measure(f"{arguments.prior}, weight {weight:g}", images, found & start.success)
    names = ("search", "L0", "L1", "oracles agree", "AnoGAN", "found")
    print("\n" + as_table(list(zip(names, zip(*rows, strict=True), strict=True))))


if __name__ == "__main__":
    main()
