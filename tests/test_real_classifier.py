"""A classifier of 1,000 classes with its published weights, and photographs, from packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from captum_deduce import DeDUCE

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "real.py"


@pytest.fixture(scope="module")
def real():
    spec = importlib.util.spec_from_file_location("real_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if lacking := module.missing():
        pytest.skip(f"lacks {', '.join(lacking)}; see benchmarks/real.py")
    return module


@pytest.mark.slow
def test_photographs_are_explained_in_few_evaluations_without_specks(real):
    model = real.Lite(0).eval().requires_grad_(False)
    crops = real.photographs(224, 16)
    labels = torch.tensor(list(real.PHOTOS.values())).repeat_interleave(16)
    density = real.fitted(model, list(zip(crops.split(16), labels.split(16), strict=True)))
    assert density.num_classes == 1000
    images, target = (part[[0, 4, 8, 9]] for part in real.pairs(224))
    layer = model.net._avg_pooling
    result = DeDUCE.closest(model, layer, density).generate(images, target)
    assert result.success.all()
    assert result.evaluations.double().mean() <= 40
    assert result.l1().mean() <= 700
    assert result.attributions.abs().max() <= 0.3
    with torch.no_grad():
        seen = model(result.counterfactuals).softmax(1)
    assert (seen.gather(1, target[:, None]) > 0.5).all()

    sparse = DeDUCE.sparsest(model, layer, density).generate(images, target)
    assert sparse.success.all()
    assert sparse.sites().double().mean() <= 1800
    assert sparse.evaluations.double().mean() <= 150
