"""The training loop against gradient descent written out, and on real digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from captum_deduce import datasets, models
from captum_deduce.datasets import ImageData
from captum_deduce.training.classifiers import accuracy, predict, train_classifier
from captum_deduce.training.disturbance import adversarial
from tests import reference

CLASSES = ("a", "b", "c")


def toy_data(count: int = 12) -> ImageData:
    generator = torch.Generator().manual_seed(7)
    target = torch.arange(count) % 3
    images = torch.rand(count, 1, 2, 2, generator=generator) + target[:, None, None, None] / 4
    return ImageData(images / 2, target, CLASSES)


def linear_model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


class Recorder(nn.Module):
    """A linear classifier that remembers the images of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.batches: list[torch.Tensor] = []

    def forward(self, images):
        if self.training:
            self.batches.append(images.detach().clone())
        return self.linear(images.flatten(1))


class Wide(Recorder):
    """The same for images of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 3)


class Interrupting(nn.Module):
    """Passes its input on, until Ctrl-C is pressed during the given call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.remaining = at

    def forward(self, inputs):
        self.remaining -= 1
        if self.remaining == 0:
            raise KeyboardInterrupt
        return inputs


def published_steps(epochs: int) -> list[float]:
    return [
        0.1 * (1.0 if epoch < epochs / 2 else 0.1 if epoch < 0.8 * epochs else 0.01)
        for epoch in range(epochs)
    ]


def one_cycle(steps: int) -> list[float]:
    """Linear up to a fifth, then half a cosine; each step at the middle of its share of time."""
    times = (np.arange(steps) + 0.5) / steps
    falling = np.cos(np.pi / 2 * (times - 0.2) / 0.8) ** 2
    return list(0.1 * np.where(times < 0.2, times / 0.2, falling))


# --- against gradient descent written out ---


@pytest.mark.parametrize(
    ("schedule", "rates"), [("steps", published_steps), ("one-cycle", one_cycle)]
)
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.05)])
def test_full_batches_descend_as_written_out_in_float64(schedule, rates, momentum, weight_decay):
    data, model = toy_data(), linear_model()
    weight, bias = (p.detach().double().numpy() for p in model.parameters())
    expected = reference.softmax_regression(
        data.images.flatten(1).double().numpy(),
        data.target.numpy(),
        weight,
        bias,
        rates(20),
        momentum,
        weight_decay,
    )
    history = train_classifier(
        model,
        data,
        epochs=20,
        batch_size=12,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
    )
    np.testing.assert_allclose(model[1].weight.detach(), expected.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model[1].bias.detach(), expected.bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history.loss, expected.losses, rtol=1e-5)
    np.testing.assert_allclose(history.accuracy, expected.accuracies, rtol=1e-6)


def test_the_published_rates_drop_after_25_and_40_of_50_epochs():
    rates = published_steps(50)
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 25, 40]


# --- batches ---


def test_every_epoch_goes_through_all_images_once_in_another_order():
    model, data = Recorder(), toy_data(12)
    train_classifier(model, data, epochs=3, batch_size=4)
    assert [len(batch) for batch in model.batches] == [4] * 9
    epochs = [torch.cat(model.batches[i : i + 3]).flatten(1) for i in (0, 3, 6)]
    images = data.images.flatten(1)
    for epoch in epochs:
        distances = torch.cdist(epoch, images)
        assert sorted(distances.argmin(1).tolist()) == list(range(12))
        assert distances.min(1).values.max() == 0
        assert not torch.equal(epoch, images)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


@pytest.mark.parametrize(("count", "sizes"), [(11, [4, 4]), (12, [4, 4, 4]), (3, [3]), (5, [4])])
def test_a_last_short_batch_is_left_out_unless_it_is_the_only_one(count, sizes):
    model = Recorder()
    train_classifier(model, toy_data(count), epochs=1, batch_size=4)
    assert [len(batch) for batch in model.batches] == sizes


# --- on real images ---


