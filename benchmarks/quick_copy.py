"""What searching a quick copy gains at 224 x 224, how far it is from the model, and its memory.

For classifiers of torchvision with new weights and batch norms that do something, as ratios within
one run:

* evaluations (forward pass and input gradient) of the copy, and of other ways to run the model,
  over those of the model as it is, one right after the other, the median;
* the largest difference of a score and of a gradient from those in float64, over the largest entry;
* peak memory of a DeDUCE search over that of one bare evaluation of as many images, and how much a
  further active pair takes of each.

    python benchmarks/quick_copy.py --models resnet18 mobilenet_v2
    python benchmarks/quick_copy.py --compile
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from measuring import extra_mebibytes, replay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce import ClassGaussianMixture, DeDUCE
from captum_deduce.classifiers import FrozenModel, QuickCopy

Run = Callable[[Tensor], Tensor]


def lively(name: str, size: int) -> nn.Module:
    """A classifier whose batch norms have seen images, though none of this world."""
    torch.manual_seed(0)
    settings = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, num_classes=10, **settings)
    with torch.no_grad():
        model.train()(torch.rand(8, 3, size, size))
    return model.eval()


def pooled(model: nn.Module) -> nn.Module:
    """The last layer but one, by what it is: what the last linear layer takes."""
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    before = nn.Identity()
    for parent in model.modules():
        for name, part in parent.named_children():
            if part is last:
                setattr(parent, name, nn.Sequential(before, last))
                return before
    raise ValueError("no linear layer")


def evaluated(run: Run, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    scores = run(leaf)
    target = torch.zeros(len(images), dtype=torch.int64)
    loss = cross_entropy(scores.to(leaf), target, reduction="sum")
    return scores.detach(), torch.autograd.grad(loss, leaf)[0]


def half_precision(run: Run) -> Run:
    def cast(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return run(images)

    return cast


def evaluations(model: nn.Module, images: Tensor, seconds: float, compiling: bool) -> None:
    copied = QuickCopy(model, None, images[:2])
    ways: dict[str, Run] = {
        "the model": model,
        "the copy": copied,
        "the model, bfloat16": half_precision(model),
        "the copy, bfloat16": half_precision(copied),
    }
    if compiling:
        ways["the model, compiled"] = torch.compile(model)
        started = time.perf_counter()
        evaluated(ways["the model, compiled"], images)
        print(f"  compiled in {time.perf_counter() - started:.0f} s")
    exact = evaluated(copy.deepcopy(model).double(), images.double())
    off = {}
    for way, run in ways.items():
        pairs = zip(evaluated(run, images), exact, strict=True)
        off[way] = [float((ours - right).abs().max() / right.abs().max()) for ours, right in pairs]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for way, run in ways.items():
            taken[way].append(replay(lambda x, run=run: run(x).float(), images, [len(images)]))
    print(f"  {len(copied.folded)} batch norms folded; {len(taken['the model'])} rounds")
    for way, each in taken.items():
        ratio = median(a / b for a, b in zip(each, taken["the model"], strict=True))
        scores, gradient = off[way]
        print(
            f"  {way}: {ratio:.3f} of {1000 * median(taken['the model']):.0f} ms; scores off by "
            f"{scores:.1e}, gradients by {gradient:.1e}"
        )


def preparation(model: nn.Module, images: Tensor) -> None:
    """What making the copy costs, in evaluations of a single image."""
    with FrozenModel(model) as frozen:
        frozen(images[:1])
        started = time.perf_counter()
        frozen.use_quick_copy(images[:2])
        seconds = time.perf_counter() - started
    one = median(replay(model, images, [1]) for _ in range(5))
    print(f"  made in the time of {seconds / one:.1f} evaluations of one image")


def memory(model: nn.Module, images: Tensor) -> None:
    layer = pooled(model)
    with FrozenModel(model, layer) as frozen, torch.no_grad():
        features = frozen(images)[1]
    density = ClassGaussianMixture(covariance_type="diag")
    density.fit(features.mean(0) + torch.randn(200, features.shape[1]), torch.arange(200) % 10)
    explainer = DeDUCE(model, layer, density, max_iterations=3, confidence=1 - 1e-9)
    half = len(images) // 2

    def search(count: int) -> None:
        explainer.generate(images[:count], 3)

    def bare(count: int) -> None:
        replay(model, images, [count])

    found: dict[str, list[float]] = {}
    for name, optimized, work in (
        ("bare", False, bare),
        ("search of the model", False, search),
        ("search of the copy", True, search),
    ):
        explainer.optimize_model = optimized
        work(half)
        found[name] = [
            median(extra_mebibytes(work, count) for _ in range(3)) for count in (half, len(images))
        ]
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    print(f"  memory of {len(images)} pairs at once (the weights: {weights:.0f} MiB):")
    for name, (small, large) in found.items():
        each = (large - small) / (len(images) - half)
        ratio = large / found["bare"][1]
        print(f"  {name}: {large:.0f} MiB, {ratio:.2f} of bare; {each:.1f} MiB a further pair")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--images", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--size", type=int, default=224, help="their height and width")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing (default: 60)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--compile", action="store_true", help="compile the model as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}")
    for name in arguments.models:
        model = lively(name, arguments.size)
        images = torch.rand(arguments.images, 3, arguments.size, arguments.size)
        print(f"{name}, {arguments.images} x 3 x {arguments.size} x {arguments.size}:")
        evaluations(model, images, arguments.seconds, arguments.compile)
        preparation(model, images)
        memory(model, images)


if __name__ == "__main__":
    main()
