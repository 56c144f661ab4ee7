"""DeDUCE against algorithm 1 written out for one image in float64."""

from __future__ import annotations

import copy
import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture, DeDUCE, Polish, remove_spectral_normalization
from captum_deduce.explainers import deduce
from captum_deduce.search import total_variation
from tests import reference
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits, digits_network, train_briefly


@functools.cache
def plain_copy(model: nn.Sequential) -> nn.Sequential:
    """The same model with the bounded weights written out, so that naive runs are not too slow."""
    return remove_spectral_normalization(copy.deepcopy(model))


def naive(digits: Digits, image: Tensor, target: int, **settings) -> reference.Attempt:
    """Algorithm 1 with the density's own mean and covariance, one image at a time."""
    weight = settings.pop("classification_weight", 1.0)
    normalize_terms = settings.pop("normalize_terms", True)
    model, place = plain_copy(digits.model), list(digits.model).index(digits.layer) + 1
    rows = digits.train_labels == target
    with torch.no_grad():
        features = model[:place](digits.train_images[rows]).numpy()
    mean = torch.from_numpy(features.mean(0))
    covariance = torch.from_numpy(np.cov(features, rowvar=False))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        z = model[:place](x.unsqueeze(0))
        return model[place:](z)[0], z[0]

    return reference.algorithm_1(
        image.numpy(),
        target,
        lambda x: both(x)[0].detach(),
        lambda x: reference.deduce_gradient(
            x, target, both, mean, covariance, weight, normalize_terms
        ),
        **settings,
    )


def class_features(digits: Digits, target: int) -> np.ndarray:
    place = list(digits.model).index(digits.layer) + 1
    with torch.no_grad():
        rows = digits.train_labels == target
        return plain_copy(digits.model)[:place](digits.train_images[rows]).numpy()


def leave_one_out_quantile(digits: Digits, target: int, q: float) -> float:
    """The quantile of a class's log-densities, each under a fit to all other samples."""
    features = class_features(digits, target)
    values = []
    for i in range(len(features)):
        others = np.delete(features, i, axis=0)
        fitted = stats.multivariate_normal(others.mean(0), np.cov(others, rowvar=False))
        values.append(fitted.logpdf(features[i]))
    return float(np.quantile(values, q))


def naive_judge(digits: Digits, target: int, weight: float = 1.0):
    """Confidence and log-density of an image, and the gradient of equation 5."""
    model, place = plain_copy(digits.model), list(digits.model).index(digits.layer) + 1
    features = class_features(digits, target)
    mean = torch.from_numpy(features.mean(0))
    covariance = torch.from_numpy(np.cov(features, rowvar=False))
    fitted = stats.multivariate_normal(features.mean(0), np.cov(features, rowvar=False))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        z = model[:place](x.unsqueeze(0))
        return model[place:](z)[0], z[0]

    def judge(image: np.ndarray) -> tuple[float, float]:
        with torch.no_grad():
            scores, z = both(torch.from_numpy(image))
        confidence = torch.exp(-reference.cross_entropy(scores, target)).item()
        return confidence, float(fitted.logpdf(z.numpy()))

    def gradient_of(image: np.ndarray, balance: float = 1.0) -> np.ndarray:
        both_weights = balance * weight
        return reference.deduce_gradient(image, target, both, mean, covariance, both_weights, True)

    return judge, gradient_of


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


def assert_equals_reference(digits: Digits, images: Tensor, targets: Tensor, **settings) -> None:
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    by_site = settings.pop("by_site", False)
    result = explainer.generate(
        images,
        targets,
        pixel="site" if by_site else "entry",
        return_trajectory=True,
        internal_batch_size=17,
        **settings,
    )
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        expected = naive(digits, image, target, by_site=by_site, **settings)
        path = result.trajectory[i].numpy()
        assert len(path) == len(expected.path)
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-12)
        assert result.success[i].item() == expected.success
        assert result.iterations[i].item() == expected.steps
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("skip_saturated", [False, True])
def test_equals_algorithm_1_pixel_for_pixel(digits, momentum, skip_saturated):
    images, targets = pairs_of(digits, 54)
    assert_equals_reference(
        digits, images, targets, momentum=momentum, skip_saturated=skip_saturated
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"normalize_terms": False, "classification_weight": 100.0},
        {"normalize_terms": False, "classification_weight": 0.0},
        {"classification_weight": 5.0},
        {"pixels_per_step": 3},
        {"step_size": 0.35, "max_changes": 2},
        {"confidence": 0.9},
        {"confidence": 0.2},
        {"max_iterations": 4},
        {"max_changes": 1, "confidence": 0.99},
    ],
    ids=str,
)
def test_every_setting_equals_its_reference(digits, settings):
    assert_equals_reference(digits, *pairs_of(digits, 9), **settings)


