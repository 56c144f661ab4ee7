from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.classifiers import FrozenModel, refuse_probabilities
from tests.classifiers.test_frozen import IMAGES


@pytest.mark.parametrize(
    ("forward_func", "error", "message"),
    [
        (lambda x: (x.flatten(1),), TypeError, r"got tuple; wrap it.*model\(x\)\[0\]"),
        (lambda x: {"logits": x}, TypeError, r"got dict; wrap it.*\.logits"),
        (lambda x: x.flatten(1).sum(1), ValueError, r"shape \(5,\) for 5.*one logit.*stack"),
        (lambda x: x.flatten(1).sum(1, keepdim=True), ValueError, r"shape \(5, 1\).*one logit"),
        (lambda x: x.sum(), ValueError, r"shape \(\) for 5"),
        (lambda x: x, ValueError, r"N x C class scores, got shape \(5, 1, 8, 8\)"),
        (lambda x: x.flatten(1).T, ValueError, r"got shape \(64, 5\)"),
        (lambda x: x.flatten(1).long(), ValueError, "floating-point scores, got torch.int64"),
    ],
)
def test_outputs_that_are_no_class_scores(forward_func, error, message):
    with FrozenModel(forward_func) as frozen, pytest.raises(error, match=message):
        frozen(IMAGES)


def test_probabilities_are_told_from_logits_and_log_probabilities():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    refuse_probabilities(logits)
    refuse_probabilities(logits.log_softmax(1))
    refuse_probabilities(logits.softmax(1) * 2)
    mixed = torch.cat([logits.softmax(1), logits])
    refuse_probabilities(mixed)
    with pytest.raises(ValueError, match="forward_func must return logits or log-probabilities"):
        refuse_probabilities(logits.softmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_one_image_may_come_near_to_a_sum_of_one(dtype):
    refuse_probabilities(torch.tensor([[0.3041, 0.6990]], dtype=dtype))
    refuse_probabilities(torch.tensor([[0.2, 0.3, 0.499]], dtype=dtype))
    # Of any number of classes a softmax sums to one but for rounding.
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 1000, 20000):
        logits = 5 * torch.randn(20, classes, generator=generator, dtype=dtype)
        with pytest.raises(ValueError, match="probabilities"):
            refuse_probabilities(logits.softmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_told_too(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 1000, generator=generator)
    for rows in (logits.to(dtype).softmax(1), logits.softmax(1).to(dtype)):
        with pytest.raises(ValueError, match="probabilities"):
            refuse_probabilities(rows.float())


def test_autocast_probabilities_are_refused_by_a_model_that_returns_them():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1)).bfloat16()
    with torch.no_grad(), pytest.raises(ValueError, match="probabilities"):
        refuse_probabilities(model(IMAGES.bfloat16()).float())
