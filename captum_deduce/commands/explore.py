"""``captum-deduce explore``: a page in the browser, to explain images one by one."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_deduce import datasets
from captum_deduce.commands.given import read_device
from captum_deduce.commands.image_files import read_images
from captum_deduce.commands.subjects import Subject, Weights, from_weights, input_shape
from captum_deduce.explainers import JSMA, CounterfactualExplainer, DeDUCE, Wachter
from captum_deduce.explorer import Code, explore, is_loopback, require_gradio
from captum_deduce.zoo import (
    RECIPES,
    Checkpoint,
    cache_path,
    load_checkpoint,
    make_explainer,
    obtain_classifier,
    plan_classifier,
    torch_threads,
)

_PRESETS = ("closest", "sparsest", "realistic")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class _Classifier:
    """What is explored, with all ways to explain it, and how both are made in Python."""

    explainers: dict[str, CounterfactualExplainer]
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    setup: str
    expressions: dict[str, str]
    dataset: str = ""
    seed: int = 0


@dataclass(frozen=True)
class _Images:
    """What there is to choose from."""

    images: Tensor
    labels: Tensor | None
    expression: str
    setup: str = ""
    costs: Tensor | None = field(default=None)


def run(
    checkpoint: Path | None = None,
    *,
    torchvision: Mapping[str, Any] | None = None,
    images: Sequence[Path] | None = None,
    folder: Path | None = None,
    data_root: str | None = None,
    oracle: Sequence[Path] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    root_path: str | None = None,
    no_browser: bool = False,
    max_searches: int = 16,
    device: str | None = None,
    show_progress: bool = False,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        checkpoint (Path, optional): The classifier. Default: None (one of torchvision's, or the
            demo's classifier of digits)
        torchvision (Mapping[str, Any], optional): Fields of
            :class:`captum_deduce.commands.subjects.Weights`. Default: None
        images (Sequence[Path], optional): Image files, or folders of them. Default: None (those of
            the run, or the test images of the checkpoint's data set)
        folder (Path, optional): Of a run over a data set that stores its images. Default: None
        data_root (str, optional): The folder of the data. Default: see
            :func:`captum_deduce.datasets.load`
        oracle (Sequence[Path], optional): Checkpoints of other classifiers. Default: None
        host (str, optional): See :func:`captum_deduce.explore`. Default: "127.0.0.1"
        port (int, optional): Likewise. Default: None
        root_path (str, optional): Likewise. Default: None
        no_browser (bool, optional): Open no browser. Default: False
        max_searches (int, optional): See :func:`captum_deduce.explore`. Default: 16
        device (str, optional): Where to compute. Default: CUDA where there is one, else the CPU
        show_progress (bool, optional): Draw a progress bar while training. Default: False

    Raises:
        ValueError: What was given does not fit together, or no password was given where one has
            to be.
        ImportError: gradio is not installed.
    """
    require_gradio()  # before any work
    password = None if is_loopback(host) else _password()
    if images is not None and folder is not None:
        raise ValueError("--images and --run exclude one another: the page shows one or the other")
    place = read_device(device)
    if torchvision:
        if checkpoint is not None:
            raise ValueError("--checkpoint says all of its classifier; leave the other options out")
        classifier = _of_torchvision(Weights(**torchvision), place)
    elif checkpoint is not None:
        classifier = _of_checkpoint(load_checkpoint(checkpoint, place), checkpoint)
    else:
        classifier = _of_digits(place, show_progress)
    shown = _images(classifier, images, folder, data_root)
    oracles = {path.stem: load_checkpoint(path, place).model for path in oracle or ()}
    setup = "\n".join(filter(None, [classifier.setup, shown.setup]))
    page = explore(
        classifier.explainers,
        shown.images,
        shown.labels,
        classifier.class_names,
        costs=shown.costs,
        oracles=oracles,
        host=host,
        port=port,
        password=password,
        root_path=root_path,
        open_browser=not no_browser and is_loopback(host),
        max_searches=max_searches,
        code=Code(setup, shown.expression, classifier.expressions),
    )
    print(f"The page: {page.url}\nCtrl-C ends it.", flush=True)
    try:
        page.wait()
    finally:
        page.close()


def _password() -> str:
    given = os.environ.get("CAPTUM_DEDUCE_PASSWORD", "")
    if not given and sys.stdin is not None and sys.stdin.isatty():
        given = getpass.getpass("Password for the page's visitors: ")
    if not given:
        raise ValueError(
            "--host can be reached from other machines, and needs a password: set "
            "CAPTUM_DEDUCE_PASSWORD, or type one when asked"
        )
    return given


def _of_digits(device: torch.device, show_progress: bool) -> _Classifier:
    recipe, splits = RECIPES["digits"], datasets.load("digits", None, seed=0)
    settings = plan_classifier("digits", splits.train, "sn_resnet18", recipe, 0)
    with torch_threads(recipe.threads):
        made = obtain_classifier(settings, splits, recipe.batch_size, device, show_progress)
    return _of_checkpoint(made, cache_path(settings))


