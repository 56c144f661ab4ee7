"""Counterfactual alignment against the quotient written out, and a shortcut that it shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from captum_deduce.metrics import counterfactual_alignment


@pytest.fixture
def images():
    source = torch.Generator().manual_seed(0)
    return torch.rand(5, 1, 4, 4, generator=source), torch.rand(5, 1, 4, 4, generator=source)


def classifier(classes, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def outputs(model, images):
    with torch.no_grad():
        return model(images).double().numpy()


@pytest.mark.parametrize("scale", ["probability", "score"])
def test_equals_the_quotient_written_out(images, scale):
    first, second = classifier(3, 1), classifier(4, 2)
    target = [0, 2, 1, 2, 0]
    found = counterfactual_alignment(first, second, *images, target, scale=scale, batch_size=2)
    for i in range(5):
        ends = []
        for model in (first, second):
            values = [outputs(model, part[i : i + 1])[0] for part in images]
            if scale == "probability":
                values = [softmax(each) for each in values]
            ends.append(values[1] - values[0])
        np.testing.assert_allclose(found[i].numpy(), ends[1] / ends[0][target[i]], rtol=1e-3)
    one = counterfactual_alignment(first, second, *images, target, 3, scale=scale)
    torch.testing.assert_close(one, found[:, 3], rtol=1e-5, atol=1e-5)


def test_a_shared_shortcut_shows():
    """Both look at one pixel; a third looks at another, which does not change."""
    model, other, third = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)) for _ in "abc")
    for part, pixel in ((model, 0), (other, 0), (third, 3)):
        part[1].weight.data = torch.zeros(2, 4)
        part[1].weight.data[1, pixel] = 5.0
    start = torch.rand(3, 1, 2, 2)
    end = start.clone()
    end[:, 0, 0, 0] += 0.5
    shared = counterfactual_alignment(model, other, start, end, 1, 1)
    torch.testing.assert_close(shared, torch.ones(3).double())
    assert (counterfactual_alignment(model, third, start, end, 1, 1) == 0).all()
    assert counterfactual_alignment(third, model, start, end, 1, 1).isnan().all()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"end": torch.rand(4, 1, 4, 4)}, ValueError, "start and end must have the same shape"),
        ({"end": 3}, TypeError, "start and end must be tensors, got Tensor and int"),
        ({"target": 3}, ValueError, "target must lie in 0 ... 2"),
        ({"other_target": 4}, ValueError, "other_target must lie in 0 ... 3"),
        ({"scale": "logit"}, ValueError, "scale must be one of 'probability', 'score'"),
    ],
)
def test_what_is_refused(images, changed, error, message):
    given = {"start": images[0], "end": images[1], "target": 1, **changed}
    with pytest.raises(error, match=message):
        counterfactual_alignment(classifier(3, 1), classifier(4, 2), **given)
