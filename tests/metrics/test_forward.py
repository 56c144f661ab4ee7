"""Models run as they were found, in batches, on images of any kind."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from captum_deduce.metrics.forward import read_outputs, reconstructions


@pytest.fixture
def model() -> nn.Sequential:
    """Batch norm in train mode, and a first layer that works in place."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(inplace=True), nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)
    )


def scores_only(scores: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return scores


def test_scores_are_those_of_eval_mode_and_the_model_is_left_as_found(model):
    images = torch.randn(7, 1, 4, 4)
    kept, state = images.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    model[3].eval()
    found = read_outputs(model, images.split(3), scores_only)
    assert [module.training for module in model] == [True, True, True, False, True]
    assert torch.equal(images, kept)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not found.requires_grad
    model.eval()
    torch.testing.assert_close(found, model(kept.clone()))


def test_the_model_is_left_as_found_after_errors_too(model):
    def broken(scores: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_outputs(model, [torch.randn(2, 1, 4, 4)], broken)
    assert all(module.training for module in model)
    assert torch.is_grad_enabled()


def test_a_layer_is_read_beside_the_scores(model):
    images = torch.randn(5, 1, 4, 4)
    found = read_outputs(model, images.split(2), lambda _, features: features, model[2])
    model.eval()
    torch.testing.assert_close(found, model[2](images.relu().flatten(1)))


@pytest.mark.parametrize(
    "wrap", [lambda m: m, lambda m: lambda x: m(x)], ids=["module", "function"]
)
def test_images_are_converted_to_what_the_model_takes(model, wrap):
    images = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    found = read_outputs(wrap(model), [images], scores_only)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.eval()(images.float()))


def test_what_gives_no_scores_is_refused(model):
    images = torch.randn(4, 1, 4, 4)
    for broken, message in (
        (lambda x: model(x).softmax(1), "probabilities; leave out the softmax"),
        (lambda x: model(x) * torch.nan, "NaN or infinite"),
        (lambda x: model(x)[:, 0], "N x C class scores"),
    ):
        with pytest.raises(ValueError, match=message):
            read_outputs(broken, [images], scores_only)


def test_reconstructions_have_the_images_dtype_and_leave_the_autoencoder_as_found():
    torch.manual_seed(0)
    autoencoder = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(2), nn.Dropout())
    images = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    kept = images.clone()
    found = reconstructions(autoencoder, images, 2)
    assert all(module.training for module in autoencoder)
    assert torch.equal(images, kept)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), autoencoder.eval()(kept.float()))


def test_reconstructions_of_another_shape_and_nan_are_refused():
    images = torch.rand(3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\), got \(2, 16\)"):
        reconstructions(nn.Flatten(), images, 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        reconstructions(lambda x: x / 0, images, 2)


def test_scores_that_depend_on_the_images_beside_are_warned_of(model):
    images = torch.randn(4, 1, 4, 4)
    for doubtful in (
        lambda x: model(x) - model(x).mean(0),
        lambda x: model(x) + torch.randn(3),
    ):
        with pytest.warns(UserWarning, match="other scores when it sees it again, alone"):
            read_outputs(doubtful, [images], scores_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_outputs(model, images.split(2), scores_only)
        read_outputs(lambda x: model(x.reshape(4, 1, 4, 4)), [images], scores_only)
