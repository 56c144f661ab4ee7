from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, BinaryClassifier, ClassGaussianMixture, DeDUCE

IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def findings() -> nn.Sequential:
    """Trained with a sigmoid for each of three labels: the brightness of three halves."""
    torch.manual_seed(0)
    labels = torch.stack([h.mean((1, 2, 3)) > 0.5 for h in halves(IMAGES)], 1).float()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(IMAGES), labels).backward()
        optimizer.step()
    return model.eval()


def halves(images):
    return images[:, :, :4], images[:, :, 4:], images[..., :4]


@pytest.mark.parametrize("confidence", [0.5, 0.9])
@pytest.mark.parametrize("probabilities", [False, True])
def test_one_label_is_switched_on_and_off(findings, confidence, probabilities):
    model = nn.Sequential(findings, nn.Sigmoid()) if probabilities else findings
    asked = BinaryClassifier(model, label=1, probabilities=probabilities)
    before = findings(IMAGES).sigmoid()[:, 1]
    on = JSMA(asked, confidence=confidence).generate(IMAGES, target=1)
    off = JSMA(asked, confidence=confidence).generate(IMAGES, target=0)
    after_on = findings(on.counterfactuals).sigmoid()[:, 1].detach()
    after_off = findings(off.counterfactuals).sigmoid()[:, 1].detach()
    assert on.success.all()
    assert off.success.all()
    assert (after_on > confidence).all()
    assert (after_off < 1 - confidence + 1e-6).all()
    torch.testing.assert_close(on.confidence, after_on)
    torch.testing.assert_close(off.confidence, 1 - after_off)
    assert torch.equal(on.l0() == 0, before > confidence)


def test_every_image_can_have_a_label_of_its_own(findings):
    labels, target = torch.arange(40) % 3, torch.arange(40) % 2
    mixed = JSMA(BinaryClassifier(findings, "each")).generate(
        IMAGES, target, additional_forward_args=labels, internal_batch_size=7
    )
    for label in range(3):
        rows = labels == label
        alone = JSMA(BinaryClassifier(findings, label)).generate(IMAGES[rows], target[rows])
        torch.testing.assert_close(mixed[rows].counterfactuals, alone.counterfactuals)
        assert torch.equal(mixed[rows].success, alone.success)


@pytest.mark.parametrize("flat", [False, True])
def test_a_model_of_one_logit(flat):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0 if flat else 1))
    asked = BinaryClassifier(model)
    expected = model(IMAGES).flatten().sigmoid()
    torch.testing.assert_close(asked(IMAGES).softmax(1)[:, 1], expected)
    result = JSMA(asked).generate(IMAGES, target=1)
    assert (model(result.counterfactuals).flatten() > 0).all()


def test_a_density_of_the_one_question_and_arguments_of_the_models_own():
    torch.manual_seed(2)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh())
            self.head = nn.Linear(4, 5)

        def forward(self, inputs, scale):
            return self.head(self.body(inputs)) * scale

    model = Scaled()
    asked = BinaryClassifier(model, label=4)
    labels = (IMAGES[:, 0, :4].mean((1, 2)) > 0.5).long()
    scale = torch.full((40, 1), 30.0)
    density = ClassGaussianMixture(regularization="oas").fit(model.body(IMAGES).detach(), labels)
    for layer in (model.body, "model.body"):
        result = DeDUCE(asked, layer, density).generate(
            IMAGES, 1 - labels, additional_forward_args=scale
        )
        scores = model(result.counterfactuals, scale)[:, 4]
        chosen = torch.where(labels == 1, -scores, scores).sigmoid()
        assert (chosen[result.success] > 0.5).all()
        assert result.success.any()


def test_what_does_not_fit_is_refused(findings):
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got function"):
        BinaryClassifier(lambda x: x)
    with pytest.raises(ValueError, match="label must be"):
        BinaryClassifier(findings, label=-1)
    with pytest.raises(ValueError, match=r"returns 3 logits .*label=\.\.\."):
        BinaryClassifier(findings)(IMAGES)
    with pytest.raises(ValueError, match=r"label must .*3"):
        BinaryClassifier(findings, label=3)(IMAGES)
    for labels, error in (
        (torch.tensor([0, 5]), ValueError),
        (torch.tensor([0, 1, 2]), ValueError),
        (torch.tensor([0.0, 1.0]), TypeError),
    ):
        with pytest.raises(error, match="label must"):
            BinaryClassifier(findings, "each")(IMAGES[:2], labels)
    with pytest.raises(ValueError, match="label must be"):
        BinaryClassifier(findings, label="all")
    with pytest.raises(ValueError, match="say which label is asked"):
        BinaryClassifier(findings, label="each")(IMAGES)
    with pytest.raises(ValueError, match=r"got shape \(40, 1, 8, 8\)"):
        BinaryClassifier(nn.Identity())(IMAGES)
    with pytest.raises(TypeError, match="must return a tensor of logits, got tuple"):
        BinaryClassifier(nn.LSTM(8, 1))(IMAGES[:, 0])


def test_the_modes_of_the_models_parts_stay(findings):
    model = copy.deepcopy(findings).train()
    model[0].eval()
    asked = BinaryClassifier(model, 0)
    assert (asked.training, model.training, model[0].training) == (True, True, False)


def test_a_model_of_one_logit_keeps_its_own_arguments():
    class Sites(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.shift = nn.Linear(64, 1), nn.Embedding(2, 1)

        def forward(self, images, site):
            return self.fc(images.flatten(1)) + self.shift(site)

    torch.manual_seed(0)
    model, site = Sites(), torch.arange(40) % 2
    torch.testing.assert_close(
        BinaryClassifier(model)(IMAGES, site)[:, 1], model(IMAGES, site)[:, 0]
    )


def test_sigmoids_that_are_rounded_to_one_stay_numbers():
    class Steep(nn.Module):
        def forward(self, images):
            return torch.sigmoid(60 * (images.flatten(1).mean(1, keepdim=True) - 0.4))

    images = torch.stack([torch.full((1, 8, 8), value) for value in (0.3, 0.35, 0.95, 0.97)])
    asked = BinaryClassifier(Steep(), probabilities=True)
    result = JSMA(asked).generate(images, [1, 1, 1, 0], max_iterations=3)
    assert result.confidence.isfinite().all()
    assert result.already.tolist()[2]
    assert result.confidence[2] > 0.99
