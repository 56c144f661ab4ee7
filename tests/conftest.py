"""What many tests share, made once: a small classifier of digits, the smallest demo, a browser."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture, datasets, spectral_normalize
from captum_deduce.commands import main
from captum_deduce.zoo import Checkpoint, load_checkpoint


@dataclass
class Digits:
    """A trained model in float64, its density, and images that it was not trained on."""

    model: nn.Sequential
    layer: nn.Module
    density: ClassGaussianMixture
    images: Tensor
    labels: Tensor
    train_images: Tensor
    train_labels: Tensor


def digits_network(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train_briefly(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 12) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="session")
def _digits() -> Digits:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        data = load_digits()
        images = torch.from_numpy(data.images).unsqueeze(1) / 16
        labels = torch.from_numpy(data.target)
        model = digits_network().double()
        spectral_normalize(model, coeff=3.0, example_input=images[:1])
        train_briefly(model, images[:1200], labels[:1200])
        layer = model[6]
        with torch.no_grad():
            features = model[:7](images[:1200])
        density = ClassGaussianMixture().fit(features, labels[:1200])
    return Digits(model, layer, density, images[1200:], labels[1200:], images[:1200], labels[:1200])


@pytest.fixture
def digits(_digits: Digits) -> Digits:
    """The shared classifier, in eval mode and without gradients."""
    _digits.model.eval()
    _digits.model.zero_grad()
    return _digits


@dataclass
class Demo:
    """A run of the demo: what it printed and wrote, and the checkpoint that it cached."""

    printed: str
    folder: Path
    path: Path
    checkpoint: Checkpoint


@pytest.fixture(scope="session")
def _demo(tmp_path_factory, cache_of_this_run) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    cache = tmp_path_factory.mktemp("demo-cache")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as environment, contextlib.redirect_stdout(printed):
        environment.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
        assert main(["demo", "--smoke", "--device", "cpu", "--output", str(folder / "out")]) == 0
    (path,) = cache.iterdir()
    return Demo(printed.getvalue(), folder / "out", path, load_checkpoint(path))


@pytest.fixture
def demo(_demo, monkeypatch) -> Demo:
    """The smallest demo; further runs find its cache."""
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(_demo.path.parent))
    return _demo


@pytest.fixture(scope="session")
def digit_images() -> datasets.ImageData:
    return datasets.load_digits().test


@pytest.fixture
def probabilities(demo):
    """The checkpoint's classifier as a function of arrays, with the softmax in numpy."""

    def of(images):
        with torch.no_grad():
            logits = demo.checkpoint.model(torch.as_tensor(images, dtype=torch.float32))
        values = logits.double().numpy()
        powers = np.exp(values - values.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return of


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real Chromium without a window: one for all, as Playwright runs once in a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs captum-deduce[test-app]")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    # Within a container there is no sandbox to be had, and no page but ours is opened. The browser
    # itself has nothing to ask of anybody.
    switches = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=[*switches, "--disable-sync"])
        yield opened
        opened.close()
