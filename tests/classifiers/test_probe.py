from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import JSMA, VLK, ClassGaussianMixture, DeDUCE, Wachter
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

    for doubtful in (drops, couples):
        with pytest.warns(UserWarning, match="other scores when it sees it again, alone"):
            JSMA(doubtful).generate(IMAGES, 1, max_iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JSMA(model).generate(IMAGES, 1, max_iterations=1)
        JSMA(lambda x: model(x.bfloat16().float())).generate(IMAGES, 1, max_iterations=1)


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
