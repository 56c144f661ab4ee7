"""COUT against a loop over places and steps, and against integrals done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce.metrics import COUT
from tests import reference_metrics
from tests.visualization.samples import make_result


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    ).double()
    with torch.no_grad():
        model[4].weight *= 5
    return model


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """Eleven pairs that differ in 0 to 30 of 30 places, with ties among them."""
    generator = torch.Generator().manual_seed(1)
    before = torch.rand(11, 2, 5, 6, dtype=torch.float64, generator=generator)
    moves = torch.randint(-4, 5, before.shape, generator=generator).double() / 8
    chosen = torch.rand(11, 1, 5, 6, generator=generator) < torch.linspace(0, 1, 11).view(
        -1, 1, 1, 1
    )
    return before, before + moves * chosen


def probabilities_of(model: nn.Module):
    def probabilities(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(image).unsqueeze(0))[0].softmax(0).numpy()

    return probabilities


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("batch_size", [1, 13, 500])
def test_it_is_the_loop_over_places(model, pairs, steps, batch_size):
    before, after = pairs
    target, source = torch.arange(11) % 3, (torch.arange(11) // 3) % 3
    found = COUT(model, steps, batch_size=batch_size).transition(before, after, target, source)
    assert all(module.training for module in model.modules())
    assert found.dtype == torch.float64
    probabilities = probabilities_of(model.eval())
    expected = [
        reference_metrics.transition(x, y, steps, probabilities, int(t), int(s))
        for x, y, t, s in zip(before.numpy(), after.numpy(), target, source, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.ptp(expected) > 0.1


def test_of_equal_changes_the_first_comes_first():
    """Two places tie, and only the second of them moves the score."""
    scores = nn.Linear(4, 2, bias=False)
    scores.weight = nn.Parameter(torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 1e4]]))
    model = nn.Sequential(nn.Flatten(), scores)
    before = torch.tensor([[[[0.0, 0.0], [0.0, -0.5]]]])
    after = torch.tensor([[[[0.0, 1.0], [0.0, 0.5]]]])
    # p_t - p_s is -1, -1, 1 at 0, 1/2, 1.
    assert COUT(model).transition(before, after, 1, 0).tolist() == [-0.5]
    assert COUT(model).transition(before.flip(3).flip(2), after.flip(3).flip(2), 1, 0).tolist() == [
        0.0
    ]


def test_a_place_is_a_pixel_with_all_its_channels():
    """A pixel of two moderate changes goes before a pixel of one larger."""
    scores = nn.Linear(6, 2, bias=False)
    scores.weight = nn.Parameter(torch.zeros(2, 6))
    scores.weight.data[1, :2] = torch.tensor([1e4, 0.0])  # the first channel's first pixel
    model = nn.Sequential(nn.Flatten(), scores)
    before = torch.tensor([[[[-0.1, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    after = torch.tensor([[[[0.5, 0.9]], [[0.6, 0.0]], [[0.0, 0.0]]]])
    # Its curve is -1, 1, 1.
    assert COUT(model).transition(before, after, 1, 0).tolist() == [0.5]


def test_a_pair_without_change_has_the_difference_at_the_original(model, pairs):
    before, _ = pairs
    found = COUT(model).transition(before, before, 2, 0)
    with torch.no_grad():
        p = model.eval()(before).softmax(1)
    torch.testing.assert_close(found, p[:, 2] - p[:, 0])
    assert COUT(model).transition(before, before + 0.1, 1, 1).tolist() == [0.0] * 11


def test_it_lies_between_its_extremes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight = nn.Parameter(torch.tensor([[0.0] * 4, [1e6] * 4]))
    high, low = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), -0.5)
    metric = COUT(model)
    assert metric.transition(high, high + 0.1, 1, 0).item() == 1
    assert metric.transition(low, low - 0.1, 1, 0).item() == -1


def test_a_pair_has_the_same_value_alone_and_in_any_order(model, pairs):
    before, after = pairs
    target = torch.arange(11) % 3
    metric = COUT(model, 10)
    whole = metric.transition(before, after, target, 0)
    turned = metric.transition(before.flip(0), after.flip(0), target.flip(0), 0).flip(0)
    torch.testing.assert_close(turned, whole, rtol=1e-12, atol=1e-14)
    alone = [
        metric.transition(before[i : i + 1], after[i : i + 1], int(target[i]), 0) for i in range(11)
    ]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-12, atol=1e-14)


def test_no_batch_is_larger_than_asked_for(pairs):
    seen = []
    linear = nn.Linear(60, 3).double()

    def model(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return linear(batch.flatten(1))

    COUT(model, batch_size=16).transition(*pairs, 1, 0)
    assert max(seen) == 16
    # steps + 1 images of each pair, in full batches; two to learn the classes; each first one twice
    changed = (pairs[0] != pairs[1]).any(1).flatten(1).sum(1)
    assert sum(seen) == int((changed.clamp(1, 50) + 1).sum()) + 2 + 2


def test_a_call_takes_the_prediction_as_the_source(model, pairs):
    before, after = pairs
    result = make_result(before, after, target=[2] * 11, prediction=[1] * 11)
    assert torch.equal(COUT(model)(result), COUT(model).transition(before, after, 2, 1))


def test_rows_of_numbers_have_places_too():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    before, after = torch.rand(2, 4, 5, dtype=torch.float64)
    found = COUT(model).transition(before, after, 1, 0)
    as_images = nn.Sequential(nn.Flatten(), model)
    planes = before.view(4, 1, 1, 5), after.view(4, 1, 1, 5)
    torch.testing.assert_close(found, COUT(as_images).transition(*planes, 1, 0))


def test_what_does_not_fit_is_refused(model, pairs):
    before, after = pairs
    with pytest.raises(ValueError, match="steps must be a finite number"):
        COUT(model, 0)
    with pytest.raises(TypeError, match=r"forward_func must be an nn\.Module or a function"):
        COUT("model")
    with pytest.raises(
        ValueError, match=r"the same shape N x \.\.\., got \(11, 2, 5, 6\) and \(10"
    ):
        COUT(model).transition(before, after[:10], 1, 0)
    with pytest.raises(ValueError, match=r"^source must lie in 0 \.\.\. 2 .*got 3"):
        COUT(model).transition(before, after, 1, 3)
    with pytest.raises(ValueError, match=r"^target must be one class for all .*\(11\)"):
        COUT(model).transition(before, after, [1, 2], 0)
    with pytest.raises(ValueError, match="logits or log-probabilities"):
        COUT(lambda x: model(x).softmax(1)).transition(before, after, 1, 0)