def test_noise_is_gaussian_of_a_strength_of_each_images_own():
    model = Wide()
    blank = ImageData(torch.full((600, 1, 16, 16), 0.5), torch.arange(600) % 3, CLASSES)
    train_classifier(model, blank, epochs=2, batch_size=600, learning_rate=0, noise=0.4, seed=3)
    first, second = (batch.double() - 0.5 for batch in model.batches)
    strengths = first.flatten(1).square().mean(1).sqrt().numpy()
    assert stats.kstest(strengths, "uniform", args=(0, 0.4)).pvalue > 0.01
    standardised = (first.flatten(1) / torch.from_numpy(strengths)[:, None]).flatten().numpy()
    assert stats.kstest(standardised[:20_000], "norm").pvalue > 0.01
    assert not torch.equal(first, second)
    assert torch.equal(blank.images, torch.full_like(blank.images, 0.5))


def test_noise_comes_from_the_seed_and_none_changes_nothing():
    seen = {}
    for noise, seed in ((0.0, 1), (0.3, 1), (0.3, 1), (0.3, 2)):
        model = Recorder()
        train_classifier(model, toy_data(), epochs=1, batch_size=4, noise=noise, seed=seed)
        seen.setdefault((noise, seed), []).append(torch.cat(model.batches))
    once, again = seen[0.3, 1]
    assert torch.equal(once, again)
    assert not torch.equal(once, seen[0.3, 2][0])
    images = toy_data().images
    assert all((images == image).flatten(1).all(1).any() for image in seen[0.0, 1][0])


def test_adversarial_steps_have_a_length_of_each_images_own():
    model = Wide()
    start = model.linear.weight.detach().double()
    blank = ImageData(torch.full((600, 1, 16, 16), 0.5), torch.arange(600) % 3, CLASSES)
    train_classifier(
        model, blank, epochs=2, batch_size=600, learning_rate=0, adversarial=0.4, seed=3
    )
    first, second = (batch.double() - 0.5 for batch in model.batches)
    lengths = first.flatten(1).norm(dim=1).numpy()
    assert stats.kstest(lengths, "uniform", args=(0, 0.4)).pvalue > 0.01
    # All images are the same, so that those of a class take steps in one direction, which is a
    # combination of the classes' weights.
    directions = first.flatten(1) / torch.from_numpy(lengths)[:, None]
    assert torch.linalg.matrix_rank(directions, rtol=1e-3) <= 3
    beside = directions.T - start.T @ torch.linalg.lstsq(start.T, directions.T).solution
    assert beside.abs().max() < 1e-4
    assert not torch.equal(first, second)
    assert torch.equal(blank.images, torch.full_like(blank.images, 0.5))


def test_batch_norm_counts_an_adversarial_batch_once():
    model = two_modes()
    train_classifier(model, toy_data(), epochs=3, batch_size=4, adversarial=0.3)
    assert model[1].num_batches_tracked == 9


def test_images_are_augmented_anew_in_each_epoch_and_stay_as_they_are():
    model, data = Recorder(), toy_data()
    before = data.images.clone()
    train_classifier(
        model, data, epochs=2, batch_size=12, learning_rate=0, augment=lambda image: image.mul_(-1)
    )
    assert torch.equal(data.images, before)
    for batch in model.batches:
        assert torch.equal(batch.flatten(1).sort(0).values, (-before).flatten(1).sort(0).values)

    def shifted(image):
        return image + torch.rand(())

    model = Recorder()
    train_classifier(model, data, epochs=2, batch_size=12, learning_rate=0, augment=shifted)
    first, second = (batch.sum((1, 2, 3)).sort().values for batch in model.batches)
    assert not torch.allclose(first, second)


@pytest.fixture(scope="module")
def digits():
    return datasets.load_digits()


def small_sn_resnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.sn_resnet18(1, 10, width=8, image_size=8)


