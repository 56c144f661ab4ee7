"""What float32 changes in a search, and how many digits densities keep of extreme features.

Searches: the first MNIST test images, each with the class after the predicted one as its target, on
the classifier that `captum-deduce demo --dataset mnist` caches, in float32 and in float64, with
the same weights and the same density. Pairs agree where the very same entries changed.

Densities: features of bad condition, few samples, tiny and huge numbers. Log-densities of training
samples and of others are held against mpmath, to 60 digits: those of the samples' own mean and
covariance, or where that was regularised, of the mean and the covariance that the density states.

    python benchmarks/numerics.py --checkpoint CACHED.safetensors --data-root DIR
    python benchmarks/numerics.py --only densities --json FILE
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mpmath
import torch
from torch import Tensor

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    Schut,
    Wachter,
)
from captum_deduce.datasets import load_mnist
from captum_deduce.reports.tables import markdown
from captum_deduce.zoo import Checkpoint, load_checkpoint

EXPLAINERS: dict[str, Callable[[Checkpoint], CounterfactualExplainer]] = {
    "DeDUCE": lambda found: DeDUCE(*_described(found)),
    "DeDUCE.paper": lambda found: DeDUCE.paper(*_described(found)),
    "DeDUCE.closest": lambda found: DeDUCE.closest(*_described(found)),
    "DeDUCE.sparsest": lambda found: DeDUCE.sparsest(*_described(found)),
    "DeDUCE.realistic": lambda found: DeDUCE.realistic(*_described(found)),
    "JSMA": lambda found: JSMA(found.model),
    "Schut": lambda found: Schut([found.model]),
    "Wachter": lambda found: Wachter(found.model),
}

# Entries that both changed differ by rounding alone, not by a step.
_SAME = 1e-4


def _described(found: Checkpoint) -> tuple[Any, str, Any]:
    return found.model, found.settings.layer, found.density


# --- searches in two precisions ---


@dataclass(frozen=True)
class Agreement:
    """How the results of float32 and of float64 compare.

    Args:
        explainer (str): Its name.
        pairs (int): Searched in both.
        found (tuple[int, int]): With success, in float32 and in float64.
        success_differs (int): Found in one of them only.
        same_entries (int): The very same entries changed.
        largest_difference (float): Of an entry among these pairs, in input units.
        differing (int): Other entries changed, or by another step.
        differing_found (int): Of these, found in both.
        l1 (tuple[float, float]): Mean and largest size of the difference of these pairs' L1
            distances; 0 without any.
        l1_mean (tuple[float, float]): Mean L1 distance of all pairs found in both, in float32 and
            in float64.
        confidence (tuple[float, float]): As ``l1``, of the target's probability.
    """

    explainer: str
    pairs: int
    found: tuple[int, int]
    success_differs: int
    same_entries: int
    largest_difference: float
    differing: int
    differing_found: int
    l1: tuple[float, float]
    l1_mean: tuple[float, float]
    confidence: tuple[float, float]


def compare(name: str, single: Counterfactuals, double: Counterfactuals) -> Agreement:
    gap = (single.counterfactuals.double() - double.counterfactuals).abs().flatten(1)
    changed = [(r.counterfactuals != r.inputs).flatten(1) for r in (single, double)]
    same = (changed[0] == changed[1]).all(1) & (gap.amax(1) <= _SAME)
    both = single.success & double.success
    l1 = (single.l1().double() - double.l1()).abs()[~same & both]
    confidence = (single.confidence.double() - double.confidence).abs()[~same & both]

    def mean_and_largest(values: Tensor) -> tuple[float, float]:
        return (values.mean().item(), values.max().item()) if len(values) else (0.0, 0.0)

    return Agreement(
        explainer=name,
        pairs=len(single),
        found=(int(single.success.sum()), int(double.success.sum())),
        success_differs=int((single.success != double.success).sum()),
        same_entries=int(same.sum()),
        largest_difference=gap[same].max().item() if same.any() else 0.0,
        differing=int((~same).sum()),
        differing_found=int((~same & both).sum()),
        l1=mean_and_largest(l1),
        l1_mean=(single.l1()[both].mean().item(), double.l1()[both].mean().item()),
        confidence=mean_and_largest(confidence),
    )


def searches(given: argparse.Namespace) -> list[Agreement]:
    single = load_checkpoint(given.checkpoint)
    double = Checkpoint(copy.deepcopy(single.model).double(), single.density, single.settings)
    images = load_mnist(given.data_root).test.images[: given.images]
    with torch.no_grad():
        target = (double.model(images.double()).argmax(1) + 1) % 10
    found = []
    for name in given.explainers or EXPLAINERS:
        build = EXPLAINERS[name]
        results = [
            build(checkpoint).generate(
                inputs, target, internal_batch_size=given.batch_size, show_progress=False
            )
            for checkpoint, inputs in ((single, images), (double, images.double()))
        ]
        found.append(compare(name, *results))
        print(asdict(found[-1]), flush=True)
    return found


def search_table(rows: Sequence[Agreement]) -> str:
    return markdown(
        [
            ("explainer", [row.explainer for row in rows]),
            ("same entries", [f"{row.same_entries}/{row.pairs}" for row in rows]),
            ("by at most", [f"{row.largest_difference:.1g}" for row in rows]),
            ("found (32, 64)", ["{}, {}".format(*row.found) for row in rows]),
            ("found in one only", [str(row.success_differs) for row in rows]),
            ("differ, found in both", [str(row.differing_found) for row in rows]),
            ("their L1 by (mean, most)", ["{:.2g}, {:.2g}".format(*row.l1) for row in rows]),
            ("their p(target) by", ["{:.2g}, {:.2g}".format(*row.confidence) for row in rows]),
            ("mean L1 (32, 64)", ["{:.3f}, {:.3f}".format(*row.l1_mean) for row in rows]),
        ]
    )


# --- densities of extreme features ---


@dataclass(frozen=True)
class Digits:
    """How right a density is.

    Args:
        case (str): What the features are.
        covariance_type (str): Of the density, and its regularisation where that is not "auto".
        condition (float): Of the samples' covariance, the worst class's.
        warned (bool): Whether the fit warned.
        message (str): What it said; empty where it did not.
        regularised (float): Largest amount added, in units of trace / D; infinite: replaced.
        error (float): Largest error over samples and classes, in units of the log-density or of
            one nat, whichever is larger.
    """

    case: str
    covariance_type: str
    condition: float
    warned: bool
    message: str
    regularised: float
    error: float


_D = 6


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Features of three classes and their labels."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    labels = torch.arange(180) % 3
    turn = torch.linalg.qr(drawn(_D, _D)).Q
    plain = drawn(180, _D) + 3 * drawn(3, _D)[labels]

    def stretched(power: float) -> Tensor:
        return (plain * 10 ** torch.linspace(0, -power, _D)) @ turn.T

    twice, constant, nearly = plain.clone(), plain.clone(), plain.clone()
    twice[:, 5], constant[:, 5] = twice[:, 0], 0.5
    nearly[:, 5] = nearly[:, 0] + 1e-7 * nearly[:, 5]
    units = plain * 10.0 ** torch.linspace(-8, 8, _D)
    few = {count: torch.arange(180) < 3 * count for count in (3, _D, _D + 1, 2 * _D)}
    single = (labels != 2) | (torch.arange(180) == 2)
    return {
        "well-conditioned": (plain, labels),
        "condition 1e6": (stretched(3), labels),
        "condition 1e10": (stretched(5), labels),
        "condition 1e12": (stretched(6), labels),
        "condition 1e16": (stretched(8), labels),
        "condition 1e24": (stretched(12), labels),
        "features from 1e-8 to 1e8": (units, labels),
        "all features 1e-8": (plain * 1e-8, labels),
        "all features 1e8": (plain * 1e8, labels),
        "all features 1e-30": (plain * 1e-30, labels),
        "all features 1e30": (plain * 1e30, labels),
        "means 1e8 deviations from 0": (plain + 1e8, labels),
        "means 1e8 deviations apart": (plain + 1e8 * labels.unsqueeze(1), labels),
        "a feature twice": (twice, labels),
        "a feature twice but for 1e-7": (nearly, labels),
        "a constant feature": (constant, labels),
        **{f"{n} samples a class": (plain[rows], labels[rows]) for n, rows in few.items()},
        "a class of one sample": (plain[single], labels[single]),
        "a class without samples": (plain[labels != 1], labels[labels != 1]),
    }


def exact_covariance(features: Tensor, labels: Tensor, index: int, kind: str) -> mpmath.matrix:
    """Unbiased covariance, of a class or of all about their own means."""
    classes = [index] if kind != "tied" else sorted(set(labels.tolist()))
    total, free = mpmath.zeros(features.shape[1]), 0
    for c in classes:
        rows = mpmath.matrix(features[labels == c].tolist())
        ones = mpmath.ones(rows.rows, 1)
        centred = rows - ones * exact_mean(features, labels, c).T
        total += centred.T * centred
        free += rows.rows - 1
    covariance = total / free
    if kind == "diag":
        covariance = mpmath.diag([covariance[k, k] for k in range(covariance.rows)])
    return covariance


def exact_mean(features: Tensor, labels: Tensor, index: int) -> mpmath.matrix:
    rows = mpmath.matrix(features[labels == index].tolist())
    return (mpmath.ones(1, rows.rows) * rows / rows.rows).T


def exact_log_density(
    points: Tensor, mean: mpmath.matrix, covariance: mpmath.matrix
) -> list[mpmath.mpf]:
    lower = mpmath.cholesky(covariance)
    volume = 2 * sum(mpmath.log(lower[k, k]) for k in range(lower.rows))
    constant = lower.rows * mpmath.log(2 * mpmath.pi) + volume
    found = []
    for point in points.tolist():
        coordinates = mpmath.lu_solve(lower, mpmath.matrix(point) - mean)
        found.append(-(constant + sum(x**2 for x in coordinates)) / 2)
    return found


def digits(
    case: str, features: Tensor, labels: Tensor, kind: str, regularization: str = "auto"
) -> Digits:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        density = ClassGaussianMixture(kind, regularization=regularization, num_classes=3)
        density.fit(features, labels)
    spread = features.std(0)
    points = torch.cat([features[:4], features[4:8] + spread])
    present = density.fitted_classes.nonzero().flatten().tolist()
    amount = density.regularization_used
    error, condition = 0.0, 0.0
    for index in present:
        mean = exact_mean(features, labels, index)
        if float(amount[index]) > 0:
            stated = density.covariance(index)
            covariance = mpmath.matrix((torch.diag(stated) if kind == "diag" else stated).tolist())
        else:
            covariance = exact_covariance(features, labels, index, kind)
            values = mpmath.eigsy(covariance, eigvals_only=True)
            condition = max(condition, float(max(values) / min(values)))
        exact = exact_log_density(points, mean, covariance)
        for ours, theirs in zip(density.log_prob(points, index).tolist(), exact, strict=True):
            error = max(error, float(abs(mpmath.mpf(ours) - theirs) / max(1, abs(theirs))))
    message = str(caught[0].message) if caught else ""
    largest = float(amount[torch.tensor(present)].max())
    named = kind if regularization == "auto" else f"{kind}, {regularization}"
    return Digits(case, named, condition, bool(caught), message, largest, error)


KINDS = (("full", "auto"), ("full", "jitter"), ("tied", "auto"), ("diag", "auto"))
"""Covariance types, and what may be done to them."""


def densities() -> list[Digits]:
    mpmath.mp.dps = 60
    return [digits(case, *found, *kind) for case, found in cases().items() for kind in KINDS]


def density_table(rows: Sequence[Digits]) -> str:
    return markdown(
        [
            ("features", [row.case for row in rows]),
            ("covariance", [row.covariance_type for row in rows]),
            ("condition", [f"{row.condition:.0e}" if row.condition else "-" for row in rows]),
            ("warns", ["yes" if row.warned else "no" for row in rows]),
            ("regularised by", [f"{row.regularised:.2g}" for row in rows]),
            ("error", [f"{row.error:.0e}" for row in rows]),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("searches", "densities"), help="(default: both)")
    parser.add_argument("--checkpoint", type=Path, help="a trained MNIST classifier with a density")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--explainers", nargs="+", choices=tuple(EXPLAINERS), help="(default: all)")
    parser.add_argument("--images", type=int, default=30, help="test images (default: 30)")
    parser.add_argument("--batch-size", type=int, default=30, help="active pairs (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args(argv)
    if given.only != "densities" and given.checkpoint is None:
        parser.error("searches need a --checkpoint")
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.threads} threads")
    content: dict[str, Any] = {"torch": torch.__version__}
    if given.only != "searches":
        rows = densities()
        content["densities"] = [asdict(row) for row in rows]
        print(density_table(rows))
    if given.only != "densities":
        found = searches(given)
        content["searches"] = [asdict(row) for row in found]
        print(search_table(found))
    if given.json is not None:
        given.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
