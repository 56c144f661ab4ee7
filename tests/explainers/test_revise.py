"""REVISE against equation 3 written out for one image, with decoders of every kind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import REVISE
from captum_deduce.models import VAE
from captum_deduce.training.autoencoders import train_vae
from tests import reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits

ADAM = {"optimizer": "adam", "distance_weight": 0.1, "max_iterations": 200}


@pytest.fixture(scope="module")
def trained_vae() -> VAE:
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images[:1200]).float().unsqueeze(1) / 16
    torch.manual_seed(0)
    vae = VAE(image_size=8, latent_size=12, hidden_channels=8)
    train_vae(vae, images, epochs=20, batch_size=50, learning_rate=3e-3)
    return vae.double().eval()


@pytest.fixture
def vae(trained_vae: VAE) -> VAE:
    return copy.deepcopy(trained_vae)


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    """Images with targets that are not the model's own prediction, all classes among them."""
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


def ball(images: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of each image's own: within a radius that differs from image to image, and [0, 1]."""
    radius = torch.linspace(0.3, 0.7, len(images), dtype=images.dtype).view(-1, 1, 1, 1)
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def own(bound: float | np.ndarray, i: int) -> float | np.ndarray:
    """Of one image, where each has its own."""
    return bound[i] if isinstance(bound, np.ndarray) and bound.ndim == 4 else bound


def assert_equals_reference(
    digits: Digits, vae: VAE, count: int, mask: np.ndarray | None = None, **settings: object
) -> None:
    images, targets = pairs_of(digits, count)
    result = REVISE(digits.model, vae).generate(
        images,
        targets,
        mask=None if mask is None else torch.from_numpy(mask),
        return_trajectory=True,
        internal_batch_size=4,
        **{
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in settings.items()
        },
    )
    bounds = {
        name.removesuffix("_bound"): settings.pop(name)
        for name in ("lower_bound", "upper_bound")
        if name in settings
    }
    settings.setdefault("learning_rate", 0.05 if settings.get("optimizer") == "adam" else 1e-5)
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        with torch.no_grad():
            latent = vae.encode(image.unsqueeze(0))[0][0].numpy()
        expected = reference.revise(
            image.numpy(),
            target,
            latent,
            lambda z: vae.decode(z.unsqueeze(0))[0],
            lambda x: digits.model(x.unsqueeze(0))[0],
            mask=mask,
            **{name: own(bound, i) for name, bound in bounds.items()},
            **settings,
        )
        path = result.trajectory[i].numpy()
        assert len(path) == len(expected.path)
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-9)
        assert result.success[i].item() == expected.success
        assert result.iterations[i].item() == expected.steps
        assert result.evaluations[i].item() == len(path)
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_iterations": 30},
        {"learning_rate": 0.01, "max_iterations": 200},
        {"learning_rate": 0.05, "max_iterations": 60, "select": "closest", "distance_weight": 0.1},
        ADAM,
        ADAM | {"learning_rate": 0.2, "distance_weight": 1.0, "max_iterations": 60},
        ADAM | {"distance_weight": 0.0},
        ADAM | {"select": "closest", "max_iterations": 80},
        ADAM | {"confidence": 0.95},
        ADAM | {"confidence": 0.2},
        ADAM | {"max_iterations": 0},
        ADAM | {"max_iterations": 1},
        ADAM | {"mask": np.arange(64).reshape(1, 8, 8) % 4 > 0},
        ADAM | {"upper_bound": np.linspace(1, 2, 8)},
        ADAM | {"lower_bound": -1.0, "upper_bound": 3.0},
    ],
    ids=str,
)
def test_every_setting_equals_its_naive_form(digits, vae, settings):
    assert_equals_reference(digits, vae, 6, **settings)


def test_bounds_of_each_image_equal_the_naive_form_with_these(digits, vae):
    lower, upper = (bound.numpy() for bound in ball(pairs_of(digits, 6)[0]))
    assert_equals_reference(digits, vae, 6, **ADAM, lower_bound=lower, upper_bound=upper)


def test_it_is_clipped_where_the_decoder_leaves_the_bounds(digits):
    """Without a gradient there: principal components draw below 0 and above 1."""
    images, targets = pairs_of(digits, 6)
    model = PrincipalComponents(digits.train_images)
    settings = ADAM | {"select": "closest", "max_iterations": 40}
    result = REVISE(digits.model, model.decoder, encoder=model.encoder).generate(
        images, targets, return_trajectory=True, **settings
    )
    clipped = 0
    for i, image in enumerate(images):
        expected = reference.revise(
            image.numpy(),
            int(targets[i]),
            model.encoder(image.unsqueeze(0))[0].detach().numpy(),
            lambda z: model.decoder(z.unsqueeze(0))[0],
            lambda x: digits.model(x.unsqueeze(0))[0],
            learning_rate=0.05,
            **settings,
        )
        path = result.trajectory[i][1:].numpy()
        np.testing.assert_allclose(path, np.stack(expected.path[1:]), rtol=0, atol=1e-9)
        clipped += int((path == 0).sum() + (path == 1).sum())
    assert clipped > 100
    assert result.counterfactuals.min() == 0