def _of_checkpoint(loaded: Checkpoint, path: Path) -> _Classifier:
    model, settings = loaded.model, loaded.settings
    shape = input_shape(settings)
    pixel: dict[str, Any] = {"pixel": "site"} if shape[0] == 3 else {}
    given = ', pixel="site"' if pixel else ""
    explainers: dict[str, CounterfactualExplainer] = {}
    expressions = {}
    if loaded.density is not None:
        explainers["DeDUCE"] = make_explainer(loaded, **pixel)
        expressions["DeDUCE"] = f"make_explainer(checkpoint{given})"
        for preset in _PRESETS:
            explainers[f"DeDUCE, {preset}"] = make_explainer(loaded, preset, **pixel)
            expressions[f"DeDUCE, {preset}"] = f'make_explainer(checkpoint, "{preset}"{given})'
    explainers |= {"JSMA": JSMA(model, **pixel), "Wachter": Wachter(model)}
    expressions |= {
        "JSMA": f"JSMA(checkpoint.model{given})",
        "Wachter": "Wachter(checkpoint.model)",
    }
    setup = (
        "from captum_deduce import JSMA, Wachter, datasets\n"
        "from captum_deduce.zoo import load_checkpoint, make_explainer\n\n"
        f"checkpoint = load_checkpoint({str(path)!r})"
    )
    names = settings.class_names
    return _Classifier(
        explainers, names, shape, setup, expressions, settings.dataset, settings.seed
    )


def _of_torchvision(given: Weights, device: torch.device) -> _Classifier:
    subject = from_weights(given, device, None, {})
    model, pixel = subject.model, {"pixel": "site"}
    explainers: dict[str, CounterfactualExplainer] = {}
    expressions = {}
    if isinstance(subject.explainer, DeDUCE):
        layer, density = subject.explainer.layer, subject.explainer.density
        arguments = f"model, classifier.get_submodule({given.layer!r}), density"
        explainers["DeDUCE"] = subject.explainer
        expressions["DeDUCE"] = f'DeDUCE({arguments}, pixel="site")'
        for preset in _PRESETS:
            explainers[f"DeDUCE, {preset}"] = getattr(DeDUCE, preset)(
                model, layer, density, **pixel
            )
            expressions[f"DeDUCE, {preset}"] = f'DeDUCE.{preset}({arguments}, pixel="site")'
    explainers |= {
        "JSMA, adaptive": JSMA(model, pixel="site", pixels_per_step="adaptive"),
        "JSMA": JSMA(model, pixel="site"),
        "Wachter": Wachter(model),
    }
    expressions |= {
        "JSMA, adaptive": 'JSMA(model, pixel="site", pixels_per_step="adaptive")',
        "JSMA": 'JSMA(model, pixel="site")',
        "Wachter": "Wachter(model)",
    }
    setup = _torchvision_lines(given, subject)
    return _Classifier(explainers, subject.class_names, subject.shape, setup, expressions)


def _torchvision_lines(given: Weights, subject: Subject) -> str:
    normalize, name = subject.model[0], str(given.architecture).partition(":")[2]  # type: ignore[index]
    lines = [
        "from safetensors.torch import load_file",
        "from torch import nn",
        "from torchvision import models, transforms",
        "",
        "from captum_deduce import JSMA, ClassGaussianMixture, DeDUCE, Wachter",
        "",
        f"classifier = models.get_model({name!r}, num_classes={len(subject.class_names)})",
        f"classifier.load_state_dict(load_file({str(given.weights)!r}))",
        f"normalize = transforms.Normalize({normalize.mean}, {normalize.std})",
        "model = nn.Sequential(normalize, classifier).eval()",
    ]
    if given.density is not None:
        lines.append(f"density = ClassGaussianMixture.load({str(given.density)!r})")
    return "\n".join(lines)


def _images(
    classifier: _Classifier,
    paths: Sequence[Path] | None,
    folder: Path | None,
    data_root: str | None,
) -> _Images:
    if paths is not None:
        return _of_files(classifier, paths)
    if folder is not None:
        return _of_run(classifier, folder)
    if classifier.dataset not in datasets.DATASETS:
        raise ValueError(
            "--images or --run must be given, as the classifier does not say which images it was "
            "trained on"
        )
    name, seed = classifier.dataset, classifier.seed
    test = datasets.load(name, data_root, seed=seed).test
    where = "" if data_root is None else f", {data_root!r}"
    expression = f"datasets.load({name!r}{where}, seed={seed}).test.images"
    return _Images(test.images, test.target, expression)


def _of_files(classifier: _Classifier, paths: Sequence[Path]) -> _Images:
    found: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS)
        found += inside if path.is_dir() else [path]
    if not found:
        raise ValueError(f"--images must hold at least one image ({', '.join(_ENDINGS)})")
    numbers = {name: number for number, name in enumerate(classifier.class_names)}
    folders = [path.parent.name for path in found]
    labels = None
    if all(folder in numbers for folder in folders):
        labels = torch.tensor([numbers[folder] for folder in folders])
    setup = (
        "from pathlib import Path\n\n"
        "from captum_deduce.commands.image_files import read_images\n\n"
        f"files = {[str(path) for path in found]!r}"
    )
    expression = f"read_images([Path(file) for file in files], {classifier.shape}, resize=True)"
    images = read_images(found, classifier.shape, resize=True)
    return _Images(images, labels, expression, setup)


def _of_run(classifier: _Classifier, folder: Path) -> _Images:
    from captum_deduce import bulk

    opened = bulk.read(folder)
    if not opened.manifest.get("store_images"):
        raise ValueError(
            f"--run {folder} holds no images; make it with explain-dataset --store-images, or pass "
            "--images"
        )
    table = opened.table()
    first = table[table["error"].isna()].drop_duplicates("index")
    if not len(first):
        raise ValueError(f"--run {folder} holds no image that was explained")
    rows = [int(row) for row in first.index]
    labels = None
    if first["label"].notna().all():
        labels = torch.tensor([int(label) for label in first["label"]])
    costs = first["l1"].where(first["success"].fillna(False)).astype("float64")
    setup = f"from captum_deduce import bulk\n\nrows = {rows!r}"
    expression = f"bulk.read({str(folder)!r}).counterfactuals(rows).inputs"
    images = opened.counterfactuals(rows).inputs
    return _Images(images, labels, expression, setup, torch.tensor(costs.tolist()))
