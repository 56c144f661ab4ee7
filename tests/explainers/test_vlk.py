"""VLK against its naive form for one image in float64; what it promises and refuses."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import VLK, PrototypeIndex
from tests import reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits, digits_network, train_briefly

GENTLE = {"beta": 0.01, "gamma": 1.0, "theta": 10.0, "max_iterations": 12}
"""Settings under which a run is short and not chaotic."""


class Parts:
    """The models around a classifier of digits."""

    def __init__(self, digits: Digits) -> None:
        self.digits = digits
        self.model = digits.model
        self.autoencoder = PrincipalComponents(digits.train_images)
        self.encoder = self.autoencoder.encoder
        self.prototypes = PrototypeIndex.from_loader(
            self.model, self.encoder, digits.train_images.split(500)
        )

    def explainer(self, **settings) -> VLK:
        return VLK(
            self.model, self.autoencoder, self.encoder, self.prototypes, **(GENTLE | settings)
        )

    def rows(self, encoder: nn.Module | None = None) -> dict[int, np.ndarray]:
        """Features of the training images by the class that the model predicts."""
        images = self.digits.train_images
        with torch.no_grad():
            predicted = self.model(images).argmax(1)
            features = (encoder or self.encoder)(images).flatten(1).numpy()
        return {c: features[predicted.numpy() == c] for c in range(10)}


@pytest.fixture
def parts(digits) -> Parts:
    return Parts(digits)


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    """Images with targets that are not the model's own prediction."""
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


def ball(images: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of each image's own: within a radius that differs from image to image, and [0, 1]."""
    radius = torch.linspace(0.3, 0.7, len(images), dtype=images.dtype).view(-1, 1, 1, 1)
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def own(value: object, i: int) -> object:
    """Of one image, where each has its own."""
    return value[i] if isinstance(value, np.ndarray) and value.ndim == 4 else value


def assert_equals_reference(
    explainer: VLK, rows: dict[int, np.ndarray], images: Tensor, targets: Tensor | None, **settings
) -> list[reference.GuidedAttempt]:
    """Every image on the way, and what is returned."""
    calls = {name: settings.pop(name) for name in ("mask", "lower", "upper") if name in settings}
    bounds = {f"{name}_bound": calls[name] for name in ("lower", "upper") if name in calls}
    result = explainer.generate(
        images,
        targets,
        mask=calls.get("mask"),
        internal_batch_size=3,
        return_trajectory=True,
        **bounds,
        **settings,
    )
    encoder = explainer.encoder or nn.Flatten()
    naive = {name: getattr(explainer, name) for name in NUMBERS} | settings
    naive |= {name: value.numpy() for name, value in calls.items()}
    attempts = []
    for i, image in enumerate(images):
        expected = reference.vlk(
            image.numpy(),
            None if targets is None else int(targets[i]),
            lambda x: explainer.forward_func(x.unsqueeze(0))[0],
            lambda x: (explainer.autoencoder or nn.Identity())(x.unsqueeze(0))[0],
            lambda x: encoder(x.unsqueeze(0))[0].flatten(),
            rows,
            **{name: own(value, i) for name, value in naive.items()},
        )
        attempts.append(expected)
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-9)
        found = result.counterfactuals[i].numpy()
        np.testing.assert_allclose(found, expected.image, rtol=0, atol=1e-9)
        assert result.success[i].item() == expected.success
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-6)
        assert result.target[i].item() == expected.target
        assert result.iterations[i].item() == len(expected.path) - 1
    return attempts