def test_the_original_comes_first_and_then_its_reconstruction(digits, vae):
    images, targets = pairs_of(digits, 4)
    result = REVISE(digits.model, vae, **ADAM).generate(images, targets, return_trajectory=True)
    with torch.no_grad():
        reconstructions = vae.decode(vae.encode(images)[0])
    for i, path in enumerate(result.trajectory):
        assert torch.equal(path[0], images[i])
        torch.testing.assert_close(path[1], reconstructions[i], rtol=0, atol=1e-12)
    assert torch.equal(result.prediction, digits.model(images).argmax(1))


def test_what_it_finds_is_drawn_by_the_decoder(digits, vae):
    """All but the mask's zeros: some latent gives exactly the image."""
    images, targets = pairs_of(digits, 4)
    mask = torch.ones(1, 8, 8)
    mask[:, :3] = 0
    explainer = REVISE(digits.model, vae, **ADAM)
    drawn = explainer.generate(images, targets, return_trajectory=True)
    masked = explainer.generate(images, targets, mask=mask)
    assert torch.equal(masked.counterfactuals[:, :, :3], images[:, :, :3])
    assert (masked.counterfactuals[:, :, 3:] != images[:, :, 3:]).all()
    for image in drawn.counterfactuals:
        code = vae.encode(image.unsqueeze(0))[0].detach().requires_grad_()
        optimizer = torch.optim.LBFGS([code], max_iter=400, line_search_fn="strong_wolfe")

        def error(code: Tensor = code, image: Tensor = image) -> Tensor:
            loss = (vae.decode(code)[0] - image).square().sum()
            code.grad = torch.autograd.grad(loss, code)[0]
            return loss.detach()

        optimizer.step(error)
        assert error() < 1e-6


# --- the ways to pass a generative model ---


