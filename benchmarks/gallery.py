"""The pictures of the documentation's page "What it looks like".

Pairs are drawn at random, and no pair is left out. On MNIST the classifiers, autoencoder, VAE and
oracles are those of ``captum-deduce reproduce``: read from the cache, or trained first, which takes
an hour on two cores. Photographs need the packages that ``real.py`` names; without them, that
picture is left out.

    python benchmarks/gallery.py --data-root DIR
    python benchmarks/gallery.py --data-root DIR --only realistic search
"""

from __future__ import annotations

import argparse
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import real
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_deduce import Counterfactuals, DeDUCE, PatchSwap, Polish, datasets
from captum_deduce.experiments import figures
from captum_deduce.experiments.plan import SIZES, Cases, every_target
from captum_deduce.experiments.runs import Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import Oracle
from captum_deduce.visualization import (
    CHANGE_COLORS,
    new_figure,
    own_style,
    plot_swaps,
    save_animation,
    strongest,
)
from captum_deduce.zoo import make_explainer

DPI = 100
"""Of tiled pictures, which are laid out in screen pixels."""

EXCERPT = 288
"""Height in pixels of what the start page shows of ``realistic``: its first two rows."""


class Gallery:
    """What the pictures are made of, each part when it is first asked for.

    Args:
        data_root (str or None): Where MNIST lies.
        runs (Path): Where the searches of the paper's figures are kept.
        seed (int): Of what is drawn at random.
    """

    def __init__(self, data_root: str | None, runs: Path, seed: int) -> None:
        self.data_root = data_root
        self.seed = seed
        self.store = Store(runs, torch.device("cpu"))

    @cached_property
    def models(self) -> Trained:
        """The models of ``captum-deduce reproduce``."""
        splits = datasets.load("mnist", self.data_root, seed=0)
        return Trained(SIZES["default"], splits, torch.device("cpu"), show_progress=False)

    @cached_property
    def oracle(self) -> Oracle:
        """Two small classifiers that no search knows."""
        return Oracle(self.models.oracles)

    def cases(self, count: int) -> Cases:
        """Draw pairs of the first 100 test images and the nine other classes of each."""
        every = every_target(self.models.splits.test, 1, 100)
        source = torch.Generator().manual_seed(self.seed)
        return every[torch.randperm(len(every), generator=source)[:count]]

    def realistic(self, cases: Cases, **settings: Any) -> Counterfactuals:
        """Search with the preset on the classifier that was trained with noise."""
        explainer = make_explainer(self.models.noise_trained, "realistic", **settings)
        arguments = {"return_trajectory": True} if len(cases) == 1 else {}
        return explainer.generate(cases.inputs, cases.target, **arguments)


@dataclass(frozen=True)
class Tile:
    """An image with a line above it.

    Args:
        image (NDArray): Height x width (x 3), from 0 to 1, or signed changes.
        title (str): The line.
        limit (float or None): The change that has the full colour; None: the image is no change.
    """

    image: NDArray[np.float64]
    title: str
    limit: float | None = None


