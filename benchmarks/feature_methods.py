"""PIECE and PatchSwap: how many they find, how real that is, and what they cost beyond the model.

On an MNIST classifier (by default the one that ``captum-deduce demo --dataset mnist`` has cached)
and 20 test images x 9 targets. PIECE has the VAE of ``captum-deduce train --model vae``, which is
trained where it is not cached (minutes), and hurdle models of the training images; PatchSwap the
first 20 training images of each class as distractors.

For each setting: pairs found; evaluations with a gradient and forward passes a pair. With
``--time`` the wall time of the search over that of as many bare passes, made right before each of
the search's own, in its very batches: for PIECE one of decoder, classifier and the gradient with
respect to the latents, for PatchSwap one of the whole model or of its last part. With ``--quality``
IM1 and NN-Dist, the distance in the classifier's features to the nearest training image, which need
an autoencoder for each class (minutes); with ``--memory`` what a search takes with ten times the
steps.

    python benchmarks/feature_methods.py --checkpoint mnist.safetensors --method piece
    python benchmarks/feature_methods.py --checkpoint mnist.safetensors --method patch-swap
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import extra_mebibytes
from speed import all_pairs
from torch import Tensor, nn

from captum_deduce import (
    PIECE,
    ClassHurdles,
    CounterfactualExplainer,
    Counterfactuals,
    PatchSwap,
    remove_spectral_normalization,
)
from captum_deduce.classifiers import FrozenModel
from captum_deduce.datasets import Splits, load_mnist
from captum_deduce.explainers.piece import FeatureDescent
from captum_deduce.metrics import IM1
from captum_deduce.models import Autoencoder
from captum_deduce.search import Problem
from captum_deduce.training import train_class_autoencoders
from captum_deduce.zoo import RECONSTRUCTIONS, Checkpoint, load_checkpoint, obtain_reconstruction

DISTRACTORS = 20
"""Training images of each class that cells may come from."""


def piece(
    checkpoint: Checkpoint, splits: Splits, seed: int
) -> Iterator[tuple[str, CounterfactualExplainer]]:
    """PIECE, as published and with longer steps."""
    model = checkpoint.model
    started = time.perf_counter()
    hurdles = ClassHurdles.fit_loader(model, model.avgpool, splits.train.batches(500))
    print(f"hurdle models of {len(splits.train)} images: {time.perf_counter() - started:.1f} s")
    vae = obtain_reconstruction(
        "vae", "mnist", splits, RECONSTRUCTIONS["vae"]["mnist"], seed, torch.device("cpu"), None
    )
    for alpha in (0.001, 0.05, 0.2):
        yield f"alpha {alpha:g}", PIECE(model, model.avgpool, hurdles, vae, alpha=alpha)
    settings: dict[str, Any] = {"alpha": 0.2, "learning_rate": 0.05}
    yield (
        "alpha 0.2, steps of .05",
        PIECE(model, model.avgpool, hurdles, vae, **settings),
    )
    yield (
        "alpha 0.2, steps of .05, first",
        PIECE(model, model.avgpool, hurdles, vae, select="first", **settings),
    )


def patch_swap(
    checkpoint: Checkpoint, splits: Splits, seed: int
) -> Iterator[tuple[str, CounterfactualExplainer]]:
    """PatchSwap on 4 x 4 and on 7 x 7 cells."""
    model, train = checkpoint.model, splits.train
    rows = torch.cat([(train.target == c).nonzero()[:DISTRACTORS, 0] for c in range(10)])
    images, labels = train.images[rows], train.target[rows]
    for name in ("stages.3", "stages.2"):
        for said, settings in (
            ("", {}),
            (", 5 distractors", {"num_distractors": 5}),
            (", until features", {"until": "features"}),
        ):
            yield f"{name}{said}", PatchSwap(model, name, images, labels, **settings)


@contextmanager
def bare_times(piece: PIECE | None, model: nn.Module) -> Iterator[list[float]]:
    """Make a bare pass before each of a search's own; note the seconds that they take."""
    seconds = [0.0]
    evaluate, forward, from_layer = FeatureDescent.evaluate, Problem.forward, FrozenModel.from_layer

    def beside(work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        seconds[0] += time.perf_counter() - started

    def descend(self: FeatureDescent, state: dict[str, Tensor], pairs: list[int]) -> Any:
        def bare() -> None:
            latents = state["latents"].detach().clone().requires_grad_()
            scores = model(self.space.decode(latents))
            torch.autograd.grad(scores.logsumexp(1).sum(), latents)

        beside(bare)
        return evaluate(self, state, pairs)

    def whole(self: Problem, images: Tensor, state: dict[str, Tensor]) -> Any:
        with torch.no_grad():
            beside(lambda: model(images))
        return forward(self, images, state)

    def rest(self: FrozenModel, features: Tensor, *arguments: Any) -> Tensor:
        if self._quick is not None:  # the model itself runs the copy's
            with torch.no_grad():
                again = features.clone()
                beside(lambda: tail(model, again.view(len(again), *self.layer_shape)))
        return from_layer(self, features, *arguments)

    def tail(model: nn.Module, maps: Tensor) -> Tensor:
        if maps.shape[1] < model.fc.in_features:
            maps = model.stages[3](maps)
        return model.fc(model.avgpool(maps).flatten(1))

    with mock.patch.object(FeatureDescent, "evaluate", descend):
        if piece is not None:
            yield seconds
            return
        with (
            mock.patch.object(Problem, "forward", whole),
            mock.patch.object(FrozenModel, "from_layer", rest),
        ):
            yield seconds


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad(), FrozenModel(model, model.avgpool) as frozen:
        return torch.cat([frozen(part)[1] for part in images.split(500)])


def quality(
    checkpoint: Checkpoint, splits: Splits, seed: int
) -> dict[str, Callable[[Counterfactuals], Tensor]]:
    """IM1, and NN-Dist to the training images that the model puts into the target class, or any."""
    autoencoders = [Autoencoder() for _ in range(10)]
    started = time.perf_counter()
    train_class_autoencoders(
        autoencoders, splits.train.images, splits.train.target, epochs=3, seed=seed
    )
    print(f"autoencoders of the classes: {time.perf_counter() - started:.0f} s")
    known = features_of(checkpoint.model, splits.train.images)

    def nearest(result: Counterfactuals) -> Tensor:
        found = features_of(checkpoint.model, result.counterfactuals)
        return torch.stack([torch.cdist(found, part).amin(1) for part in known.split(5000)]).amin(0)

    return {"IM1": IM1(autoencoders), "NN-Dist": nearest}


def report(
    name: str,
    explainer: CounterfactualExplainer,
    model: nn.Module,
    pairs: tuple[Tensor, Tensor],
    given: argparse.Namespace,
    metrics: dict[str, Callable[[Counterfactuals], Tensor]],
) -> None:
    beside = bare_times(explainer if isinstance(explainer, PIECE) else None, model)
    with beside if given.time else nullcontext([0.0]) as bare:
        started = time.perf_counter()
        if isinstance(explainer, PatchSwap):
            swaps = explainer.swaps(*pairs, internal_batch_size=given.batch_size)
            result = swaps.result
        else:
            result = explainer.generate(*pairs, internal_batch_size=given.batch_size)
        seconds = time.perf_counter() - started - bare[0]
    found = result[result.success & ~result.already]
    said = {key: f"{metric(found).double().mean():.3f}" for key, metric in metrics.items()}
    if isinstance(explainer, PatchSwap):
        edits = swaps.edits[swaps.result.success].double().mean()
        flipped = swaps.feature_edits[swaps.feature_success].double().mean()
        said |= {
            "cells": f"{edits:.2f}",
            "at the features": f"{int(swaps.feature_success.sum())} with {flipped:.2f} cells",
        }
    print(
        f"{name}: {int(result.success.sum())} of {len(result)} found, L0 "
        f"{found.l0().double().mean():.1f}, L1 {found.l1().mean():.2f}; "
        f"{result.evaluations.double().mean():.1f} gradients and "
        f"{result.forward_evaluations.double().mean():.1f} forward passes a pair; "
        f"{seconds:.1f} s"
        + (f", wall / bare {seconds / bare[0]:.3f}; " if given.time else "; ")
        + ", ".join(f"{key} {value}" for key, value in said.items()),
        flush=True,
    )


def memory(name: str, explainer: CounterfactualExplainer, images: Tensor) -> None:
    """Of a search whose confidence is out of reach."""
    taken = [
        extra_mebibytes(explainer.generate, images, 3, confidence=1 - 1e-12, max_iterations=steps)
        for steps in ((3, 3, 30) if isinstance(explainer, PatchSwap) else (30, 30, 300))
    ]
    print(
        f"{name}: memory of {len(images)} pairs {taken[1]:.0f} MiB, 10 x steps {taken[2]:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = {"piece": piece, "patch-swap": patch_swap}
    parser.add_argument("--method", choices=methods, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained MNIST classifier")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--images", type=int, default=20, help="test images (default: 20)")
    parser.add_argument("--batch-size", type=int, default=100, help="active pairs (default: 100)")
    parser.add_argument("--settings", nargs="+", default=[""], help="beginnings of their names")
    parser.add_argument("--time", action="store_true", help="measure bare passes beside")
    parser.add_argument("--quality", action="store_true", help="measure IM1 and NN-Dist")
    parser.add_argument("--memory", action="store_true", help="measure the memory of a search")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of what is trained (default: 0)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    splits = load_mnist(given.data_root)
    checkpoint = load_checkpoint(given.checkpoint)
    print(f"torch {torch.__version__}, {given.threads} threads, {platform.machine()}")
    print(f"classifier: {checkpoint.settings}")
    images, labels = splits.test.images[: given.images], splits.test.target[: given.images]
    metrics = quality(checkpoint, splits, given.seed) if given.quality else {}
    plain = remove_spectral_normalization(load_checkpoint(given.checkpoint).model).eval()
    for name, explainer in methods[given.method](checkpoint, splits, given.seed):
        if not name.startswith(tuple(given.settings)):
            continue
        explainer.generate(images[:2], 3, max_iterations=1)  # warms up
        report(name, explainer, plain, all_pairs(images, labels), given, metrics)
        if given.memory:
            memory(name, explainer, images)


if __name__ == "__main__":
    main()
