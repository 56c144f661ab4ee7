"""CEM against its formulas written out for one image, and what its images promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import CEM
from captum_deduce.explainers.cem import ContrastiveDescent
from tests import reference_siblings as reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits, digits_network, train_briefly

SHORT = {
    "c_steps": 4,
    "max_iterations": 25,
    "beta": 0.02,
    "learning_rate_init": 0.03,
}


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


def assert_equals_reference(
    model: nn.Module,
    images: Tensor,
    target: Tensor | None,
    *,
    kind: str = "target",
    baseline: float | Tensor = 0.0,
    autoencoder: nn.Module | None = None,
    mask: Tensor | None = None,
    lower: float | Tensor = 0.0,
    upper: float | Tensor = 1.0,
    **settings: object,
) -> None:
    settings = SHORT | settings
    explainer = CEM(
        model,
        autoencoder,
        baseline=baseline,
        untargeted=kind == "any",
        lower_bound=lower,
        upper_bound=upper,
        **settings,
    )
    given = {"mask": mask, "return_trajectory": True, "internal_batch_size": 3}
    if kind == "positive":
        result = explainer.pertinent_positive(images, **given)
    else:
        result = explainer.generate(images, target, **given)
    with torch.no_grad():
        own = model(images).argmax(1)
    assert torch.equal(result.prediction, own)
    for i, image in enumerate(images):
        expected = reference.cem(
            image.numpy(),
            int(own[i] if target is None else target[i]),
            lambda x: model(x.unsqueeze(0))[0],
            None if autoencoder is None else lambda x: autoencoder(x.unsqueeze(0))[0],
            kind=kind,
            baseline=baseline.numpy() if isinstance(baseline, Tensor) else baseline,
            mask=None if mask is None else np.broadcast_to(mask.numpy(), image.shape),
            lower=lower.numpy() if isinstance(lower, Tensor) else lower,
            upper=upper.numpy() if isinstance(upper, Tensor) else upper,
            **settings,
        )
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-9)
        assert result.success[i].item() == expected.success
        assert result.target[i].item() == expected.target
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-7)
        # What was searched is a part of what the formulas make, which end no round early.
        made = {np.round(step, 9).tobytes() for step in expected.path}
        path = result.trajectory[i].numpy()
        assert len(path) <= len(expected.path)
        assert {np.round(step, 9).tobytes() for step in path} <= made


def test_equals_the_naive_form(digits):
    assert_equals_reference(digits.model, *pairs_of(digits, 6))


def test_equals_the_naive_form_without_a_target(digits):
    assert_equals_reference(digits.model, digits.images[:4], None, kind="any", kappa=0.5)


def test_equals_the_naive_form_of_pertinent_positives(digits):
    assert_equals_reference(digits.model, digits.images[:4], None, kind="positive", kappa=0.5)


@pytest.mark.parametrize("kind", ["target", "positive"])
def test_equals_the_naive_form_with_an_autoencoder_on_probabilities(digits, kind):
    images, target = pairs_of(digits, 3)
    assert_equals_reference(
        digits.model,
        images,
        None if kind == "positive" else target,
        kind=kind,
        autoencoder=PrincipalComponents(digits.train_images),
        hinge="probabilities",
        gamma=0.5,
        kappa=0.1,
        c_init=30.0,
    )


def test_equals_the_naive_form_with_a_mask(digits):
    mask = torch.zeros(8, 8)
    mask[1:, 2:7] = 1
    assert_equals_reference(digits.model, *pairs_of(digits, 3), mask=mask)
    assert_equals_reference(digits.model, digits.images[:2], None, kind="positive", mask=mask)


@pytest.fixture(scope="module")
def colour(_digits) -> tuple[nn.Module, Tensor]:
    """Digits in three channels, normalised with another mean and deviation each."""
    mean = torch.tensor([0.2, 0.4, 0.5]).double().view(3, 1, 1)
    std = torch.tensor([0.3, 0.5, 0.2]).double().view(3, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = digits_network(3).double()
        tinted = (_digits.train_images * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1) - mean) / std
        train_briefly(model, tinted, _digits.train_labels, 4)
    images = _digits.images[:4] * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1)
    return model, (images - mean) / std


@pytest.mark.parametrize("kind", ["target", "positive"])
def test_equals_the_naive_form_in_normalised_colour(colour, kind):
    model, images = colour
    mean = torch.tensor([0.2, 0.4, 0.5]).double().view(3, 1, 1)
    std = torch.tensor([0.3, 0.5, 0.2]).double().view(3, 1, 1)
    target = None
    if kind == "target":
        with torch.no_grad():
            target = (model(images).argmax(1) + torch.arange(1, 5)) % 10
    assert_equals_reference(
        model,
        images,
        target,
        kind=kind,
        baseline=(0.3 - mean) / std,
        lower=(0 - mean) / std,
        upper=(1 - mean) / std,
    )


@pytest.mark.parametrize("kind", ["negative", "positive"])
def test_rounds_that_end_early_would_have_gone_nowhere(digits, monkeypatch, kind):
    images, target = pairs_of(digits, 6)
    explainer = CEM(digits.model, baseline=0.0, **SHORT | {"c_init": 0.2, "c_steps": 6})

    def search():
        if kind == "positive":
            return explainer.pertinent_positive(images)
        return explainer.generate(images, target)

    early = search()
    begin = ContrastiveDescent.start

    def without_end(self, pairs):
        self.skip_settled = False
        return begin(self, pairs)

    monkeypatch.setattr(ContrastiveDescent, "start", without_end)
    whole = search()
    assert torch.equal(early.counterfactuals, whole.counterfactuals)
    assert torch.equal(early.success, whole.success)
    # An original that is there already, as a blank image may be, is not searched for.
    assert set(whole.iterations.tolist()) <= {0, 6 * 25}
    assert early.iterations.sum() < 0.95 * whole.iterations.sum()


@pytest.mark.parametrize("baseline", [0.0, 0.4, 1.0])
def test_negatives_move_away_from_the_baseline_and_positives_lie_before_it(digits, baseline):
    images, target = pairs_of(digits, 6)
    explainer = CEM(digits.model, baseline=baseline, **SHORT)
    negative = explainer.generate(images, target).counterfactuals
    moved = negative != images
    assert moved.any()
    side = torch.sign(images - baseline)
    assert ((negative - images) * side >= 0).all()
    positive = explainer.pertinent_positive(images)
    kept = positive.counterfactuals
    assert ((kept - baseline) * (images - baseline) >= -1e-12).all()
    assert ((kept - baseline).abs() <= (images - baseline).abs() + 1e-12).all()
    with torch.no_grad():
        predicted = digits.model(kept).argmax(1)
    assert torch.equal(predicted == positive.target, positive.success)
    assert positive.success.any()
    assert torch.equal(positive.target, positive.prediction)


def test_a_margin_is_kept(digits):
    images, target = pairs_of(digits, 5)
    result = CEM(digits.model, baseline=0.0, kappa=2.0, **SHORT).generate(images, target)
    with torch.no_grad():
        scores = digits.model(result.counterfactuals)
    wanted = scores.gather(1, target.unsqueeze(1)).squeeze(1)
    rest = scores.scatter(1, target.unsqueeze(1), -torch.inf).amax(1)
    assert result.success.any()
    assert torch.equal(result.success, wanted - rest > 2.0)


def test_a_blank_image_of_the_class_needs_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    nn.init.constant_(model[1].weight[0].detach(), 1e-3)
    nn.init.zeros_(model[1].weight[1].detach())
    model[1].bias.data = torch.tensor([2.0, 0.0]).double()
    result = CEM(model, baseline=0.25).pertinent_positive(torch.rand(2, 1, 2, 2).double())
    assert result.success.all()
    assert (result.counterfactuals == 0.25).all()
    assert result.iterations.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"baseline": "black"}, TypeError, "baseline must be the value of an entry without inf"),
        ({"hinge": "softmax"}, ValueError, "hinge must be one of 'logits', 'probabilities'"),
        ({"untargeted": 1}, TypeError, "untargeted must be True or False"),
        ({"kappa": -1.0}, ValueError, "kappa must be a finite number"),
        ({"c_init": 0.0}, ValueError, "c_init must be a finite number"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be a finite number"),
        ({"autoencoder": 3}, TypeError, "autoencoder must be an nn.Module"),
    ],
)
def test_what_is_refused(digits, settings, error, message):
    with pytest.raises(error, match=message):
        CEM(digits.model, **{"baseline": 0.0, **settings})


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (torch.zeros(3), r"baseline must broadcast to one input of shape \(1, 8, 8\)"),
        (torch.nan, "baseline must be finite"),
    ],
)
def test_baselines_that_do_not_fit(digits, baseline, message):
    with pytest.raises(ValueError, match=message):
        CEM(digits.model, baseline=baseline).generate(digits.images[:2], 3)
