"""Features of layers, of functions, of loaders, and of the two images of a pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce.metrics import FeatureExtractor
from captum_deduce.metrics.features import first_rows
from tests.visualization.samples import make_result


class Encoder(nn.Module):
    """No classifier: it returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"code": self.body(images).relu()}


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder().double()
    encoder.body[1].running_mean.fill_(0.1)
    return encoder


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_layer_is_read_in_eval_mode_and_the_model_left_as_found(encoder, images, batch_size):
    expected = encoder.body.eval()(images).flatten(1).detach()
    encoder.train()
    found = FeatureExtractor(encoder, "body", batch_size=batch_size)(images)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert all(module.training for module in encoder.modules())
    assert not encoder.body._forward_hooks
    assert torch.equal(encoder.body[1].running_mean, torch.full((3,), 0.1, dtype=torch.float64))


def test_a_function_gives_features_of_its_own_and_its_modules_are_held_in_eval_mode(
    encoder, images
):
    expected = encoder.eval()(images)["code"].flatten(1).detach()
    encoder.train()
    learner = {"encoder": encoder}
    found = FeatureExtractor(lambda batch: learner["encoder"](batch)["code"], batch_size=2)(images)
    torch.testing.assert_close(found, expected)
    assert encoder.training


def test_another_dtype_of_the_model_is_converted_to_and_halves_become_float32(encoder, images):
    exact = FeatureExtractor(encoder, encoder.body)(images)
    single = FeatureExtractor(encoder.float(), encoder.body)(images)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)
    half = FeatureExtractor(lambda batch: batch.half())(images)
    assert half.dtype == torch.float32


def test_a_loader_gives_features_and_labels(encoder, images):
    extractor = FeatureExtractor(encoder, encoder.body)
    expected = extractor(images)
    labels = torch.arange(7)
    features, found = extractor.from_loader([(images[:4], labels[:4]), [images[4:], labels[4:]]])
    torch.testing.assert_close(features, expected)
    assert torch.equal(found, labels)
    features, found = extractor.from_loader(iter([images[:4], images[4:]]))
    torch.testing.assert_close(features, expected)
    assert found is None


def test_equal_originals_run_once_and_have_equal_features(images):
    seen = []

    def counting(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return batch.flatten(1)

    inputs = images[[3, 1, 3, 0, 1, 3]]
    result = make_result(inputs, images[:6])
    originals, changed = FeatureExtractor(counting).of_pairs(result)
    assert seen == [3, 6]
    assert torch.equal(originals, inputs.flatten(1))
    assert torch.equal(changed, images[:6].flatten(1))


def test_the_first_row_of_each_group_stands_for_it():
    assert first_rows(torch.tensor([2, 0, 2, 1, 0])).tolist() == [1, 3, 0]


def test_what_does_not_fit_is_refused(encoder, images):
    with pytest.raises(TypeError, match=r"forward_func must be an nn\.Module or a function"):
        FeatureExtractor("resnet18")
    with pytest.raises(ValueError, match="layer 'head' is not in the model"):
        FeatureExtractor(encoder, "head")
    with pytest.raises(ValueError, match="function that does not say which modules"):
        FeatureExtractor({"a": encoder}.__getitem__, "body")
    with pytest.raises(TypeError, match="what forward_func returns must output a tensor, got dict"):
        FeatureExtractor(encoder)(images)
    with pytest.raises(ValueError, match=r"what forward_func returns must output .*one per image"):
        FeatureExtractor(lambda batch: batch[:1])(images)
    with pytest.raises(ValueError, match="NaN or infinite features"):
        FeatureExtractor(lambda batch: batch.flatten(1) / 0)(images)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        FeatureExtractor(encoder, "body").from_loader([])
    with pytest.raises(TypeError, match=r"batches of images, alone or in a tuple .*got str"):
        FeatureExtractor(encoder, "body").from_loader(["image"])
    with pytest.raises(ValueError, match="labels with every batch or with none"):
        FeatureExtractor(encoder, "body").from_loader([images, (images, torch.zeros(7).long())])
    with pytest.raises(ValueError, match="labels must be one class for all images or one per"):
        FeatureExtractor(encoder, "body").from_loader([(images, torch.zeros(3).long())])
    with pytest.raises(ValueError, match="result must hold at least one pair, got none"):
        FeatureExtractor(nn.Flatten()).of_pairs(make_result(images[:0], images[:0]))