class OnlyDecodes:
    """No module itself, and its encoder gives no tuple."""

    def __init__(self, vae: VAE) -> None:
        self.vae = vae

    def encode(self, images: Tensor) -> Tensor:
        return self.vae.encode(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


def test_all_ways_to_pass_a_generative_model_give_the_same(digits, vae):
    images, targets = pairs_of(digits, 5)
    expected = REVISE(digits.model, vae, **ADAM).generate(images, targets)
    with torch.no_grad():
        codes = vae.encode(images)[0]
    for given, arguments in (
        (OnlyDecodes(vae), {}),
        (vae.decode, {"encoder": vae.encode}),
        (vae.decode, {"encoder": lambda x: vae.encode(x)[0]}),
        (lambda z: vae.decode(z), {"initial_latent": codes}),
        (vae, {"initial_latent": codes.float().double() * 0 + codes}),
    ):
        explainer = REVISE(digits.model, given, **arguments, **ADAM)
        for size in (None, 2):
            result = explainer.generate(images, targets, internal_batch_size=size)
            torch.testing.assert_close(
                result.counterfactuals, expected.counterfactuals, rtol=0, atol=1e-9
            )


def test_one_latent_may_stand_for_all_images_and_have_any_shape(digits, vae):
    class Generator(nn.Module):
        """Takes 12 x 1 x 1 latents, as GANs do."""

        def forward(self, latents: Tensor) -> Tensor:
            return vae.decode(latents.flatten(1))

    images, targets = pairs_of(digits, 5)
    origin = torch.zeros(1, 12, 1, 1)
    result = REVISE(digits.model, Generator(), initial_latent=origin, **ADAM).generate(
        images, targets, return_trajectory=True
    )
    with torch.no_grad():
        first = vae.decode(torch.zeros(1, 12).double())[0]
    for path in result.trajectory:
        torch.testing.assert_close(path[1], first, rtol=0, atol=1e-12)
    assert result.success.any()
    assert torch.equal(origin, torch.zeros(1, 12, 1, 1))


def test_decoders_that_work_in_place_do_no_harm(digits, vae):
    class InPlace(nn.Module):
        def forward(self, latents: Tensor) -> Tensor:
            return vae.decode(latents.mul_(2))

    class Encoder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return vae.encode(images.mul_(1))[0] / 2

    images, targets = pairs_of(digits, 3)
    before = images.clone()
    result = REVISE(digits.model, InPlace(), encoder=Encoder(), **ADAM).generate(images, targets)
    assert torch.equal(images, before)
    assert result.success.any()


def test_the_generative_model_is_left_as_it_was(digits, vae):
    model = nn.Sequential(vae.decoder, nn.Dropout(0.5)).train()
    model[0][1].eval()
    model[0][0].bias.requires_grad_(False)

    def decode(latents: Tensor) -> Tensor:
        return model(latents).sigmoid()

    def state() -> list[object]:
        return [
            [module.training for module in [*model.modules(), *vae.modules()]],
            [(p.requires_grad, p.grad, p._version) for p in vae.parameters()],
        ]

    images, targets = pairs_of(digits, 4)
    explainer = REVISE(digits.model, decode, encoder=vae.encode, **ADAM)
    before = state()
    result = explainer.generate(images, targets)
    assert state() == before
    again = explainer.generate(images, targets)
    assert torch.equal(result.counterfactuals, again.counterfactuals)
    for error in (RuntimeError, KeyboardInterrupt):
        calls = iter(range(4))

        def fails_later(*_: object, calls=calls, error=error) -> None:
            if next(calls) == 3:
                raise error

        handle = model[1].register_forward_hook(fails_later)
        with pytest.raises(error):
            explainer.generate(images, targets)
        handle.remove()
        assert state() == before


# --- what its settings promise ---


def test_the_closest_success_is_the_closest_and_never_farther_than_the_first(digits, vae):
    images, targets = pairs_of(digits, 9)
    explainer = REVISE(digits.model, vae, **ADAM)
    first = explainer.generate(images, targets)
    closest = explainer.generate(images, targets, select="closest", return_trajectory=True)
    found = first.success
    assert found.sum() >= 8
    assert torch.equal(closest.success, found)
    assert (closest.l1() <= first.l1() + 1e-12)[found].all()
    assert closest.l1()[found].mean() < 0.97 * first.l1()[found].mean()
    assert closest.iterations.tolist() == [ADAM["max_iterations"]] * 9
    for i in found.nonzero().flatten().tolist():
        path = closest.trajectory[i]
        with torch.no_grad():
            confidence = digits.model(path).softmax(1)[:, targets[i]]
        distance = (path - images[i]).abs().flatten(1).sum(1)[confidence > 0.5]
        assert closest.l1()[i].item() == pytest.approx(distance.min().item(), rel=1e-12)


def test_a_larger_weight_keeps_nearer_to_the_original(digits, vae):
    images, targets = pairs_of(digits, 9)
    explainer = REVISE(digits.model, vae, optimizer="adam", max_iterations=300)
    near = explainer.generate(images, targets, distance_weight=0.5)
    far = explainer.generate(images, targets, distance_weight=0.0)
    both = near.success & far.success
    assert both.sum() >= 5
    assert near.l1()[both].mean() < far.l1()[both].mean()


def test_a_pair_without_success_holds_its_best_attempt(digits, vae):
    images, targets = pairs_of(digits, 6)
    result = REVISE(digits.model, vae, **ADAM | {"distance_weight": 20.0}).generate(
        images, targets, max_iterations=50, confidence=0.99, return_trajectory=True
    )
    assert not result.success.any()
    assert result.iterations.tolist() == [50] * 6
    for i, path in enumerate(result.trajectory):
        with torch.no_grad():
            confidence = digits.model(path).softmax(1)[:, targets[i]]
        assert torch.equal(result.counterfactuals[i], path[confidence.argmax()])


def test_a_decoder_without_a_slope_ends_the_pair(digits, vae):
    def saturated(latents: Tensor) -> Tensor:
        return vae.decode(latents) + 2

    images, targets = pairs_of(digits, 2)
    result = REVISE(digits.model, saturated, encoder=vae.encode, **ADAM).generate(
        images, targets, confidence=0.999
    )
    assert result.iterations.tolist() == [1, 1]
    assert not result.success.any()


def test_normalised_inputs_give_the_same_as_a_normalisation_inside_the_model(digits, vae):
    mean, std = 0.3, 0.25

    class Denormalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * std + mean

    images, targets = pairs_of(digits, 5)
    raw = REVISE(digits.model, vae, **ADAM).generate(images, targets)
    own_units = REVISE(
        nn.Sequential(Denormalise(), *digits.model),
        lambda z: (vae.decode(z) - mean) / std,
        encoder=lambda x: vae.encode(x * std + mean)[0],
        lower_bound=(0 - mean) / std,
        upper_bound=(1 - mean) / std,
        **ADAM,
    ).generate((images - mean) / std, targets)
    assert raw.success.any()
    assert own_units.iterations.tolist() == raw.iterations.tolist()
    torch.testing.assert_close(
        own_units.counterfactuals * std + mean, raw.counterfactuals, rtol=0, atol=1e-8
    )


def test_the_default_learning_rate_suits_the_optimizer(digits, vae):
    images, targets = pairs_of(digits, 2)
    for optimizer, rate in (("sgd", 1e-5), ("adam", 0.05)):
        explainer = REVISE(
            digits.model, vae, optimizer=optimizer, max_iterations=10, confidence=0.99
        )
        implicit = explainer.generate(images, targets, return_trajectory=True)
        explicit = explainer.generate(images, targets, learning_rate=rate, return_trajectory=True)
        for path, same in zip(implicit.trajectory, explicit.trajectory, strict=True):
            assert torch.equal(path, same)
            assert not torch.equal(path[1], path[2])


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"confidence": 1.0}, ValueError, r"confidence must be .* in \(0, 1\), got 1.0"),
        ({"distance_weight": -1.0}, ValueError, "distance_weight"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, got str"),
        ({"max_iterations": -1}, ValueError, "max_iterations"),
        ({"max_iterations": 2.5}, TypeError, "max_iterations must be an int, got float"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of 'sgd', 'adam', got"),
        ({"select": "last"}, ValueError, "select must be one of 'first', 'closest', got 'last'"),
        ({"initial_latent": [0.0]}, TypeError, "initial_latent must be a torch.Tensor or None"),
    ],
    ids=str,
)
def test_settings_that_are_refused_at_construction_and_in_a_call(
    digits, vae, settings, error, message
):
    with pytest.raises(error, match=message):
        REVISE(digits.model, vae, **settings)
    with pytest.raises(error, match=message):
        REVISE(digits.model, vae).generate(digits.images[:1], 3, **settings)