NUMBERS = (
    "kappa", "beta", "gamma", "theta", "c_init", "c_steps", "max_iterations",
    "learning_rate_init", "k", "k_type", "clip",
)  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kappa": 0.4},
        {"c_init": 0.1, "c_steps": 4, "max_iterations": 8},
        {"c_init": 100.0, "c_steps": 4, "max_iterations": 8},
        {"beta": 0.0},
        {"beta": 0.1, "gamma": 100.0, "theta": 100.0},
        {"clip": 0.5, "learning_rate_init": 0.05},
        {"k": None},
        {"k": 3, "k_type": "point"},
        {"theta": 0.0},
        {"gamma": 0.0},
    ],
    ids=str,
)
def test_every_setting_equals_its_reference(parts, settings):
    images, targets = pairs_of(parts.digits, 4)
    rows = parts.rows()
    for given in (targets, None):
        assert_equals_reference(parts.explainer(), rows, images, given, **settings)


def test_rounds_differ_in_their_weights_among_pairs(parts):
    """Some pairs succeed early and close in, others fail and rise: each by its own schedule."""
    images, targets = pairs_of(parts.digits, 10)
    rows = parts.rows()
    attempts = assert_equals_reference(
        parts.explainer(), rows, images, targets, theta=3.0, c_steps=4
    )
    assert len({tuple(attempt.weights) for attempt in attempts}) > 2
    assert {attempt.success for attempt in attempts} == {True, False}


def test_without_an_encoder_images_are_drawn_to_images(parts):
    images, targets = pairs_of(parts.digits, 5)
    prototypes = PrototypeIndex.from_loader(parts.model, None, [parts.digits.train_images])
    explainer = VLK(parts.model, parts.autoencoder, None, prototypes, **GENTLE)
    rows = parts.rows(nn.Identity())
    for k_type in ("mean", "point"):
        assert_equals_reference(explainer, rows, images, targets, k=2, k_type=k_type)


def test_the_prediction_loss_may_stand_alone(parts):
    images, _ = pairs_of(parts.digits, 5)
    explainer = VLK(parts.model, **GENTLE)
    nothing = {c: np.zeros((5, 64)) for c in range(10)}
    settings = {"c_init": 10.0, "c_steps": 3}
    attempts = assert_equals_reference(
        explainer, nothing, images, None, gamma=0.0, theta=0.0, **settings
    )
    assert any(attempt.success for attempt in attempts)
    result = explainer.generate(images, **settings)
    assert result.success.tolist() == [attempt.success for attempt in attempts]


def test_masked_entries_and_tensor_bounds_equal_their_reference(parts):
    images, targets = pairs_of(parts.digits, 6)
    images = images.clamp(0.1, 0.8)
    rows = parts.rows()
    mask = torch.zeros(1, 8, 8)
    mask[:, 1:7, 2:6] = 1
    upper = torch.linspace(0.8, 1.2, 8, dtype=torch.float64).view(1, 8, 1)
    lower = torch.full((1, 1, 1), 0.1, dtype=torch.float64)
    assert_equals_reference(
        parts.explainer(), rows, images, targets, mask=mask, lower=lower, upper=upper
    )


def test_bounds_of_each_image_equal_their_reference(parts):
    images, targets = pairs_of(parts.digits, 6)
    lower, upper = ball(images)
    assert_equals_reference(
        parts.explainer(), parts.rows(), images, targets, lower=lower, upper=upper
    )


