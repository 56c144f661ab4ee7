"""What a user's mypy sees of the package; it is checked, never run."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import assert_type

from captum_deduce import ClassGaussianMixture, Counterfactuals, DeDUCE, spectral_normalize
from captum_deduce.metrics import EvaluationTable, Oracle, evaluate, l1

model: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
images, labels = torch.rand(2, 1, 8, 8), torch.tensor([1, 2])
normalized = spectral_normalize(model, coeff=4.0, example_input=images)
density = ClassGaussianMixture.fit_loader(model, "1", [(images, labels)])
assert_type(density, ClassGaussianMixture)
assert_type(density.log_prob(torch.rand(2, 144), labels), Tensor)

explainer = DeDUCE(model, "1", density)
result = explainer.generate(images, target=labels)
assert_type(result, Counterfactuals)
assert_type(result.counterfactuals, Tensor)
assert_type(result.log_density, Tensor | None)
assert_type(result[result.success], Counterfactuals)
assert_type(result.l0(), Tensor)
assert_type(result.plot(), Figure)
assert_type(result.summary(), str)
assert_type(Counterfactuals.load(Path("result.safetensors")), Counterfactuals)
assert_type(DeDUCE.realistic(model, "1", density), DeDUCE)
assert_type(l1(result.inputs, result.counterfactuals), Tensor)
table = evaluate({"DeDUCE": result}, {"L1": Counterfactuals.l1, "others": Oracle(model)})
assert_type(table, EvaluationTable)

assert_type(normalized, nn.Module)
assert_type(explainer.attribute(images, target=1), Tensor)
assert_type(explainer.perturb((images,), target=1), tuple[Tensor])