@pytest.mark.parametrize("by_site", [False, True])
def test_bounds_of_each_image_equal_algorithm_1_with_these(colour_digits, by_site):
    """Steps are fractions of every entry's own range, also where slots are filled again."""
    images, targets = pairs_of(colour_digits, 8)
    lower, upper = ball(images)
    explainer = DeDUCE(colour_digits.model, colour_digits.layer, colour_digits.density)
    result = explainer.generate(
        images,
        targets,
        pixel="site" if by_site else "entry",
        lower_bound=lower,
        upper_bound=upper,
        return_trajectory=True,
        internal_batch_size=3,
    )
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        bounds = {"lower": lower[i].numpy(), "upper": upper[i].numpy()}
        expected = naive(colour_digits, image, target, by_site=by_site, **bounds)
        np.testing.assert_allclose(
            result.trajectory[i].numpy(), np.stack(expected.path), rtol=0, atol=1e-12
        )
        assert result.success[i].item() == expected.success
    assert (result.counterfactuals - lower).min() >= 0
    assert (upper - result.counterfactuals).min() >= 0


BEYOND = [
    {"density_quantile": 0.05},
    {"density_quantile": 0.3, "confidence": 0.9, "max_iterations": 40},
    {"pixels_per_step": "adaptive"},
    {"pixels_per_step": "adaptive", "step_size": 1.0, "momentum": 0.0},
    {"rounds": 3},
    {"rounds": 4, "pixels_per_step": "adaptive", "step_size": 1.0, "max_changes": 2},
    {"refine": True},
    {"rounds": 6, "pixels_per_step": "adaptive", "step_size": 0.6, "halving": True},
    {"pixels_per_step": "adaptive", "step_size": 0.6, "classification_weight": 5.0},
    {
        "pixels_per_step": "adaptive",
        "step_size": 1.0,
        "rounds": 9,
        "halving": True,
        "confidence": 0.9,
        "max_iterations": 90,
    },
    {
        "density_quantile": 0.1,
        "confidence": 0.8,
        "step_size": 0.37,  # no two attempts are equally far, but for rounding
        "rounds": 3,
        "pixels_per_step": "adaptive",
        "refine": True,
        "max_iterations": 60,
    },
]


@pytest.mark.parametrize("settings", BEYOND, ids=str)
def test_what_goes_past_the_paper_equals_its_reference(digits, settings):
    images, targets = pairs_of(digits, 9)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    result = explainer.generate(
        images, targets, return_trajectory=True, internal_batch_size=4, **settings
    )
    written = dict(settings)
    quantile = written.pop("density_quantile", None)
    adaptive = written.pop("pixels_per_step", 1) == "adaptive"
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        if quantile is not None:
            least = leave_one_out_quantile(digits, target, quantile)
            written["least_log_density"] = least
        judge, gradient_of = naive_judge(digits, target, settings.get("classification_weight", 1.0))
        if adaptive:
            expected, *_ = reference.adaptive_deduce(image.numpy(), judge, gradient_of, **written)
        else:
            expected = reference.deduce_in_rounds(image.numpy(), judge, gradient_of, **written)
        assert result.success[i].item() == expected.success
        assert result.iterations[i].item() == expected.steps
        assert result.forward_evaluations[i].item() == expected.forward_passes
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-12)
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-9)
        assert result.log_density[i].item() == pytest.approx(
            judge(result.counterfactuals[i].numpy())[1], rel=1e-7
        )


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("confidence", {"classification_weight": 0.01, "confidence": 0.999, "step_size": 1.0}),
        ("confidence", {"classification_weight": 0.01, "rounds": 3, "confidence": 0.99}),
        ("density", {"classification_weight": 20.0, "density_quantile": 0.3, "step_size": 0.5}),
        ("density", {"classification_weight": 9.0, "density_quantile": 0.1, "halving": True}),
    ],
)
def test_what_is_missing_for_long_gets_more_weight(digits, missing, settings):
    settings = {"max_iterations": 110, "momentum": 0.3, **settings}
    if "halving" in settings:
        settings["rounds"] = 2
    images, targets = pairs_of(digits, 5)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, pixels_per_step="adaptive")
    result = explainer.generate(
        images, targets, return_trajectory=True, internal_batch_size=3, **settings
    )
    quantile, seen = settings.pop("density_quantile", None), set()
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        if quantile is not None:
            settings["least_log_density"] = leave_one_out_quantile(digits, target, quantile)
        judged = naive_judge(digits, target, settings["classification_weight"])
        expected, _, balances = reference.adaptive_deduce(image.numpy(), *judged, **settings)
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-12)
        assert result.success[i].item() == expected.success
        seen |= set(balances)
    assert seen >= ({1.0, 2.0, 4.0} if missing == "confidence" else {1.0, 0.5, 0.25})