def test_a_small_sn_resnet_learns_the_digits(digits):
    model = small_sn_resnet()
    assert accuracy(model, digits.test) < 0.3
    history = train_classifier(model, digits.train, epochs=10, validation=digits.validation)
    assert accuracy(model, digits.test) >= 0.94
    assert history.loss[-1] < 0.1 * history.loss[0]
    assert history.accuracy[-1] > 0.98
    assert history.validation_accuracy[-1] == accuracy(model, digits.validation)
    assert len(history.seconds) == 10
    assert min(history.seconds) > 0


def test_adversarial_training_withstands_steps_at_little_cost_in_accuracy(digits):
    test, radius = digits.test, torch.full((500,), 0.7)
    right, robust = {}, {}
    for largest in (0.0, 0.5):
        torch.manual_seed(0)
        model = models.SmallVGG(width=8, image_size=8, batch_norm=True)
        train_classifier(model, digits.train, epochs=8, batch_size=64, adversarial=largest)
        moved = adversarial(model, test.images, test.target, radius)
        right[largest] = accuracy(model, test)
        robust[largest] = accuracy(model, ImageData(moved, test.target, test.class_names))
    assert right[0.5] > right[0.0] - 0.02
    assert robust[0.5] > robust[0.0] + 0.15


def test_bfloat16_is_for_the_layers_and_learns_as_well(digits):
    seen = []

    class Watched(nn.Conv2d):
        def forward(self, x):
            made = super().forward(x)
            seen.append(made.dtype)
            return made

    right = {}
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        model = models.SmallVGG(width=8, image_size=8, batch_norm=True)
        model = nn.Sequential(Watched(1, 1, 1), model)
        train_classifier(
            model, digits.train, epochs=8, batch_size=64, bfloat16=bfloat16, adversarial=0.2
        )
        assert {each.dtype for each in model.parameters()} == {torch.float32}
        assert set(seen) == {torch.bfloat16 if bfloat16 else torch.float32}
        seen.clear()
        right[bfloat16] = accuracy(model, digits.test)
        assert set(seen) == {torch.float32}
        seen.clear()
    assert right[True] > right[False] - 0.02


@pytest.mark.slow
def test_two_epochs_bring_a_small_sn_resnet_to_99_percent_of_mnist():
    try:
        train, validation, test = datasets.load_mnist()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model = models.sn_resnet18(1, 10, width=16)
    history = train_classifier(model, train, epochs=2, validation=validation, show_progress=True)
    assert history.validation_accuracy[-1] >= 0.99
    assert accuracy(model, test) >= 0.99


# --- reproducibility ---


def test_the_same_seeds_give_the_same_weights_whatever_was_drawn_before(digits):
    trained = []
    for drawn in (0, 5):
        model = small_sn_resnet()
        torch.rand(drawn)
        train_classifier(model, digits.train[:256], epochs=2, seed=3)
        trained.append(model.state_dict())
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), name


def test_another_seed_shuffles_otherwise():
    batches = []
    for seed in (0, 1):
        model = Recorder()
        train_classifier(model, toy_data(), epochs=1, batch_size=4, seed=seed)
        batches.append(torch.cat(model.batches))
    assert not torch.equal(*batches)


def test_torchs_global_generator_is_left_alone():
    model = linear_model()
    before = torch.get_rng_state()
    train_classifier(model, toy_data(), epochs=2, validation=toy_data())
    assert torch.equal(torch.get_rng_state(), before)


# --- the model is left as it was, but for its weights ---