def test_normalised_inputs_give_the_same_as_a_normalisation_inside_the_models():
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = torch.from_numpy(data.images).unsqueeze(1) / 16
    images = grey * torch.tensor([1.0, 0.5, 0.8]).view(3, 1, 1)
    labels = torch.from_numpy(data.target)
    mean = torch.tensor([0.3, 0.2, 0.5]).view(3, 1, 1).double()
    std = torch.tensor([0.2, 0.7, 0.4]).view(3, 1, 1).double()

    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - mean) / std

    class Restore(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * std + mean

    takes_normalised = digits_network(channels=3).double()
    train_briefly(takes_normalised, (images[:1200] - mean) / std, labels[:1200], epochs=6)
    outside = PrincipalComponents((images[:1200] - mean) / std)
    model = nn.Sequential(Normalise(), takes_normalised).eval()
    encoder = nn.Sequential(Normalise(), outside.encoder)
    autoencoder = nn.Sequential(encoder, outside.decoder, Restore())
    prototypes = PrototypeIndex.from_loader(model, encoder, [images[:1200]])
    originals, targets = images[1200:1208], (labels[1200:1208] + 3) % 10

    raw = VLK(model, autoencoder, encoder, prototypes, **GENTLE).generate(originals, targets)
    own_units = VLK(
        takes_normalised,
        outside,
        outside.encoder,
        prototypes,
        lower_bound=(0 - mean) / std,
        upper_bound=(1 - mean) / std,
        **GENTLE,
    ).generate((originals - mean) / std, targets)
    assert raw.success.any()
    assert (raw.l0() > 0).all()
    assert own_units.success.tolist() == raw.success.tolist()
    torch.testing.assert_close(
        own_units.counterfactuals * std + mean, raw.counterfactuals, rtol=0, atol=1e-9
    )


# --- what is returned ---


def test_the_closest_success_of_all_rounds_is_returned(parts):
    images, targets = pairs_of(parts.digits, 10)
    explainer = parts.explainer(max_iterations=25, c_steps=3)
    result = explainer.generate(images, targets, return_trajectory=True)
    assert result.success.all()
    for i, path in enumerate(result.trajectory):
        assert len(path) == 76
        with torch.no_grad():
            reached = parts.model(path).argmax(1) == targets[i]
        moved = (path[reached] - images[i]).flatten(1)
        closest = (moved**2).sum(1) + 0.01 * moved.abs().sum(1)
        assert torch.equal(path[reached][closest.argmin()], result.counterfactuals[i])
        starts = [torch.equal(image, images[i]) for image in path]
        assert starts[0]


def test_any_class_will_do_without_a_target(parts):
    images, _ = pairs_of(parts.digits, 10)
    explainer = parts.explainer(max_iterations=25)
    result = explainer.generate(images)
    with torch.no_grad():
        scores = parts.model(result.counterfactuals)
    assert result.success.all()
    assert torch.equal(result.target, scores.argmax(1))
    assert (result.target != result.prediction).all()
    confidence = scores.softmax(1).gather(1, result.target.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(result.confidence, confidence)
    assert (result.forward_evaluations == result.iterations + 2).all()


def test_a_failure_without_a_target_names_the_class_that_came_nearest(parts):
    images, _ = pairs_of(parts.digits, 6)
    result = parts.explainer().generate(images, kappa=1.0, return_trajectory=True)
    assert not result.success.any()
    for i, path in enumerate(result.trajectory):
        with torch.no_grad():
            others = parts.model(path).softmax(1)
        others[:, result.prediction[i]] = 0
        best, classes = others.max(1)
        assert torch.equal(result.counterfactuals[i], path[best.argmax()])
        assert result.target[i] == classes[best.argmax()]
        torch.testing.assert_close(result.confidence[i], best.max())


def test_kappa_is_how_far_the_original_class_falls_behind(parts):
    images, targets = pairs_of(parts.digits, 10)
    explainer = parts.explainer(max_iterations=40, c_init=10.0, theta=30.0)
    result = explainer.generate(images, targets, kappa=0.5)
    assert result.success.sum() > 5
    with torch.no_grad():
        p = parts.model(result.counterfactuals[result.success]).softmax(1)
    own = p.gather(1, result.prediction[result.success].unsqueeze(1)).squeeze(1)
    assert (p.max(1).values - own >= 0.5).all()


def test_a_pair_that_is_there_leaves_at_once_and_the_others_go_on(parts):
    images, targets = pairs_of(parts.digits, 6)
    explainer = parts.explainer()
    expected = explainer.generate(images, targets)
    mixed = targets.clone()
    mixed[1::2] = expected.prediction[1::2]
    result = explainer.generate(images, mixed)
    assert result.iterations.tolist() == [24, 0] * 3
    assert result.success[1::2].all()
    assert torch.equal(result.counterfactuals[1::2], images[1::2])
    torch.testing.assert_close(
        result.counterfactuals[::2], expected.counterfactuals[::2], rtol=0, atol=1e-12
    )


def test_an_original_is_never_its_own_success_by_rounding(parts):
    """Near a tie the prediction may differ between two calls on the same image."""
    images, _ = pairs_of(parts.digits, 3)
    calls = []

    def wavering(x: Tensor) -> Tensor:
        calls.append(len(x))
        scores = parts.model(x)
        # The probe, the predicted classes, the first evaluation, ...
        return scores.roll(1, dims=1) if len(calls) == 3 else scores

    explainer = parts.explainer(max_iterations=25)
    explainer.forward_func = wavering
    result = explainer.generate(images)
    assert result.success.all()
    assert (result.l0() > 0).all()


def test_every_forward_pass_is_counted(parts):
    images, targets = pairs_of(parts.digits, 5)
    seen = []
    explainer = parts.explainer()
    handle = parts.model[0].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        result = explainer.generate(images, targets, internal_batch_size=2)
    finally:
        handle.remove()  # the model is shared by all tests
    # The probe is no pair's own: two images, then the first beside another one, and alone.
    counted = result.evaluations.sum() + result.forward_evaluations.sum()
    assert sum(seen) - 5 == counted
    assert result.evaluations.tolist() == [25] * 5
    assert max(seen) == 2


def test_overrides_last_for_one_call(parts):
    images, targets = pairs_of(parts.digits, 4)
    explainer = parts.explainer()
    before = explainer.generate(images, targets)
    short = explainer.generate(images, targets, c_steps=1, max_iterations=3, k=None)
    assert short.iterations.tolist() == [3] * 4
    after = explainer.generate(images, targets)
    assert torch.equal(before.counterfactuals, after.counterfactuals)


# --- the models are left as they were found ---


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_autoencoder_and_encoder_are_frozen_and_left_as_they_were(parts, error):
    images, targets = pairs_of(parts.digits, 4)
    expected = parts.explainer().generate(images, targets)
    encoder = nn.Sequential(nn.Dropout(), parts.encoder).train()
    autoencoder = nn.Sequential(nn.Dropout(), copy.deepcopy(parts.autoencoder)).train()
    encoder[1].eval()
    modes = [module.training for whole in (encoder, autoencoder) for module in whole.modules()]
    explainer = VLK(parts.model, autoencoder, encoder, parts.prototypes, **GENTLE)
    calls = []

    def fails_later(module: nn.Module, args: object, output: Tensor) -> None:
        assert not any(m.training for whole in (encoder, autoencoder) for m in whole.modules())
        calls.append(1)
        if error and len(calls) == 9:
            raise error

    handle = autoencoder[1].register_forward_hook(fails_later)
    if error is None:
        result = explainer.generate(images, targets)
        torch.testing.assert_close(
            result.counterfactuals, expected.counterfactuals, rtol=0, atol=1e-12
        )
    else:
        with pytest.raises(error):
            explainer.generate(images, targets)
    handle.remove()
    assert modes == [m.training for whole in (encoder, autoencoder) for m in whole.modules()]
    assert not any(module._forward_hooks for module in autoencoder.modules())
    for part in (encoder, autoencoder):
        assert all(p.grad is None and p.requires_grad for p in part.parameters())


def test_two_threads_share_the_models(parts):
    images, targets = pairs_of(parts.digits, 4)
    explainer = parts.explainer()
    parts.autoencoder.train()
    expected = explainer.generate(images, targets)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(explainer.generate(images, targets)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert torch.equal(result.counterfactuals, expected.counterfactuals)
    assert all(module.training for module in parts.autoencoder.modules())


# --- bad input ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kappa": -0.1}, ValueError, "kappa"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"beta": "small"}, TypeError, "beta must be a number"),
        ({"gamma": float("inf")}, ValueError, "gamma must be a finite number"),
        ({"theta": -1.0}, ValueError, "theta"),
        ({"c_init": -1.0}, ValueError, "c_init"),
        ({"c_steps": 0}, ValueError, "c_steps"),
        ({"c_steps": 2.0}, TypeError, "c_steps must be an int"),
        ({"max_iterations": 0}, ValueError, "max_iterations"),
        ({"learning_rate_init": 0.0}, ValueError, "learning_rate_init"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"k": 0}, ValueError, "k must be"),
        ({"k": 1.5}, TypeError, "k must be an int"),
        ({"k_type": "median"}, ValueError, "k_type must be one of 'mean', 'point', got 'median'"),
    ],
    ids=str,
)
def test_settings_that_are_refused_at_construction_and_in_a_call(parts, settings, error, message):
    with pytest.raises(error, match=message):
        parts.explainer(**settings)
    explainer = parts.explainer()
    with pytest.raises(error, match=message):
        explainer.generate(parts.digits.images[:1], 3, **settings)