@own_style()
def tiled(
    rows: Sequence[Sequence[Tile]], side: int, names: Sequence[str] = (), together: int = 1
) -> Figure:
    """Lay out tiles of a width in pixels, each row with its name at the left where it has one.

    After every ``together`` tiles the gap is wider.
    """
    gap, line = 8, 20
    left = gap + max((7 * len(name) for name in names), default=0)
    lefts = [
        left + column * (side + gap) + (column // together if together > 1 else 0) * 2 * gap
        for column in range(max(map(len, rows)))
    ]
    width, height = lefts[-1] + side + gap, len(rows) * (side + line + gap) + gap
    figure = new_figure(width / DPI, height / DPI)
    for number, row in enumerate(rows):
        bottom = height - (number + 1) * (side + line + gap)
        for column, tile in enumerate(row):
            place = (lefts[column], bottom, side, side)
            axes = figure.add_axes(tuple(np.divide(place, [width, height] * 2)))
            scale: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
            if tile.limit is not None:
                scale = {"cmap": CHANGE_COLORS, "vmin": -tile.limit, "vmax": tile.limit}
            axes.imshow(tile.image, interpolation="nearest", **scale)
            axes.set_title(tile.title, fontsize=8.5, pad=4, parse_math=False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.7")
            if names and column == 0:
                axes.set_ylabel(names[number], rotation=0, ha="right", va="center", fontsize=9)
    return figure


def counted(number: int, of: int) -> str:
    return f"{number} of {of} oracles"


def realistic(gallery: Gallery) -> Figure:
    """Sixteen pairs: original, counterfactual, change; two pairs a row."""
    cases = gallery.cases(16)
    result = gallery.realistic(cases)
    agreement = gallery.oracle(result)
    of = len(gallery.models.oracles)
    changes = strongest_changes(result)
    limit = float(np.abs(changes).max())
    triples = []
    for place, pair in enumerate(result):
        seen, goal = int(pair.prediction[0]), int(pair.target[0])
        told = counted(round(float(agreement[place]) * of), of) if pair.success[0] else "failed"
        triples.append(
            [
                Tile(pair.inputs[0, 0].double().numpy(), f"{seen}"),
                Tile(pair.counterfactuals[0, 0].double().numpy(), f"to {goal}: {told}"),
                Tile(changes[place], f"{int(pair.l0()[0])} pixels", limit),
            ]
        )
    print(f"realistic: {told_of(result, agreement)}")
    rows = [left + right for left, right in zip(triples[::2], triples[1::2], strict=True)]
    return tiled(rows, 112, together=3)


def strongest_changes(result: Counterfactuals) -> NDArray[np.float64]:
    """Of each site the largest change of a channel, N x height x width."""
    return strongest(result.attributions.double().numpy())


def told_of(result: Counterfactuals, agreement: Tensor) -> str:
    found = result.success
    agreed, l0, l1 = (each[found].double().mean() for each in (agreement, result.l0(), result.l1()))
    return (
        f"{int(found.sum())} of {len(result)} found, oracle agreement {agreed:.1%}, "
        f"mean L0 {l0:.1f}, mean L1 {l1:.1f}"
    )


def polished(gallery: Gallery) -> Figure:
    """Twelve pairs: original, ``realistic``, and the same polished with two settings."""
    cases = gallery.cases(12)
    settings: dict[str, dict[str, Any]] = {
        "realistic": {},
        "polished": {"polish": Polish()},
        "smoother": {"polish": Polish(variation=0.4, steps=200)},
    }
    results = {name: gallery.realistic(cases, **each) for name, each in settings.items()}
    for name, result in results.items():
        print(f"{name}: {told_of(result, gallery.oracle(result))}")
    rows, names = [], []
    for part in torch.split(torch.arange(12), 6):
        titles = [f"to {goal}" for goal in cases.target[part].tolist()]
        rows.append(
            [
                Tile(x[0].double().numpy(), t)
                for x, t in zip(cases.inputs[part], titles, strict=True)
            ]
        )
        names += ["original", *results]
        for result in results.values():
            shown = zip(result.counterfactuals[part], result.success[part].tolist(), strict=True)
            rows.append([Tile(x[0].double().numpy(), "" if ok else "failed") for x, ok in shown])
    return tiled(rows, 100, names)


def swaps(gallery: Gallery) -> Figure:
    """Four pairs: parts of real images in the original's places."""
    models, cases = gallery.models, gallery.cases(4)
    train = models.splits.train
    explainer = PatchSwap(
        models.normalised.model,
        "stages.2",
        train.images[:2000],
        train.target[:2000],
        num_distractors=3,
    )
    found = explainer.swaps(cases.inputs, cases.target)
    print(found, told_of(found.result, gallery.oracle(found.result)))
    return plot_swaps(found, image_size=1.5)


def search(gallery: Gallery) -> bytes:
    """Film the search for the first pair of :func:`realistic`."""
    result = gallery.realistic(gallery.cases(1))
    checkpoint = gallery.models.noise_trained
    with tempfile.TemporaryDirectory() as folder:
        written = save_animation(
            result,
            0,
            Path(folder) / "search.gif",
            checkpoint.model,
            checkpoint.settings.layer,
            checkpoint.density,
            max_frames=45,
            image_size=1.7,
        )
        return written.read_bytes()


def photographs(gallery: Gallery) -> Figure | None:
    """Two photographs of 224 x 224 pixels, each with two searches."""
    if lacking := real.missing():
        print(f"photographs: left out, this environment lacks {', '.join(lacking)}")
        return None
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.DEFAULT.meta["categories"]
    model = real.Lite(0).eval().requires_grad_(False)
    crops = real.photographs(model.side, crops=16)
    labels = torch.tensor(list(real.PHOTOS.values())).repeat_interleave(16)
    layer = model.net._avg_pooling
    density = real.fitted(model, layer, list(zip(crops.split(16), labels.split(16), strict=True)))
    images, target = real.pairs(model.side)
    source = torch.Generator().manual_seed(gallery.seed)
    drawn = torch.randperm(len(images), generator=source)[:2]
    few: dict[str, Any] = {"pixel": "patch", "patch_size": 16, "max_iterations": 100}
    searches = {
        "closest": DeDUCE.closest(model, layer, density, max_iterations=100),
        "sparsest, squares": DeDUCE.sparsest(model, layer, density, **few),
    }
    oracle = Oracle([real.Lite(number).eval() for number in (1, 2)])
    rows = []
    results = {name: each.generate(images[drawn], target[drawn]) for name, each in searches.items()}
    for name, result in results.items():
        print(f"{name}: {told_of(result, oracle(result))}, largest {result.linf().tolist()}")
    for place in range(len(drawn)):
        for name, result in results.items():
            rows.append(list(_photograph(name, result[place], names)))
    return tiled(rows, real.SIDES[0])


def _photograph(name: str, pair: Counterfactuals, names: Sequence[str]) -> Iterator[Tile]:
    seen, goal = names[int(pair.prediction[0])], names[int(pair.target[0])]
    yield Tile(pair.inputs[0].movedim(0, -1).double().numpy(), seen)
    outcome = f"{float(pair.confidence[0]):.0%}" if pair.success[0] else "failed"
    yield Tile(pair.counterfactuals[0].movedim(0, -1).double().numpy(), f"{goal} ({outcome})")
    change = enlarged(strongest_changes(pair)[0])
    limit = float(pair.linf()[0])
    yield Tile(change, f"{name}: up to {limit:.2f}", limit)


def enlarged(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give each changed pixel the size of 3 x 3, the larger change on top."""
    change = torch.from_numpy(change)[None, None]
    up, down = (torch.nn.functional.max_pool2d(s * change, 3, 1, 1) for s in (1, -1))
    return torch.where(up >= down, up, -down)[0, 0].numpy()


def paper(draw: Callable[[Trained, Store], Any]) -> Callable[[Gallery], Figure]:
    """A figure as ``captum-deduce reproduce`` draws it, and as large."""

    def drawn(gallery: Gallery) -> Figure:
        report = draw(gallery.models, gallery.store)
        print(*report.notes, sep="\n")
        report.figure.set_dpi(150)
        return report.figure

    return drawn


PICTURES: dict[str, Callable[[Gallery], Figure | bytes | None]] = {
    "realistic": realistic,
    "polished": polished,
    "search": search,
    "swaps": swaps,
    "photographs": photographs,
    "figure2": paper(figures.figure2),
    "figure3": paper(figures.figure3),
    "figure4": paper(figures.figure4),
    "figure5": paper(figures.figure5),
}
"""By the names of their files."""


def written(picture: Figure | bytes, path: Path) -> Path:
    """Keep a picture in as few colours as show it."""
    if isinstance(picture, bytes):
        path = path.with_suffix(".gif")
        path.write_bytes(picture)
        return path
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi="figure")
    image = Image.open(buffer).convert("RGB")
    grey = len(np.unique(np.ptp(np.asarray(image).astype(int), axis=-1))) == 1
    image.quantize(64 if grey else 256).save(path, optimize=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="the folder that holds MNIST")
    parser.add_argument("--only", nargs="+", choices=tuple(PICTURES), help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("docs/_static"), help="(docs/_static)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("captum-deduce-reproduce/runs"),
        help="where searches of the paper's figures are kept (captum-deduce-reproduce/runs)",
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", UserWarning)  # of failed pairs, which the pictures show
    gallery = Gallery(given.data_root, given.runs, given.seed)
    for name in given.only or PICTURES:
        picture = PICTURES[name](gallery)
        if picture is not None:
            stem = name if name == "polished" else f"gallery-{name}"
            path = written(picture, given.out / f"{stem}.png")
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)
        if name == "realistic":
            with Image.open(path) as whole:
                part = whole.crop((0, 0, whole.width, EXCERPT))
            part.save(path.with_stem(f"{path.stem}-excerpt"), optimize=True)


if __name__ == "__main__":
    main()
