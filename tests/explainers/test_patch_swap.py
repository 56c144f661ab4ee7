"""What PatchSwap takes, and what it makes of colour images, functions and masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import PatchSwap
from captum_deduce.explainers import PatchSwaps
from tests.conftest import Digits


def made(digits: Digits, **settings: object) -> PatchSwap:
    return PatchSwap(
        digits.model,
        digits.model[4],
        digits.train_images[:150],
        digits.train_labels[:150],
        **settings,
    )


@pytest.fixture
def target(digits: Digits) -> Tensor:
    with torch.no_grad():
        return (digits.model(digits.images[:12]).argmax(1) + 1 + torch.arange(12) % 9) % 10


def test_parts_are_those_of_distractors_of_the_target(digits, target):
    found = made(digits).swaps(digits.images[:12], target)
    assert isinstance(found, PatchSwaps)
    assert found.result.success.all()
    assert found.grid == (4, 4)
    assert "12 with the pasted pixels" in repr(found)
    for i in range(12):
        image = digits.images[i].clone()
        for k in range(int(found.edits[i])):
            (r, c), (y, x) = (
                divmod(int(cells[i, k]), 4) for cells in (found.query_cells, found.distractor_cells)
            )
            other = found.distractors[found.distractor_index[i, k]]
            assert any(
                torch.equal(other, known)
                for known, label in zip(digits.train_images, digits.train_labels, strict=True)
                if label == target[i]
            )
            image[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = other[
                :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2
            ]
        assert torch.equal(found.result.counterfactuals[i], image)
        used = found.query_cells[i, : found.edits[i]].tolist()
        assert len(set(used)) == len(used)
        assert (found.query_cells[i, found.edits[i] :] == -1).all()


def test_generate_and_swaps_are_the_same_search(digits, target):
    explainer = made(digits)
    expected = explainer.generate(digits.images[:12], target)
    found = explainer.swaps(digits.images[:12], target, internal_batch_size=5)
    assert torch.equal(found.result.counterfactuals, expected.counterfactuals)
    assert explainer._searches is None


def test_pixels_that_are_verified_find_more(digits, target):
    unseen = made(digits, verified=1).generate(digits.images[:12], target)
    assert made(digits).generate(digits.images[:12], target).success.sum() > unseen.success.sum()


def test_without_labels_the_model_says_what_distractors_are(digits, target):
    with torch.no_grad():
        predicted = digits.model(digits.train_images[:150]).argmax(1)
    explainer = made(digits)
    explainer.labels = predicted.tolist()
    expected = explainer.generate(digits.images[:12], target)
    explainer.labels = None
    result = explainer.generate(digits.images[:12], target)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals)


def test_colour_and_normalised_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 5, 3),
    ).double()
    images = torch.rand(60, 3, 15, 19).double()
    model.eval()
    mean = torch.tensor([0.4, 0.5, 0.3]).double().view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.25]).double().view(3, 1, 1)
    inside = nn.Sequential(_Normalised(mean, std), *model)
    with torch.no_grad():
        predicted = inside(images).argmax(1)
    classes = predicted.unique()
    targets = classes[(torch.searchsorted(classes, predicted[:10]) + 1) % len(classes)]
    expected = PatchSwap(inside, "4", images[10:]).generate(images[:10], targets)
    result = PatchSwap(
        model,
        "3",
        (images[10:] - mean) / std,
        lower_bound=(0 - mean) / std,
        upper_bound=(1 - mean) / std,
    ).generate((images[:10] - mean) / std, targets)
    torch.testing.assert_close(result.counterfactuals * std + mean, expected.counterfactuals)
    assert torch.equal(result.success, expected.success)
    assert expected.success.any()


class _Normalised(nn.Module):
    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def test_cells_that_no_pixel_of_may_change_stay(digits, target):
    mask = torch.zeros(8, 8)
    mask[:, 3:] = 1
    found = made(digits).swaps(digits.images[:12], target, mask=mask)
    assert (found.result.attributions[..., :3] == 0).all()
    cells = found.query_cells[found.query_cells >= 0]
    assert (cells % 4 >= 1).all()
    assert found.result.success.any()


class _Bypassed(nn.Module):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + x.flatten(1)[:, :10]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distractors": [1]}, TypeError, "distractors must be a floating-point"),
        ({"distractors": torch.zeros(0, 1, 8, 8)}, ValueError, "at least one image"),
        ({"labels": torch.zeros(150)}, TypeError, "labels must hold integers"),
        ({"labels": [1, 2]}, ValueError, r"one class per distractor \(150\), got shape \(2,\)"),
        ({"similarity": 3}, TypeError, "similarity must be callable or None"),
        ({"until": "dawn"}, ValueError, "until must be"),
        ({"num_distractors": 0}, ValueError, "num_distractors"),
        ({"verified": 0}, ValueError, "verified"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"tried_share": 2}, ValueError, "tried_share"),
        ({"memory_budget": 1.5}, TypeError, "memory_budget must be an int"),
    ],
    ids=str,
)
def test_what_is_refused(digits, change, error, message):
    given = {
        "distractors": digits.train_images[:150],
        "labels": digits.train_labels[:150],
    } | change
    with pytest.raises(error, match=message):
        PatchSwap(digits.model, "4", given.pop("distractors"), given.pop("labels"), **given)


def test_what_does_not_fit_the_model_is_refused(digits):
    images = digits.images[:3]
    explainer = made(digits)
    explainer.layer = digits.model[6]
    with pytest.raises(ValueError, match=r"layer must output maps, .*got N x 64"):
        explainer.generate(images, 3)
    explainer = made(digits)
    explainer.labels = [1] * 150
    with pytest.raises(ValueError, match=r"target names class\(es\) \[3\] that no distractor"):
        explainer.generate(images, 3)
    assert explainer.generate(images[:1] * 0 + digits.images[5:6]).target.tolist() in ([1], [1])
    explainer = made(digits)
    explainer.distractors = torch.zeros(150, 1, 9, 8)
    with pytest.raises(ValueError, match=r"distractors must have the inputs' shape \(1, 8, 8\)"):
        explainer.generate(images, 3)
    explainer = made(digits, similarity=lambda x: x.flatten(1))
    with pytest.raises(ValueError, match="similarity must return maps"):
        explainer.generate(images, 3)
    explainer = made(digits)
    explainer.forward_func = _Bypassed(digits.model)
    with pytest.raises(ValueError, match="something else goes past it"):
        explainer.generate(images, 3)
