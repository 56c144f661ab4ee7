"""Where data lie that were published or recorded elsewhere; the repository does not hold them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from captum_deduce import Counterfactuals
from captum_deduce.models import WGAN

VARIABLE = "CAPTUM_DEDUCE_REFERENCE"


def published(name: str) -> Path:
    """A file or folder of these data; the test that asks for it is skipped where it is missing."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    path = Path(os.environ.get(VARIABLE) or beside) / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder that {VARIABLE} names")
    return path


def published_results() -> dict[str, Counterfactuals]:
    """The paper's counterfactuals of the first test set: 100 images, 9 targets each.

    Nothing is published of a search but its image (zeros where it failed) and, but for VLK, its
    number of iterations.
    """
    arrays = np.load(published("paper_set1.npz"))
    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    targets = torch.arange(10).expand(100, 10)
    asked = targets != labels.unsqueeze(1)
    originals = torch.arange(100).unsqueeze(1).expand(100, 10)[asked]
    results = {}
    for name in ("DeDUCE", "JSMA", "VLK", "REVISE"):
        found = torch.from_numpy(arrays[f"cf_{name.lower()}"])[asked].unsqueeze(1)
        unknown = torch.zeros(len(found))
        iterations = unknown.long()
        if name != "VLK":
            iterations = torch.from_numpy(arrays[f"iterations_{name.lower()}"])[asked].long()
        results[name] = Counterfactuals(
            inputs=images[originals].unsqueeze(1),
            counterfactuals=found,
            target=targets[asked],
            success=found.flatten(1).any(1),
            confidence=unknown,
            iterations=iterations,
            evaluations=unknown.long(),
            forward_evaluations=unknown.long(),
            prediction=labels[originals],
        )
    return results


def published_wgan() -> WGAN:
    """The generator and critic behind the paper's AnoGAN scores."""
    state = {}
    for name, value in load_file(published("wgan_generator.safetensors")).items():
        _, block, place, kind = name.split(".")
        # Blocks of three layers, one after the other, behind the one that unflattens latents.
        state[f"generator.{1 + 3 * int(block) + int(place)}.{kind}"] = value
    normalised = {
        "weight_orig": "parametrizations.weight.original",
        "weight_u": "parametrizations.weight.0._u",
        "weight_v": "parametrizations.weight.0._v",
    }
    for name, value in load_file(published("wgan_discriminator.safetensors")).items():
        part, place, kind = name.split(".")
        # The head's convolution comes after a padding, which is none for 28x28 pixels.
        ours = {"disc1": f"feature_map.{place}", "disc2": "head.3" if place == "2" else "head.0"}
        state[f"{ours[part]}.{normalised.get(kind, kind)}"] = value
    wgan = WGAN()
    wgan.load_state_dict(state)
    return wgan.eval()