def test_no_generative_model_or_no_place_to_begin(digits, vae):
    with pytest.raises(TypeError, match=r"vae must have the methods encode and decode.*got int"):
        REVISE(digits.model, 3)
    with pytest.raises(ValueError, match="vae has no method encode: pass encoder"):
        REVISE(digits.model, vae.decode)


@pytest.mark.parametrize(
    ("decoder", "error", "message"),
    [
        (
            lambda z: z[:, :1].view(-1, 1, 1, 1).expand(-1, 1, 28, 28),
            ValueError,
            r"decoder must return images like the inputs.*\(2, 1, 8, 8\).*got \(2, 1, 28, 28\)",
        ),
        (lambda z: z[:1].expand(1, 12), ValueError, r"decoder .*got \(1, 12\)"),
        (lambda z: (z,), TypeError, "decoder must return a tensor, got tuple"),
        (
            lambda z: z[:, :1].view(-1, 1, 1, 1).expand(-1, 1, 8, 8).float(),
            ValueError,
            "decoder .*torch.float64.*got .*torch.float32",
        ),
        (lambda z: torch.zeros(len(z), 1, 8, 8).double(), ValueError, "can be differentiated"),
    ],
)
def test_decoders_that_do_not_fit_are_refused_before_any_work(digits, vae, decoder, error, message):
    explainer = REVISE(digits.model, decoder, encoder=vae.encode)
    with pytest.raises(error, match=message):
        explainer.generate(digits.images[:3], 3)


def test_a_vae_for_other_images_is_refused(digits):
    with pytest.raises(ValueError, match=r"decoder must .*\(2, 1, 8, 8\).*got \(2, 1, 28, 28\)"):
        REVISE(digits.model, VAE().double().decode, initial_latent=torch.zeros(1, 32)).generate(
            digits.images[:3], 3
        )
    with pytest.raises(
        ValueError, match=r"inputs are torch.float64 .*parameters are torch.float32"
    ):
        REVISE(digits.model, VAE(image_size=8)).generate(digits.images[:3], 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"encoder": lambda x: "z"},
            TypeError,
            "encoder must return latents, or a tuple .*got str",
        ),
        (
            {"encoder": lambda x: x.flatten(1).long()},
            TypeError,
            "encoder must return floating-point latents, got torch.int64",
        ),
        ({"encoder": lambda x: x[:1]}, ValueError, r"one latent per image \(2\), got shape \(1, 1"),
        (
            {"initial_latent": torch.zeros(4, 12)},
            ValueError,
            r"initial_latent must hold .*\(3 x ...\), got shape \(4, 12\)",
        ),
        ({"initial_latent": torch.zeros(12)}, ValueError, r"\(1 x ...\) or .*got shape \(12,\)"),
    ],
    ids=["no tensor", "integers", "rows", "latents", "one row"],
)
def test_places_to_begin_that_do_not_fit_are_refused(digits, vae, arguments, error, message):
    explainer = REVISE(digits.model, vae.decode, **arguments)
    with pytest.raises(error, match=message):
        explainer.generate(digits.images[:3], 3)