def test_a_small_weight_is_made_up_for_where_steps_are_adaptive(digits):
    """The same search with steps of one length, which keeps to its weight, fails."""
    images, targets = pairs_of(digits, 8)
    explainer = DeDUCE(
        digits.model,
        digits.layer,
        digits.density,
        classification_weight=0.1,
        confidence=0.999,
        step_size=0.5,
    )
    assert not explainer.generate(images, targets, max_iterations=300).success.all()
    result = explainer.generate(images, targets, pixels_per_step="adaptive", max_iterations=300)
    assert result.success.all()


@pytest.fixture(scope="module")
def colour_digits() -> Digits:
    """Digits in three channels of their own strength, so that channels matter unequally."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = torch.from_numpy(data.images).unsqueeze(1) / 16
    images = grey * torch.tensor([1.0, 0.5, 0.8]).view(3, 1, 1)
    labels = torch.from_numpy(data.target)
    model = digits_network(channels=3).double()
    train_briefly(model, images[:1200], labels[:1200], epochs=6)
    with torch.no_grad():
        features = model[:7](images[:1200])
    density = ClassGaussianMixture().fit(features, labels[:1200])
    return Digits(
        model, model[6], density, images[1200:], labels[1200:], images[:1200], labels[:1200]
    )


@pytest.mark.parametrize("skip_saturated", [False, True])
@pytest.mark.parametrize("by_site", [False, True])
def test_colour_images_by_entry_and_by_site(colour_digits, by_site, skip_saturated):
    images, targets = pairs_of(colour_digits, 8)
    assert_equals_reference(
        colour_digits, images, targets, by_site=by_site, skip_saturated=skip_saturated
    )


def test_a_density_goal_is_met_or_the_pair_has_failed(digits):
    images, targets = pairs_of(digits, 60)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, density_quantile=0.2)
    result = explainer.generate(images, targets, max_iterations=25)
    least = digits.density.quantile(0.2)[result.target]
    assert (result.log_density[result.success] >= least[result.success]).all()
    assert 0 < result.success.sum() < 60
    # failed ones: the likeliest of the confident attempts, where there is one
    paths = explainer.generate(
        images, targets, max_iterations=25, return_trajectory=True
    ).trajectory
    with torch.no_grad():
        for i in (~result.success).nonzero().flatten().tolist():
            probability = digits.model(paths[i]).softmax(1)[:, targets[i]]
            features = digits.model[: list(digits.model).index(digits.layer) + 1](paths[i])
            log_density = digits.density.log_prob(features, int(targets[i]))
            confident = probability > 0.5
            if confident.any():
                assert result.log_density[i].item() == pytest.approx(
                    log_density[confident].max().item()
                )
            else:
                assert result.confidence[i].item() == pytest.approx(probability.max().item())


def test_polishing_keeps_what_was_asked_for_and_lowers_what_it_polishes_for(digits):
    images, targets = pairs_of(digits, 40)
    explainer = DeDUCE.realistic(digits.model, digits.layer, digits.density, confidence=0.9)
    before = explainer.generate(images, targets)
    after = explainer.generate(images, targets, polish=Polish(steps=60))
    assert torch.equal(after.success, before.success)
    found = before.success & ~before.already
    assert found.sum() > 20

    def cost(result):
        return (result.l1() + 0.25 * total_variation(result.counterfactuals))[found]

    assert (cost(after) <= cost(before) + 1e-9).all()
    assert cost(after).mean() < 0.97 * cost(before).mean()
    assert torch.equal(after.evaluations[found], before.evaluations[found] + 61)
    assert torch.equal(after.counterfactuals[~found], before.counterfactuals[~found])
    polished = after[found]
    with torch.no_grad():
        scores = digits.model(polished.counterfactuals)
    confidence = scores.softmax(1).gather(1, polished.target.unsqueeze(1)).squeeze(1)
    assert (confidence > 0.9).all()
    torch.testing.assert_close(polished.confidence, confidence)
    least = digits.density.quantile(0.05)[polished.target]
    assert (polished.log_density >= least).all()


def test_polishing_with_a_prior_raises_what_the_prior_thinks_of_the_images(digits):
    images, targets = pairs_of(digits, 30)
    prior = PrincipalComponents(digits.images)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, confidence=0.9)
    without = explainer.generate(images, targets, polish=Polish(steps=60))
    result = explainer.generate(
        images, targets, polish=Polish(prior=prior, prior_weight=5, steps=60)
    )

    def missing(result):
        images = result[result.success].counterfactuals
        return (prior(images) - images).square().flatten(1).sum(1).mean()

    assert missing(result) < 0.8 * missing(without)


def test_what_does_not_fit_a_polish_is_said_before_any_work(digits):
    images, targets = pairs_of(digits, 3)
    make = functools.partial(DeDUCE, digits.model, digits.layer, digits.density)
    with pytest.raises(TypeError, match=r"polish must be a captum_deduce.Polish.* got bool"):
        make(polish=True)
    with pytest.raises(ValueError, match=r"polish.prior must return images like the inputs"):
        make(polish=Polish(prior=nn.Flatten())).generate(images, targets)
    with pytest.raises(ValueError, match=r"polish.prior's output does not depend on the inputs"):
        make(polish=Polish(prior=torch.zeros_like)).generate(images, targets)
    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), digits.model)
    explainer = DeDUCE(flat, digits.layer, digits.density, polish=Polish())
    with pytest.raises(ValueError, match=r"total variation needs inputs of the shape N x channels"):
        explainer.generate(images.flatten(1), targets)
    rows = explainer.generate(images.flatten(1), targets, polish=Polish(variation=0, steps=5))
    assert rows.success.all()


def test_a_polish_prints_what_is_not_its_default(digits):
    polish = Polish(variation=0.5, prior=nn.Identity())
    explainer = DeDUCE(digits.model, digits.layer, digits.density, polish=polish)
    assert repr(explainer) == "DeDUCE(polish=Polish(variation=0.5, prior=<Identity>))"


def test_refinement_and_rounds_never_move_farther(digits):
    images, targets = pairs_of(digits, 60)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    once = explainer.generate(images, targets)
    refined = explainer.generate(images, targets, refine=True)
    assert (refined.l0() <= once.l0()).all()
    assert (refined.l0() < once.l0()).any()
    assert (refined.l1() <= once.l1() + 1e-9).all()
    assert (refined.confidence > 0.5).all()
    several = explainer.generate(images, targets, rounds=4)
    assert (several.l0() + several.l1() <= once.l0() + once.l1() + 1e-9).all()
    assert (several.l0() + several.l1()).mean() < 0.95 * (once.l0() + once.l1()).mean()


def test_an_image_of_the_target_class_stays_as_it_is_in_all_rounds(digits):
    with torch.no_grad():
        confidence, predicted = digits.model(digits.images).softmax(1).max(1)
    sure = (confidence > 0.5).nonzero().flatten()[:5]
    images, predicted = digits.images[sure], predicted[sure]
    explainer = DeDUCE(digits.model, digits.layer, digits.density, rounds=5, refine=True)
    result = explainer.generate(images, predicted)
    assert result.success.all()
    assert not result.l0().any()
    assert result.evaluations.tolist() == [1] * 5
    assert result.forward_evaluations.tolist() == [0] * 5


@pytest.mark.parametrize("name", ["paper", "closest", "realistic"])
def test_presets_are_settings_that_the_caller_may_overrule(digits, name):
    images, targets = pairs_of(digits, 20)
    arguments = (digits.model, digits.layer, digits.density)
    settings = getattr(deduce, name.upper())
    preset = getattr(DeDUCE, name)(*arguments)
    written_out = DeDUCE(*arguments, **settings)
    found = preset.generate(images, targets, max_iterations=60)
    expected = written_out.generate(images, targets, max_iterations=60)
    assert torch.equal(found.counterfactuals, expected.counterfactuals)
    overruled = getattr(DeDUCE, name)(*arguments, step_size=0.3, skip_saturated=True)
    assert (overruled.step_size, overruled.skip_saturated) == (0.3, True)


def test_the_presets_do_what_they_are_for(digits):
    images, targets = pairs_of(digits, 80)
    arguments = (digits.model, digits.layer, digits.density)
    default = DeDUCE(*arguments).generate(images, targets)
    closest = DeDUCE.closest(*arguments).generate(images, targets)
    realistic = DeDUCE.realistic(*arguments).generate(images, targets)
    assert default.success.all()
    assert closest.success.all()
    assert closest.l0().double().mean() < 0.8 * default.l0().double().mean()
    assert closest.evaluations.double().mean() < default.evaluations.double().mean()
    found = realistic.success
    assert (realistic.confidence[found] > 0.9985).all()
    least = digits.density.quantile(0.05)[targets]
    assert (realistic.log_density[found] >= least[found]).all()
    assert realistic.log_density.mean() > default.log_density.mean()


def test_quantiles_are_asked_for_at_once(digits):
    features = torch.randn(60, 16, dtype=torch.float64)
    merged = ClassGaussianMixture("diag").partial_fit(features, torch.arange(60) % 10)
    with pytest.raises(RuntimeError, match="update_quantiles"):
        DeDUCE(digits.model, digits.layer, merged, density_quantile=0.05)
    for wrong in (-0.1, 1.5, "half"):
        with pytest.raises((ValueError, TypeError), match="density_quantile"):
            DeDUCE(digits.model, digits.layer, digits.density, density_quantile=wrong)
    with pytest.raises(ValueError, match="normalize_terms=True"):
        DeDUCE(
            digits.model,
            digits.layer,
            digits.density,
            pixels_per_step="adaptive",
            normalize_terms=False,
        )
    for wrong in ("many", 0, 2.5, True):
        with pytest.raises((ValueError, TypeError), match="pixels_per_step"):
            DeDUCE(digits.model, digits.layer, digits.density, pixels_per_step=wrong)
    with pytest.raises((ValueError, TypeError), match="rounds"):
        DeDUCE(digits.model, digits.layer, digits.density, rounds=0)


def test_no_step_that_cannot_change_the_image_is_evaluated(digits):
    images, targets = pairs_of(digits, 60)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    skipping = explainer.generate(images, targets, return_trajectory=True)
    literal = explainer.generate(images, targets, skip_saturated=False, return_trajectory=True)

    def idle(path: Tensor) -> int:
        return int(((path[1:] - path[:-1]).abs().flatten(1).amax(1) <= 1e-6).sum())

    assert sum(idle(path) for path in skipping.trajectory) == 0
    assert sum(idle(path) for path in literal.trajectory) > 0
    assert skipping.iterations.double().mean() < literal.iterations.double().mean()


def test_a_step_changes_one_pixel_at_most_five_times_by_a_fifth(digits):
    images, targets = pairs_of(digits, 20)
    result = DeDUCE(digits.model, digits.layer, digits.density).generate(
        images, targets, return_trajectory=True, confidence=0.95
    )
    for path in result.trajectory:
        moves = (path[1:] - path[:-1]).abs().flatten(1)
        assert ((moves > 0).sum(1) == 1).all()
        assert moves.max() <= 0.2 + 1e-9
        assert (moves > 0).sum(0).max() <= 5
        assert path.min() >= 0
        assert path.max() <= 1


def test_normalised_inputs_give_the_same_as_a_normalisation_inside_the_model(colour_digits):
    mean = torch.tensor([0.3, 0.2, 0.5]).view(3, 1, 1).double()
    std = torch.tensor([0.2, 0.7, 0.4]).view(3, 1, 1).double()

    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - mean) / std

    # A model that takes normalised inputs, trained as such; and the same with the layer inside.
    takes_normalised = digits_network(channels=3).double()
    data = colour_digits
    train_briefly(takes_normalised, (data.train_images - mean) / std, data.train_labels, epochs=6)
    with torch.no_grad():
        features = takes_normalised[:7]((data.train_images - mean) / std)
    density = ClassGaussianMixture().fit(features, data.train_labels)
    inside = nn.Sequential(Normalise(), *takes_normalised).eval()
    images, labels = data.images[:12], data.labels[:12]
    targets = (labels + 3) % 10
    for pixel in ("entry", "site"):
        raw = DeDUCE(inside, inside[7], density, pixel=pixel).generate(images, targets)
        explainer = DeDUCE(
            takes_normalised,
            takes_normalised[6],
            density,
            pixel=pixel,
            lower_bound=(0 - mean) / std,
            upper_bound=(1 - mean) / std,
        )
        own_units = explainer.generate((images - mean) / std, targets)
        assert (raw.l0() > 0).all()
        assert own_units.iterations.tolist() == raw.iterations.tolist()
        torch.testing.assert_close(
            own_units.counterfactuals * std + mean, raw.counterfactuals, rtol=0, atol=1e-9
        )


def test_log_density_is_that_of_the_counterfactuals_features(digits):
    images, targets = pairs_of(digits, 10)
    result = DeDUCE(digits.model, digits.layer, digits.density).generate(images, targets)
    with torch.no_grad():
        features = digits.model[:7](result.counterfactuals)
    for i, target in enumerate(targets.tolist()):
        rows = digits.model[:7](digits.train_images[digits.train_labels == target]).detach()
        gaussian = torch.distributions.MultivariateNormal(rows.mean(0), torch.cov(rows.T))
        expected = gaussian.log_prob(features[i]).item()
        assert result.log_density[i].item() == pytest.approx(expected, rel=1e-7)


def test_density_draws_the_features_towards_the_target(digits):
    """At equal confidence, counterfactuals are likelier with the density term than without."""
    images, targets = pairs_of(digits, 60)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    both = explainer.generate(images, targets)
    alone = explainer.generate(images, targets, classification_weight=1e6)
    assert both.success.all()
    assert both.log_density.mean() > alone.log_density.mean()


@pytest.mark.parametrize("by_name", [False, True])
def test_the_layer_may_be_a_module_or_a_name(digits, by_name):
    layer = "6" if by_name else digits.layer
    images, targets = pairs_of(digits, 3)
    result = DeDUCE(digits.model, layer, digits.density).generate(images, targets)
    expected = DeDUCE(digits.model, digits.layer, digits.density).generate(images, targets)
    torch.testing.assert_close(result.counterfactuals, expected.counterfactuals, rtol=0, atol=0)


def test_a_convolutional_layer_is_flattened(digits):
    with torch.no_grad():
        maps = digits.model[:6](digits.train_images).flatten(1)
    density = ClassGaussianMixture("diag").fit(maps, digits.train_labels)
    images, targets = pairs_of(digits, 5)
    result = DeDUCE(digits.model, digits.model[5], density).generate(images, targets)
    assert result.success.all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"confidence": 1.0}, ValueError, r"confidence must be .* in \(0, 1\), got 1.0"),
        ({"confidence": "high"}, TypeError, "confidence must be a number, got str"),
        ({"step_size": 0.0}, ValueError, "step_size"),
        ({"step_size": 1.5}, ValueError, "step_size"),
        ({"max_changes": 0}, ValueError, "max_changes"),
        ({"max_changes": 2.0}, TypeError, "max_changes must be an int, got float"),
        ({"pixels_per_step": 0}, ValueError, "pixels_per_step"),
        ({"momentum": -0.1}, ValueError, "momentum"),
        ({"max_iterations": -1}, ValueError, "max_iterations"),
        ({"classification_weight": -1.0}, ValueError, "classification_weight"),
        ({"classification_weight": float("nan")}, ValueError, "classification_weight"),
        ({"normalize_terms": 1}, TypeError, "normalize_terms must be True or False"),
        ({"skip_saturated": None}, TypeError, "skip_saturated must be True or False"),
        ({"pixel": "place"}, ValueError, "pixel must be one of 'entry', 'site', 'patch', got"),
        ({"patch_size": 0}, ValueError, "patch_size must be a finite number"),
        ({"patch_size": 2.0}, TypeError, "patch_size must be an int, got float"),
    ],
    ids=str,
)
def test_settings_that_are_refused_at_construction_and_in_a_call(digits, settings, error, message):
    with pytest.raises(error, match=message):
        DeDUCE(digits.model, digits.layer, digits.density, **settings)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    with pytest.raises(error, match=message):
        explainer.generate(digits.images[:1], 3, **settings)


def test_parts_that_do_not_fit_are_refused_before_any_work(digits):
    model, layer, density = digits.model, digits.layer, digits.density
    images = digits.images[:2]
    with pytest.raises(TypeError, match="density must be a ClassGaussianMixture, got dict"):
        DeDUCE(model, layer, {})
    with pytest.raises(ValueError, match=r"density .*not fitted"):
        DeDUCE(model, layer, ClassGaussianMixture())
    with pytest.raises(ValueError, match="layer 'avgpool' is not in the model"):
        DeDUCE(model, "avgpool", density)
    with pytest.raises(
        ValueError, match="density was fitted to 64 features, but the model has 256"
    ):
        DeDUCE(model, model[4], density).generate(images, 3)
    many = ClassGaussianMixture().fit(torch.randn(990, 64).double(), torch.arange(990) % 11)
    with pytest.raises(ValueError, match=r"11 classes, but the model has 10; .* num_classes=10"):
        DeDUCE(model, layer, many).generate(images, 3)


@pytest.fixture(scope="module")
def some_classes(_digits) -> ClassGaussianMixture:
    """A density of classes 0, 2, 3 and 5 of ten."""
    keep = torch.isin(_digits.train_labels, torch.tensor([0, 2, 3, 5]))
    with torch.no_grad():
        features = _digits.model.eval()[:7](_digits.train_images[keep])
    return ClassGaussianMixture().fit(features, _digits.train_labels[keep])


def test_a_density_of_some_classes_explains_these(digits, some_classes, monkeypatch):
    images = digits.images[:20]
    explainer = DeDUCE(digits.model, digits.layer, some_classes)
    whole = DeDUCE(digits.model, digits.layer, digits.density)
    torch.testing.assert_close(
        explainer.generate(images[:4], 5).counterfactuals,
        whole.generate(images[:4], 5).counterfactuals,
        rtol=0,
        atol=0,
    )
    monkeypatch.setattr(deduce.search, "run", None)  # nothing is done before the error
    for target, named in (([0, 1, 2, 9], r"\[1, 9\]"), ([0, 2, 3, 7], r"\[7\]")):
        with pytest.raises(ValueError, match=rf"class\(es\) {named} .* no samples .* of 4 classes"):
            explainer.generate(images[:4], target)


@pytest.mark.parametrize("quantile", [None, 0.05])
def test_a_target_left_out_is_a_class_that_the_density_knows(digits, some_classes, quantile):
    images = digits.images[:40]
    density, known = copy.deepcopy(some_classes), {0, 2, 3, 5}
    if quantile is not None:
        # and one that it knows too little of
        with torch.no_grad():
            rows = digits.train_images[digits.train_labels == 7][:2]
            density.partial_fit(digits.model[:7](rows), torch.tensor([7, 7]))
            keep = torch.isin(digits.train_labels, torch.tensor([0, 2, 3, 5]))
            features = digits.model[:7](digits.train_images[keep])
        with pytest.warns(UserWarning, match="class 7"):
            density.update_quantiles(features, digits.train_labels[keep])
    explainer = DeDUCE(digits.model, digits.layer, density, density_quantile=quantile)
    result = explainer.generate(images, max_iterations=1)
    with torch.no_grad():
        scores = digits.model(images).numpy()
    for row, target in zip(scores, result.target.tolist(), strict=True):
        best = max(known - {int(row.argmax())}, key=lambda c: row[c])
        assert target == best
    # with samples of every class it is the runner-up
    plain = DeDUCE(digits.model, digits.layer, digits.density).generate(images, max_iterations=1)
    assert plain.target.tolist() == np.argsort(scores, 1)[:, -2].tolist()


def test_a_density_of_the_predicted_class_alone_has_no_runner_up(digits):
    own = digits.model(digits.images[:1]).argmax(1).item()
    keep = digits.train_labels == own
    with torch.no_grad():
        features = digits.model[:7](digits.train_images[keep])
    density = ClassGaussianMixture(num_classes=10).fit(features, digits.train_labels[keep])
    with pytest.raises(ValueError, match=rf"target must be given: .* \(\[{own}\]\) there is none"):
        DeDUCE(digits.model, digits.layer, density).generate(digits.images[:1])


def test_overrides_last_for_one_call(digits):
    images, targets = pairs_of(digits, 6)
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    before = explainer.generate(images, targets)
    sure = explainer.generate(images, targets, confidence=0.95)
    assert (sure.confidence > 0.95).all()
    assert explainer.confidence == 0.5
    after = explainer.generate(images, targets)
    torch.testing.assert_close(before.counterfactuals, after.counterfactuals, rtol=0, atol=0)


def test_mixed_targets_equal_one_target_at_a_time(digits):
    image = digits.images[:1]
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    together = explainer.generate(image.expand(10, -1, -1, -1), torch.arange(10))
    for target, batch_size in itertools.product(range(10), (None, 1)):
        alone = explainer.generate(image, target, internal_batch_size=batch_size)
        torch.testing.assert_close(
            alone.counterfactuals[0], together.counterfactuals[target], rtol=0, atol=0
        )


def one_telling_pixel(spread: float) -> tuple[nn.Sequential, ClassGaussianMixture, Tensor]:
    """Class 1 is bright in the first of four pixels, but its training images are all dark there."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [6, 0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([0.0, -3.6]))
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(80, 4, generator=generator, dtype=torch.float64)
    features[1::2, 0] = 0.1 + spread * torch.rand(40, generator=generator, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = ClassGaussianMixture(regularization="jitter")
        density.fit(features, torch.arange(80) % 2)
    return model, density, torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)


