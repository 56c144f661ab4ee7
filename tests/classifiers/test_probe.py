from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_deduce import JSMA, REVISE, VLK, ClassGaussianMixture, DeDUCE, Wachter
from tests.classifiers.test_frozen import Learner

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def net(classes: int = 3) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()


class Numpy(nn.Module):
    """Preprocessing outside of PyTorch; the parameters behind it still ask for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(torch.from_numpy(inputs.detach().numpy().clip(0, 1)))


class Rounding(Numpy):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.net((inputs * 255).round() / 255)


def explainers(model: nn.Module) -> list:
    return [JSMA(model), Wachter(model), VLK(model)]


@pytest.mark.parametrize("trainable", [False, True])
def test_a_model_that_leaves_pytorch_is_refused_by_every_explainer(trainable):
    for explainer in explainers(Numpy().requires_grad_(trainable)):
        with pytest.raises(ValueError, match=r"do not depend on the inputs.*NumPy"):
            explainer.generate(IMAGES, 1)


def test_a_model_that_rounds_is_warned_of_where_it_was_called():
    for explainer in explainers(Rounding()):
        with pytest.warns(UserWarning, match="gradient .* is zero everywhere") as caught:
            explainer.generate(IMAGES, 1, max_iterations=2)
        assert caught[0].filename == __file__


def test_chance_and_coupled_images_are_warned_of():
    model = net(20)  # so many that two draws of dropout differ

    def drops(inputs: Tensor) -> Tensor:
        return nn.functional.dropout(model(inputs), 0.5, training=True)

    def couples(inputs: Tensor) -> Tensor:
        return model(inputs) - model(inputs).mean(0)

    def answers_for_the_first(inputs: Tensor) -> Tensor:
        return model(inputs[:1]).expand(len(inputs), -1)

    def normalises(inputs: Tensor) -> Tensor:
        return model(nn.functional.batch_norm(inputs, None, None, training=True))

    equal = IMAGES[:1].repeat(4, 1, 1, 1)
    for doubtful in (drops, couples, answers_for_the_first, normalises):
        for images in (IMAGES, IMAGES[:1], equal, equal * 0.1, 1 - equal * 0.1):
            with pytest.warns(UserWarning, match="other scores when it sees it again, alone or be"):
                JSMA(doubtful).generate(images, 1, max_iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (IMAGES, IMAGES[:1], equal):
            JSMA(model).generate(images, 1, max_iterations=1)
            JSMA(lambda x: model(x.bfloat16().float())).generate(images, 1, max_iterations=1)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_what_the_model_takes_besides_is_that_of_the_image_shown_again(count):
    model, seen = net(), []

    def labelled(inputs: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels.tolist())
        return model(inputs) + labels[:, None] * inputs.mean((1, 2, 3))[:, None]

    labels = torch.tensor([2, 0, 1, 0, 1, 2])[:count]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JSMA(labelled).generate(IMAGES[:count], 1, additional_forward_args=labels, max_iterations=0)
    assert seen[:-1] == [labels[:2].tolist(), [2, 2], [2]][: 2 if count == 1 else 3]
    assert seen[-1] == labels.tolist()


# --- models that take one number of images ---


def taking(size: int) -> nn.Module:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs.reshape(size, 1, 8, 8))

    return Fixed()


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_a_fixed_number_of_images_is_said_with_the_way_out(size):
    images = IMAGES[:3]
    failed = 1 if size == 2 else 2
    message = (
        rf"it takes {size}, but failed for {failed} \(shape.*\); pass internal_batch_size={size}"
    )
    for explainer in explainers(taking(size)):
        with pytest.raises(ValueError, match=message):
            explainer.generate(images, 1)

    with pytest.raises(ValueError, match=r"additional_forward_args must be a tensor of N rows"):
        JSMA(lambda x, scales: net()(x) * torch.stack(scales)).generate(
            images, 1, additional_forward_args=([torch.ones(1)] * 3,)
        )

    def filled_up(inputs: Tensor) -> Tensor:
        missing = inputs[:1].expand(size - len(inputs), -1, -1, -1)
        return taking(size)(torch.cat([inputs, missing]))[: len(inputs)]

    result = JSMA(filled_up).generate(IMAGES, [0, 1, 2, 0, 1, 2], internal_batch_size=size)
    expected = JSMA(net()).generate(IMAGES, [0, 1, 2, 0, 1, 2])
    assert torch.equal(result.counterfactuals, expected.counterfactuals)
    assert result.success.any()


def test_a_model_of_one_image_is_searched_image_by_image():
    with pytest.raises(
        ValueError, match=r"takes 1, but failed for 2 .*; pass internal_batch_size=1"
    ):
        JSMA(taking(1)).generate(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = JSMA(taking(1)).generate(IMAGES, internal_batch_size=1)
        assert len(JSMA(taking(1)).generate(IMAGES[:1])) == 1
    assert torch.equal(result.counterfactuals, JSMA(net()).generate(IMAGES).counterfactuals)


def test_an_exported_model_of_a_fixed_size_is_named_for_what_it_is():
    exported = torch.export.export(net(), (IMAGES[:4],)).module()
    with pytest.raises(ValueError, match=r"it takes 4, but failed for 2 \((Guard failed|Expec)"):
        JSMA(exported).generate(IMAGES, 1)


def test_errors_of_a_models_own_are_left_as_they_are():
    class OwnError(Exception):
        pass

    def broken(inputs: Tensor) -> Tensor:
        raise OwnError("of the user's")

    with pytest.raises(OwnError, match=r"of the user's"):
        JSMA(broken).generate(IMAGES, 1)


# --- gradients that can't be computed ---


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: Tensor) -> Tensor:
        return inputs * 2


class WrongBackward(NoBackward):
    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient[:, :, :3]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda x: checkpoint(net(), x, use_reentrant=True),
            "checkpointing with use_reentrant=True .*; pass use_reentrant=False",
        ),
        (lambda x: net()(NoBackward.apply(x)), "Function in it is without a backward; give it one"),
        (lambda x: net()(WrongBackward.apply(x)), "WrongBackwardBackward returned an invalid"),
    ],
)
def test_a_gradient_that_cannot_be_computed_is_refused_before_the_search(model, message):
    for explainer in explainers(model):
        with pytest.raises(ValueError, match=rf"gradient of .* can't be computed: .*{message}"):
            explainer.generate(IMAGES, 1)
    JSMA(lambda x: checkpoint(net(), x, use_reentrant=False)).generate(IMAGES, 1, max_iterations=1)


def test_sigmoids_of_independent_labels_are_refused_and_small_logits_are_not():
    model = net()
    with pytest.raises(ValueError, match=r"sigmoids of independent labels\? Pass BinaryClass"):
        JSMA(lambda x: model(x).sigmoid()).generate(IMAGES, 0)
    with torch.no_grad():
        model[1].weight.mul_(0.1)
        model[1].bias.fill_(0.5)
    scores = model(IMAGES[:2])
    assert ((scores > 0) & (scores < 1)).all(), "as if they were sigmoids, for these images"
    with torch.no_grad():
        model[1].weight.mul_(20)
    JSMA(model).generate(IMAGES, 0, max_iterations=1)
    # an untrained head that ends in a ReLU: small scores, some of them 0
    JSMA(lambda x: (0.1 * model(x)).relu()).generate(IMAGES, 0, max_iterations=1)


def test_a_learners_model_left_in_train_mode_gives_counterfactuals_that_hold_in_eval_mode():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(288, 3),
    )
    for _ in range(50):
        model(IMAGES)
    learn = Learner(model)
    target = torch.arange(len(IMAGES)) % 3
    features = model.eval()[:5](IMAGES).detach()
    noise = torch.randn(60, 288, generator=torch.Generator().manual_seed(0))
    spread = features.repeat(10, 1) + 0.1 * noise
    density = ClassGaussianMixture("diag").fit(spread, torch.arange(60) % 3)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for explainer in (
        JSMA(lambda x: learn.model(x)),
        DeDUCE(lambda x: learn.model(x).log_softmax(1), "4", density),
    ):
        result = explainer.generate(IMAGES, target)
        assert model.training
        assert model[3].training
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        seen = model.eval()(result.counterfactuals).softmax(1).gather(1, target[:, None])[:, 0]
        model.train()
        assert result.success.any()
        assert (seen[result.success] > 0.5).all()
        torch.testing.assert_close(seen.detach(), result.confidence)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_is_judged_by_running_it(dtype):
    half = net().to(dtype)
    with pytest.raises(ValueError, match=r"parameters are torch\..*float16.*model\.float\(\)"):
        JSMA(half).generate(IMAGES, 1)

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = half

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs.to(dtype))

    for model in (Cast().eval(), lambda x: half(x.to(dtype))):
        result = JSMA(model).generate(IMAGES, 1)
        seen = half(result.counterfactuals.to(dtype)).float().softmax(1)[:, 1]
        assert (seen[result.success] > 0.5).all()
        assert result.success.all()


@pytest.mark.parametrize("seed", range(40))
def test_untrained_networks_are_not_taken_for_sigmoids(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    assert len(JSMA(model).generate(IMAGES[:2], 1, max_iterations=1)) == 2


def test_an_argument_of_two_rows_belongs_to_no_image():
    model = net()
    scaled = JSMA(lambda x, a: model((x - a[0]) / a[1]))
    found = scaled.generate(IMAGES, 1, additional_forward_args=torch.tensor([0.5, 0.25]))
    assert found.success.any()


def test_nor_can_that_of_a_model_beside_the_classifier():
    class Autoencoder(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.reentrant = reentrant
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
            self.decoder = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))

        def encode(self, inputs: Tensor) -> Tensor:
            return self.encoder(inputs)

        def decode(self, latents: Tensor) -> Tensor:
            return checkpoint(self.decoder, latents, use_reentrant=self.reentrant)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.decode(self.encode(inputs))

    target = 1 - net()(IMAGES).argmax(1).clamp(max=1)
    for method in (REVISE, VLK):
        with pytest.raises(ValueError, match=r"beside forward_func .* pass use_reentrant=False"):
            method(net(), Autoencoder(True)).generate(IMAGES, target)
        found = method(net(), Autoencoder(False), max_iterations=2).generate(IMAGES, target)
        assert len(found) == len(IMAGES)