def two_modes(*inner: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), *inner, nn.Linear(4, 3))
    model.train()
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_modes_are_restored_and_gradients_cleared():
    model = two_modes()
    before = modes(model)
    train_classifier(model, toy_data(), epochs=1, validation=toy_data())
    assert modes(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[1].num_batches_tracked == 1


def test_ctrl_c_keeps_the_weights_reached_and_restores_the_modes():
    model = two_modes(Interrupting(at=4))
    before, start = modes(model), model[-1].weight.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        train_classifier(model, toy_data(), epochs=9, batch_size=6, seed=2)
    assert modes(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(model[-1].weight, start)
    assert model(toy_data().images).isfinite().all()


def test_frozen_parameters_stay():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    train_classifier(model, toy_data(), epochs=2)
    unchanged = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert unchanged == [True, True, False, False]


def test_a_loss_that_is_not_finite_stops_with_epoch_and_rate():
    model = two_modes()
    before = modes(model)
    with pytest.raises(
        RuntimeError, match=r"loss became (nan|inf) in epoch \d.*smaller learning_rate"
    ):
        train_classifier(model, toy_data(), epochs=5, learning_rate=1e38)
    assert modes(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


# --- progress ---


def test_the_progress_bar_shows_epochs_loss_and_accuracy_and_only_on_request(capsys):
    train_classifier(linear_model(), toy_data(), epochs=2)
    assert capsys.readouterr().err == ""
    train_classifier(linear_model(), toy_data(), epochs=2, batch_size=6, show_progress=True)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert "4/4" in shown
    assert "loss" in shown
    assert "accuracy" in shown


# --- prediction ---


@pytest.mark.parametrize("batch_size", [1, 5, 12, 500])
def test_predictions_do_not_depend_on_the_batches(batch_size):
    model, images = two_modes().train(), toy_data().images
    expected = model.eval()(images).detach()
    before = modes(model.train())
    logits = predict(model, images, batch_size)
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad
    assert modes(model) == before
    assert model[1].num_batches_tracked == 0


def test_a_learner_or_a_function_predicts_as_its_model_does():
    class Learner:
        def __init__(self, model):
            self.model = model

        def __call__(self, images):
            return self.model(images)

    model, data = two_modes().train(), toy_data()
    expected = predict(model, data.images)
    for callable_model in (Learner(model), lambda images: model(images)):
        torch.testing.assert_close(predict(callable_model, data.images), expected)
        assert accuracy(callable_model, data) == accuracy(model, data)
        assert model.training
    with pytest.raises(TypeError, match="model must be"):
        predict(object(), data.images)


def test_accuracy_is_the_share_of_right_predictions():
    data = toy_data()

    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 1.0, 0.5]).expand(len(images), 3)

    assert accuracy(Constant(), data) == pytest.approx(1 / 3)
    assert accuracy(Constant(), data[data.target == 1], batch_size=3) == 1
    assert accuracy(Constant(), data[data.target != 1]) == 0


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"epochs": 0}, ValueError, "epochs.*0"),
        ({"epochs": 1.5}, TypeError, r"epochs.*1\.5"),
        ({"batch_size": 1}, ValueError, "batch_size.*1"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate.*-1"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate.*nan"),
        ({"momentum": 2}, ValueError, "momentum.*2"),
        ({"weight_decay": -1}, ValueError, "weight_decay.*-1"),
        ({"noise": -0.5}, ValueError, "noise.*-0.5"),
        ({"adversarial": -0.5}, ValueError, "adversarial.*-0.5"),
        ({"augment": 3}, TypeError, "augment.*int: 3"),
        ({"augment": lambda image: image[:, 1:]}, ValueError, r"augment.*\(1, 2, 2\), got \(1, 1"),
        ({"augment": lambda image: None}, TypeError, "augment.*NoneType"),
        ({"schedule": "cosine"}, ValueError, "schedule.*'one-cycle', 'steps'.*'cosine'"),
        ({"train": toy_data(1)}, ValueError, "at least 2 images.*1 images"),
        ({"model": nn.Flatten()}, ValueError, "model must have parameters.*0"),
    ],
)
def test_what_cannot_be_is_refused_before_any_step(arguments, error, words):
    model = linear_model()
    before = model[1].weight.detach().clone()
    with pytest.raises(error, match=words):
        train_classifier(**{"model": model, "train": toy_data(), "epochs": 1} | arguments)
    assert torch.equal(model[1].weight, before)