def test_pairs_that_only_the_density_quantile_keeps_from_success_are_told(digits):
    """No image is as likely as the likeliest of all training images, but all reach a confidence."""
    images, targets = pairs_of(digits, 6)
    explainer = DeDUCE(digits.model, digits.layer, digits.density, max_iterations=60)
    told = r"of 6 pairs reached the confidence, but not density_quantile=1: .* the lowest 100% of"
    with pytest.warns(UserWarning, match=told) as caught:
        result = explainer.generate(images, targets, density_quantile=1.0)
    count = int((~result.success & (result.confidence > 0.5)).sum())
    assert count > 0
    assert str(caught[0].message).startswith(f"{count} of 6")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explainer.generate(images, targets, confidence=0.7).success.all()


def test_a_singular_density_that_outweighs_the_classifier_is_named():
    model, density, image = one_telling_pixel(0.0)
    assert density.doubtful_classes == [1]
    explainer = DeDUCE(model, model[0], density, max_iterations=20, step_size=0.1)
    with pytest.warns(UserWarning, match="1 of 1 pairs failed: in 1 no step raised") as caught:
        result = explainer.generate(image, 1, return_trajectory=True)
    (message,) = [str(w.message) for w in caught if "pairs failed" in str(w.message)]
    assert r"the density of their class(es) [1] says little" in message
    assert "regularization='oas'" in message
    assert caught[0].filename == __file__
    # the probability falls and does not come back, and the original is the best attempt
    with torch.no_grad():
        confidence = model(result.trajectory[0].to(image)).softmax(1)[:, 1]
    assert (confidence[1:] < confidence[0]).all()
    assert torch.equal(result.counterfactuals, image)
    # algorithm 1 itself does the same: nothing was balanced behind the user's back
    mean, covariance = density.means[1], density.covariances[1]
    attempt = reference.algorithm_1(
        image[0].numpy(),
        1,
        lambda x: model(x.unsqueeze(0))[0].detach(),
        lambda x: reference.deduce_gradient(
            x, 1, lambda y: (model(y.unsqueeze(0))[0], y.flatten()), mean, covariance, 1.0, True
        ),
        max_iterations=20,
        step_size=0.1,
        skip_saturated=True,
    )
    np.testing.assert_allclose(result.trajectory[0], attempt.path, atol=1e-12)