def test_parts_of_the_wrong_kind_are_refused(parts):
    model, autoencoder, encoder = parts.model, parts.autoencoder, parts.encoder
    with pytest.raises(TypeError, match=r"autoencoder must be an nn.Module or a function"):
        VLK(model, "autoencoder")
    with pytest.raises(TypeError, match=r"encoder must be an nn.Module or a function"):
        VLK(model, autoencoder, 3, parts.prototypes)
    with pytest.raises(TypeError, match="prototypes must be a PrototypeIndex, got Tensor"):
        VLK(model, autoencoder, encoder, torch.zeros(3))
    with pytest.raises(ValueError, match="encoder needs prototypes"):
        VLK(model, autoencoder, encoder)


def test_parts_that_do_not_fit_are_refused_before_the_search(parts):
    images = parts.digits.images[:2]
    smaller = PrincipalComponents(parts.digits.train_images, 7).encoder
    with pytest.raises(ValueError, match=r"encoder must return the 16 features .* got 7"):
        VLK(parts.model, None, smaller, parts.prototypes).generate(images, 3)
    with pytest.raises(ValueError, match=r"encoder must return the 16 features .* got 64"):
        VLK(parts.model, None, None, parts.prototypes).generate(images, 3)
    with pytest.raises(ValueError, match="autoencoder must return images like the inputs"):
        VLK(parts.model, parts.encoder).generate(images, 3)
    few = PrototypeIndex(parts.prototypes.features, torch.arange(1200) % 7)
    with pytest.raises(ValueError, match="prototypes are of 7 classes, but the model has 10"):
        VLK(parts.model, None, parts.encoder, few).generate(images, 3)
    single = copy.deepcopy(parts.prototypes).float()
    with pytest.raises(ValueError, match=r"prototypes are torch.float32"):
        VLK(parts.model, None, parts.encoder, single).generate(images, 3)


