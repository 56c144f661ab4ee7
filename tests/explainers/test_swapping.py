"""The exchange of cells, against a plain loop over all pairs of cells of one image."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import PatchSwap
from captum_deduce.classifiers import FrozenModel
from tests.conftest import Digits
from tests.reference_features import greedy_swaps


@pytest.fixture
def target(digits: Digits) -> Tensor:
    with torch.no_grad():
        return (digits.model(digits.images[:8]).argmax(1) + 1 + torch.arange(8)) % 10


def nearest(digits: Digits, image: Tensor, target: int, count: int, layer: int) -> Tensor:
    """The distractors: nearest in the mean of the maps."""
    body = digits.model[: layer + 1]
    mine = digits.train_images[:150][digits.train_labels[:150] == target]
    with torch.no_grad():
        apart = body(mine).mean((2, 3)) - body(image.unsqueeze(0)).mean((2, 3))
    return mine[apart.norm(dim=1).argsort(stable=True)[:count]]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("alike", [False, True])
def test_cells_are_exchanged_as_the_plain_search_does(digits, target, count, alike):
    torch.manual_seed(0)
    layer, body, head = 5, digits.model[:6], digits.model[6:]
    extractor = nn.Conv2d(1, 3, 3, stride=4, padding=1).double().requires_grad_(False)
    explainer = PatchSwap(
        digits.model,
        digits.model[layer],
        digits.train_images[:150],
        digits.train_labels[:150],
        num_distractors=count,
        similarity=extractor if alike else None,
        tried_share=0.6,
        until="features",
        confidence=0,
    )
    found = explainer.swaps(digits.images[:8], target, internal_batch_size=3)
    for i in range(8):
        image, goal = digits.images[i], int(target[i])
        distractors = nearest(digits, image, goal, count, layer)
        extra = {}
        with torch.no_grad():
            if alike:
                mine = nn.functional.normalize(extractor(image.unsqueeze(0)).flatten(2)[0], dim=0)
                theirs = nn.functional.normalize(extractor(distractors).flatten(2), dim=1)
                cosine = mine.T @ theirs.transpose(0, 1).flatten(1)
                number = -(-cosine.numel() * 6 // 10)
                order = cosine.flatten().argsort(descending=True, stable=True)[:number]
                tried = torch.zeros(cosine.numel(), dtype=torch.bool)
                tried[order] = True
                extra = {
                    "prior": (cosine / 0.1).log_softmax(1),
                    "tried": tried.view_as(cosine),
                    "weight": 0.4,
                }
            edits = greedy_swaps(
                body(image.unsqueeze(0))[0], body(distractors), head, goal, **extra
            )
        number = len(edits)
        assert found.edits[i] <= number
        if found.feature_success[i]:
            assert found.feature_edits[i] == number
            ours = [
                (
                    int(found.query_cells[i, k]),
                    found.distractors[found.distractor_index[i, k]],
                    int(found.distractor_cells[i, k]),
                )
                for k in range(int(found.edits[i]))
            ]
            assert len(ours) == number
            for (cell, image_of, there), (i_, m, j) in zip(ours, edits, strict=True):
                assert (cell, there) == (i_, j)
                assert torch.equal(image_of, distractors[m])
    assert found.feature_success.double().mean() >= (0.4 if alike else 0.9)


def test_pasted_pixels_and_features_are_reported_apart(digits, target):
    explainer = PatchSwap(
        digits.model,
        digits.model[4],
        digits.train_images[:150],
        digits.train_labels[:150],
        until="features",
    )
    found = explainer.swaps(digits.images[:8], target)
    with torch.no_grad():
        believed = digits.model(found.result.counterfactuals).softmax(1)
        body = digits.model[:5]
        maps = body(digits.images[:8]).flatten(2)
        others = body(found.distractors).flatten(2)
        for i in range(8):
            for k in range(int(found.edits[i])):
                came = others[found.distractor_index[i, k], :, found.distractor_cells[i, k]]
                maps[i, :, found.query_cells[i, k]] = came
        inner = digits.model[5:](maps.view(8, -1, 4, 4)).softmax(1)
    chosen = target.unsqueeze(1)
    torch.testing.assert_close(found.result.confidence, believed.gather(1, chosen).squeeze(1))
    torch.testing.assert_close(found.feature_confidence, inner.gather(1, chosen).squeeze(1))
    assert torch.equal(found.result.success, (found.result.confidence > 0.5))
    assert torch.equal(found.feature_success, found.feature_confidence > 0.5)
    assert found.feature_success.sum() > found.result.success.sum()
    for i in range(8):
        changed = found.result.attributions[i, 0].view(4, 2, 4, 2).movedim(2, 1).flatten(2) != 0
        places = {int(cell) for cell in changed.any(2).flatten().nonzero()}
        assert places <= set(found.query_cells[i, : found.edits[i]].tolist())


def test_forward_passes_are_counted(digits, target):
    """One pair, one step: the image, the head, all 2 x 2 x 2 x 2 exchanges, 16 of them in full."""
    runs = {"whole": 0, "head": 0}
    model = digits.model

    def counted(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            runs[name] += len(output)

        return hook

    explainer = PatchSwap(model, model[5], digits.train_images[:150], digits.train_labels[:150])
    explainer.optimize_model = False
    handles = [
        model[0].register_forward_hook(counted("whole")),
        model[7].register_forward_hook(counted("head")),
    ]
    made = []
    for steps in (0, 1):
        runs.update(whole=0, head=0)
        result = explainer.generate(
            digits.images[:1], target[:1], max_iterations=steps, confidence=1 - 1e-9
        )
        made.append((runs["head"], int(result.forward_evaluations)))
    for handle in handles:
        handle.remove()
    assert made[0][1] == 2 + 16 + 16
    assert made[1][1] - made[0][1] == made[1][0] - made[0][0]


def test_no_cell_left_ends_a_pair(digits, target):
    explainer = PatchSwap(
        digits.model, digits.model[5], digits.train_images[:150], digits.train_labels[:150]
    )
    result = explainer.generate(
        digits.images[:8], target, confidence=1 - 1e-12, return_trajectory=True
    )
    assert not result.success.any()
    assert (result.iterations <= 5).all()
    for image, path in zip(result.counterfactuals, result.trajectory, strict=True):
        assert any(torch.equal(image, seen) for seen in path)


def test_features_are_tried_in_parts_that_fit(digits, target):
    explainer = PatchSwap(
        digits.model, digits.model[4], digits.train_images[:150], digits.train_labels[:150]
    )
    expected = explainer.generate(digits.images[:8], target)
    sizes, from_layer = [], FrozenModel.from_layer

    def noted(self: FrozenModel, features: Tensor, *arguments: object) -> Tensor:
        sizes.append(len(features))
        return from_layer(self, features, *arguments)

    with mock.patch.object(FrozenModel, "from_layer", noted):
        result = explainer.generate(digits.images[:8], target, memory_budget=16 * 16 * 8 * 11)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals)
    assert max(sizes) == 11


def test_memory_that_runs_out_makes_smaller_parts(digits, target):
    explainer = PatchSwap(
        digits.model, digits.model[4], digits.train_images[:150], digits.train_labels[:150]
    )
    expected = explainer.generate(digits.images[:8], target)

    class Crowded(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            if len(maps) > 100:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return maps

    explainer.forward_func = nn.Sequential(*digits.model[:5], Crowded(), *digits.model[5:])
    explainer.layer = explainer.forward_func[4]
    result = explainer.generate(digits.images[:8], target)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals)
    assert torch.equal(result.forward_evaluations, expected.forward_evaluations)
