"""LatentShift against its formulas written out for one image, and the images on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from captum_deduce import LatentShift
from captum_deduce.models import VAE
from captum_deduce.visualization import save_animation
from tests import reference_siblings as reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits


@pytest.fixture
def space(digits) -> PrincipalComponents:
    return PrincipalComponents(digits.train_images)


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


def assert_equals_reference(
    model: nn.Module,
    space: PrincipalComponents,
    images: Tensor,
    target: Tensor | None,
    *,
    mask: Tensor | None = None,
    lower: float | Tensor = 0.0,
    upper: float | Tensor = 1.0,
    **settings: object,
) -> None:
    explainer = LatentShift(
        model,
        space.decoder,
        encoder=space.encoder,
        direction="lower" if target is None else "raise",
        lower_bound=lower,
        upper_bound=upper,
        **settings,
    )
    result = explainer.generate(
        images, target, mask=mask, return_trajectory=True, internal_batch_size=4
    )
    shift = explainer.path(images, target, mask=mask).shift
    for i, image in enumerate(images):
        with torch.no_grad():
            code = space.encoder(images[i : i + 1])[0].numpy()
        expected = reference.latent_shift(
            image.numpy(),
            None if target is None else int(target[i]),
            lambda x: model(x.unsqueeze(0))[0],
            lambda z: space.decoder(z.unsqueeze(0))[0],
            code,
            mask=None if mask is None else np.broadcast_to(mask.numpy() != 0, image.shape),
            lower=lower,
            upper=upper,
            **settings,
        )
        path = result.trajectory[i].numpy()
        assert len(path) == len(expected.path)
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-9)
        assert result.success[i].item() == expected.success
        assert shift[i].item() == pytest.approx(expected.shift, abs=1e-9)
        assert result.evaluations[i] == 1
        assert result.forward_evaluations[i] == len(path)
        assert result.iterations[i] == len(path) - 1


def test_equals_the_naive_form_step_by_step(digits, space):
    assert_equals_reference(digits.model, space, *pairs_of(digits, 9))


@pytest.mark.parametrize("confidence", [0.3, 0.9])
def test_equals_the_naive_form_for_other_confidences(digits, space, confidence):
    pairs = pairs_of(digits, 5)
    assert_equals_reference(digits.model, space, *pairs, confidence=confidence, score="score")


def test_equals_the_naive_form_when_a_class_is_lowered(digits, space):
    assert_equals_reference(digits.model, space, digits.images[:6], None)
    assert_equals_reference(digits.model, space, digits.images[:6], None, confidence=0.8)


def test_equals_the_naive_form_with_a_mask_and_bounds(digits, space):
    mask = torch.zeros(8, 8)
    mask[1:, 1:7] = 1
    images, target = pairs_of(digits, 4)
    upper = torch.full((1, 8, 8), 0.95).double()
    assert_equals_reference(
        digits.model,
        space,
        images.clamp(0.05, 0.95),
        target,
        mask=mask,
        lower=torch.full((1, 8, 8), 0.05).double(),
        upper=upper,
        max_iterations=20,
        growth=2.0,
    )


def test_the_shift_is_the_least_of_the_line(digits, space):
    """By a fine scan of the line, drawn and judged by hand."""
    images, target = pairs_of(digits, 6)
    explainer = LatentShift(digits.model, space.decoder, encoder=space.encoder, tolerance=1e-3)
    path = explainer.path(images, target, frames=200)
    assert path.result.success.all()
    with torch.no_grad():
        for frames, shift, goal in zip(path.frames, path.shift, target, strict=True):
            p = digits.model(frames).softmax(1)[:, goal]
            assert p[-1] > 0.5
            assert (p[:-1] <= 0.5).all()
            assert shift > 0


def test_saturated_probabilities_have_a_direction(digits, space):
    """A thousandfold logits: their softmax has a gradient of 0, their log-odds have not."""
    images, target = pairs_of(digits, 4)
    plain = LatentShift(digits.model, space.decoder, encoder=space.encoder)
    sharp = LatentShift(lambda x: 1e3 * digits.model(x), space.decoder, encoder=space.encoder)
    result = sharp.generate(images, target)
    assert result.success.all()
    assert torch.equal(plain.generate(images, target).success, result.success)
    lowered = sharp.generate(images, direction="lower")
    assert lowered.success.all()
    assert (lowered.target != lowered.prediction).all()


def test_the_frames_lead_from_the_reconstruction_to_the_counterfactual(digits, space):
    images, target = pairs_of(digits, 5)
    explainer = LatentShift(digits.model, space.decoder, encoder=space.encoder)
    path = explainer.path(images, target, frames=7, internal_batch_size=2)
    plain = explainer.generate(images, target)
    torch.testing.assert_close(path.result.counterfactuals, plain.counterfactuals)
    with torch.no_grad():
        reconstruction = space(images).clamp(0, 1)
    torch.testing.assert_close(path.frames[:, 0], reconstruction)
    torch.testing.assert_close(path.frames[:, -1], plain.counterfactuals)
    error = (images - reconstruction).abs().sum((1, 2, 3))
    torch.testing.assert_close(path.reconstruction_error, error)
    assert path.frames.shape == (5, 7, 1, 8, 8)


def test_heat_maps(digits, space):
    images, target = pairs_of(digits, 3)
    path = LatentShift(digits.model, space.decoder, encoder=space.encoder).path(images, target)
    frames = path.frames.numpy()
    steps = np.abs(frames[:, 1:] - frames[:, :-1])
    np.testing.assert_allclose(path.heat_map().numpy(), steps.mean(1), atol=1e-12)
    np.testing.assert_allclose(path.heat_map("max").numpy(), steps.max(1), atol=1e-12)
    ends = np.abs(frames[:, -1] - frames[:, 0])
    np.testing.assert_allclose(path.heat_map("ends").numpy(), ends, atol=1e-12)
    with pytest.raises(ValueError, match="kind must be one of 'mean', 'max', 'ends'"):
        path.heat_map("sum")


def test_the_way_can_be_animated(digits, space, tmp_path):
    images, target = pairs_of(digits, 2)
    path = LatentShift(digits.model, space.decoder, encoder=space.encoder).path(images, target)
    film = save_animation(path.result, 1, tmp_path / "shift.gif", digits.model)
    with Image.open(film) as picture:
        assert picture.n_frames >= 10


def test_a_model_without_a_gradient_there_fails(digits, space):
    dead = LatentShift(digits.model, lambda z: 0 * space.decoder(z), encoder=space.encoder)
    with torch.no_grad():
        blank = int(digits.model(torch.zeros(1, 1, 8, 8).double()).argmax())
    images = digits.images[:3]
    result = dead.generate(images, (blank + 1) % 10)
    assert result.iterations.tolist() == [0, 0, 0]
    assert torch.equal(result.counterfactuals, images)


def test_a_vae_and_colour():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    vae = VAE(in_channels=3, image_size=8)
    images = torch.rand(3, 3, 8, 8)
    path = LatentShift(model, vae).path(images, frames=3)
    assert path.frames.shape == (3, 3, 3, 8, 8)
    assert vae.training


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"direction": "up"}, ValueError, "direction must be one of 'raise', 'lower'"),
        ({"score": "probability"}, ValueError, "score must be one of 'log_odds', 'score'"),
        ({"growth": 1.0}, ValueError, "growth must be a finite number"),
        ({"first_shift": 0}, ValueError, "first_shift must be a finite number"),
        ({"encoder": None}, ValueError, "vae has no method encode"),
        ({"vae": 3}, TypeError, "vae must have the methods encode and decode"),
    ],
)
def test_what_is_refused(digits, space, settings, error, message):
    given = {"vae": space.decoder, "encoder": space.encoder, **settings}
    with pytest.raises(error, match=message):
        LatentShift(digits.model, given.pop("vae"), **given)


def test_a_target_to_be_lowered_is_refused(digits, space):
    explainer = LatentShift(digits.model, space.decoder, encoder=space.encoder, direction="lower")
    with pytest.raises(ValueError, match='target must be None where direction="lower"'):
        explainer.generate(digits.images[:2], 3)
    with pytest.raises(ValueError, match="frames must be a finite number"):
        explainer.path(digits.images[:2], frames=1)
