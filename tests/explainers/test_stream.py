from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, DeDUCE, Polish
from captum_deduce.explainers import Stream
from captum_deduce.testing import Subject
from tests.test_every_explainer import build, every_explainer


def streamed(explainer, images, target, **settings):
    """All pairs through a stream, put together again in their order."""
    found, most = {}, settings.get("internal_batch_size", 128)
    with Stream(explainer, images[:2], **settings) as stream:
        pairs = ((k, i, t) for k, (i, t) in enumerate(zip(images, target.tolist(), strict=True)))
        for keys, result in stream.search(pairs):
            assert len(keys) <= most
            for place, key in enumerate(keys):
                rows = {
                    n: v[place : place + 1].clone()
                    for n, v in vars(result).items()
                    if v is not None
                }
                found[key] = type(result)(**rows)
        order = sorted(found)
        assert order == list(range(len(images)))
        return stream.finish(list(images), target.tolist(), [found[key] for key in order])


def assert_same(found, expected):
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if value is None or isinstance(value, str):
            assert other == value, name
        elif name in ("confidence", "log_density"):
            torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-9)
        elif name == "counterfactuals":
            torch.testing.assert_close(other, value, rtol=0, atol=1e-9)
        else:
            assert torch.equal(other, value), name


@every_explainer
def test_a_stream_finds_what_one_call_finds(name):
    """In float64, with a batch that is far smaller than the number of pairs."""
    model = Subject()
    images = model.training_images[-14:]
    with torch.no_grad():
        target = (model(images).argmax(1) + torch.arange(14) % 9 + 1) % 10
    explainer = build(name, model)
    expected = explainer.generate(images, target)
    assert_same(streamed(explainer, images, target, internal_batch_size=4), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"refine": True},
        {"rounds": 3, "pixels_per_step": "adaptive"},
        {"density_quantile": 0.05},
        {"polish": Polish(steps=10)},
    ],
)
def test_what_comes_after_the_search_is_done_too(settings, digits):
    images, target = digits.images[:8], digits.labels[:8].roll(1)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, **settings)
    expected = explainer.generate(images, target)
    assert_same(streamed(explainer, images, target, internal_batch_size=3), expected)


def test_masks_groups_and_bounds_hold_for_every_pair(digits):
    images, target = digits.images[:6] * 2 - 1, digits.labels[:6].roll(1)
    model = nn.Sequential(Halved(), digits.model)
    explainer = JSMA(
        model, lower_bound=torch.tensor(-1.0).view(1, 1, 1), upper_bound=1.0, confidence=0.4
    )
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:] = True
    columns = torch.arange(8).expand(8, 8) // 2
    expected = explainer.generate(images, target, mask=mask, feature_mask=columns)
    found = streamed(
        explainer, images, target, mask=mask, feature_mask=columns, internal_batch_size=2
    )
    assert_same(found, expected)
    assert not found.attributions[:, :, :2].any()


class Halved(nn.Module):
    def forward(self, x):
        return (x + 1) / 2


def test_images_in_colour_of_a_larger_size_pass(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    model = model.double()
    mean, std = torch.tensor([0.5, 0.4, 0.3]).double().view(3, 1, 1), 0.2
    images = (torch.rand(5, 3, 64, 48).double() - mean) / std
    explainer = JSMA(
        model,
        pixel="site",
        pixels_per_step="adaptive",
        step_size=1.0,
        lower_bound=-mean / std,
        upper_bound=(1 - mean) / std,
    )
    with torch.no_grad():
        target = model(images).topk(2).indices[:, 1]
    found = streamed(explainer, images, target, internal_batch_size=2)
    assert_same(found, explainer.generate(images, target))
    assert found.success.any()


def test_the_model_is_left_as_it_was_found_also_after_an_error(digits):
    model = digits.model.train()
    hooks = [len(part._forward_hooks) for part in model.modules()]
    explainer = DeDUCE(model, digits.layer, digits.density)

    def broken():
        yield 0, digits.images[0], 3
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), Stream(explainer, digits.images[:2]) as stream:
        for _ in stream.search(broken()):
            pass
    assert all(part.training for part in model.modules())
    assert [len(part._forward_hooks) for part in model.modules()] == hooks
    assert torch.is_grad_enabled()


def test_gradients_stay_off_for_whoever_asks_for_that(digits):
    explainer = JSMA(digits.model)
    pairs = [(k, image, 3) for k, image in enumerate(digits.images[:5])]
    with torch.no_grad(), Stream(explainer, digits.images[:1], internal_batch_size=2) as stream:
        for _ in stream.search(pairs):
            assert not torch.is_grad_enabled()
    with torch.inference_mode(), Stream(explainer, digits.images[:1]) as stream:
        assert sum(len(keys) for keys, _ in stream.search(pairs)) == 5
        assert torch.is_inference_mode_enabled()


def test_scores_may_be_asked_for_while_pairs_are_searched(digits):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    with torch.no_grad():
        expected = digits.model(digits.images[:20])

    with Stream(explainer, digits.images[:2], internal_batch_size=3) as stream:

        def pairs():
            for start in range(0, 20, 5):
                images = digits.images[start : start + 5]
                scores = stream.scores(images)
                torch.testing.assert_close(scores, expected[start : start + 5])
                for offset, target in enumerate(scores.topk(2).indices[:, 1].tolist()):
                    yield start + offset, images[offset], target

        assert sum(len(keys) for keys, _ in stream.search(pairs())) == 20


def test_scores_that_run_out_of_memory_are_computed_in_parts(digits):
    def small(images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("too many")
        return digits.model(images)

    with (
        Stream(JSMA(small), digits.images[:2], internal_batch_size=10) as stream,
        pytest.warns(UserWarning, match="too many for the memory"),
    ):
        scores = stream.scores(digits.images[:10])
    with torch.no_grad():
        torch.testing.assert_close(scores, digits.model(digits.images[:10]))


def test_classes_that_cant_be_targets_are_named(digits):
    density = type(digits.density)().fit(
        digits.model[:7](digits.train_images).detach(), digits.train_labels % 7
    )
    explainer = DeDUCE(digits.model, digits.layer, density)
    with Stream(explainer, digits.images[:2]) as stream:
        assert stream.targetable() == [True] * 7 + [False] * 3
        assert "density has no samples of" in stream.unreachable(8)
        assert "0 ... 9" in stream.unreachable(10)
        assert stream.unreachable(6) is None


def test_what_does_not_fit_is_refused_when_the_block_is_entered(digits):
    explainer = JSMA(digits.model)
    with (
        pytest.raises(ValueError, match="within lower_bound"),
        Stream(explainer, digits.images + 3),
    ):
        pass
    with (
        pytest.raises(ValueError, match="mask"),
        Stream(explainer, digits.images[:2], mask=torch.ones(2, 1, 8, 8)),
    ):
        pass
    with pytest.raises(ValueError, match="internal_batch_size"):
        Stream(explainer, digits.images[:2], internal_batch_size=0)