def test_a_density_that_does_not_hinder_is_not_blamed():
    model, density, image = one_telling_pixel(0.9)
    assert density.doubtful_classes == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer = DeDUCE(model, model[0], density)
        assert explainer.generate(image, 1).success.all()
        # a pair that fails for want of steps, but came nearer
        assert not explainer.generate(image, 1, confidence=0.9, max_iterations=1).success.any()
        # and one that may not move
        stuck = explainer.generate(image, 1, mask=torch.zeros_like(image), confidence=0.9)
        assert not stuck.success.any()


def test_a_confidence_that_the_model_never_has_is_told_where_the_user_called():
    """Its probability of class 1 rises from .27 at black to .73 at white, and no further."""

    class Unsure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Sequential(nn.Flatten(), nn.AvgPool1d(4))

        def forward(self, images: Tensor) -> Tensor:
            score = 2 * self.mean(images).squeeze(1) - 1
            return torch.stack([-score / 2, score / 2], 1)

    model, images = Unsure(), torch.zeros(2, 1, 2, 2)
    train = torch.rand(200, 1, 2, 2)
    density = ClassGaussianMixture().fit(
        train.flatten(1).mean(1, keepdim=True), torch.arange(200) % 2
    )
    density.update_quantiles(train.flatten(1).mean(1, keepdim=True), torch.arange(200) % 2)
    explainer = DeDUCE(model, model.mean, density, confidence=0.9, density_quantile=0.0)
    with pytest.warns(UserWarning, match=r"none of 2 pairs reached confidence=0\.9") as caught:
        assert not explainer.generate(images, 1, max_iterations=100).success.any()
    (told,) = [each for each in caught if "none of 2" in str(each.message)]
    assert told.filename == __file__
    assert "2 came to their target" in str(told.message)
    for settings in ({"confidence": 0.55}, {"max_iterations": 1}, {"density_quantile": None}):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="none of")
            explainer.generate(images, 1, **{"max_iterations": 100, **settings})


def test_failures_with_a_doubtful_density_are_told_in_any_case():
    model, density, image = one_telling_pixel(0.0)
    explainer = DeDUCE(model, model[0], density, classification_weight=10, max_iterations=1)
    with pytest.warns(UserWarning, match=r"1 of 1 pairs failed: the density of their class\(es\)"):
        explainer.generate(image, 1, confidence=0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explainer.generate(image, 1, max_iterations=50, classification_weight=100)
    assert found.success.all()