def test_classes_with_too_few_images_are_named(parts):
    images = parts.digits.images[:3]
    with torch.no_grad():
        features = parts.encoder(parts.digits.train_images)
    classes = parts.digits.train_labels.clone()
    classes[classes == 7] = 1
    last = (classes == 8).nonzero().flatten()
    classes[last[3:]] = 2
    explainer = parts.explainer()
    explainer.prototypes = PrototypeIndex(features, classes, num_classes=10)
    with pytest.raises(ValueError, match="no image of class 7"):
        explainer.generate(images, [1, 7, 2])
    with pytest.raises(ValueError, match=r"k must be at most .* class 8 .*, 3, got 5"):
        explainer.generate(images, [1, 8, 2])
    with pytest.raises(ValueError, match=r"k must be at most .* class 8 .*, 3, got 5"):
        explainer.generate(images)
    # Where any class will do, an empty one can't be the prototype's and is passed over.
    assert explainer.generate(images, k=3).success.dtype == torch.bool
    assert len(explainer.generate(images, [1, 2, 3])) == 3
    only = PrototypeIndex(features[:50], torch.full((50,), 4), num_classes=10)
    explainer.prototypes = only
    with pytest.raises(ValueError, match=r"two classes at least, got only \[4\]"):
        explainer.generate(images)
