"""The contract that every public explainer keeps, most of it run through Captum's own tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from captum_deduce import (
    CEM,
    JSMA,
    PIECE,
    REVISE,
    VLK,
    ClassGaussianMixture,
    ClassHurdles,
    CounterfactualExplainer,
    DeDUCE,
    LatentShift,
    NearestExample,
    PatchSwap,
    PrototypeIndex,
    Schut,
    Wachter,
    explainers,
    spectral_normalize,
)
from captum_deduce.prototypes import Examples
from captum_deduce.testing import NotApplicable, Subject, explainer_checks
from tests.autoencoders import PrincipalComponents

Builder = Callable[[Any], CounterfactualExplainer]


def short_deduce(model: Subject) -> DeDUCE:
    samples = [(model.training_images, model.training_labels)]
    density = ClassGaussianMixture.fit_loader(model, model.features, samples)
    return DeDUCE(model, model.features, density)


def short_vlk(model: Subject) -> VLK:
    """Settings under which it finds every target in few steps, and is not chaotic."""
    autoencoder = PrincipalComponents(model.training_images)
    prototypes = PrototypeIndex.from_loader(model, autoencoder.encoder, [model.training_images])
    return VLK(
        model,
        autoencoder,
        autoencoder.encoder,
        prototypes,
        beta=0.01,
        gamma=1.0,
        theta=10.0,
        max_iterations=30,
    )


def short_revise(model: Subject) -> REVISE:
    """Adam in the space of principal components, which finds every target in few steps."""
    autoencoder = PrincipalComponents(model.training_images)
    return REVISE(
        model,
        autoencoder.decoder,
        encoder=autoencoder.encoder,
        optimizer="adam",
        distance_weight=0.1,
        max_iterations=300,
    )


def short_cem(model: Subject) -> CEM:
    """Few steps, of which the first are long."""
    return CEM(
        model, baseline=0.0, c_steps=3, max_iterations=30, beta=0.01, learning_rate_init=0.05
    )


def latent_shift(model: Subject) -> LatentShift:
    autoencoder = PrincipalComponents(model.training_images)
    return LatentShift(model, autoencoder.decoder, encoder=autoencoder.encoder)


def nearest_example(model: Subject) -> NearestExample:
    examples = Examples(model.training_images, model.training_labels)
    return NearestExample(model, examples, max_iterations=30)


def short_piece(model: Subject) -> PIECE:
    """In the space of principal components, with many exceptional features."""
    images, labels = model.training_images, model.training_labels
    autoencoder = PrincipalComponents(images)
    return PIECE(
        model,
        model.features,
        ClassHurdles.fit_loader(model, model.features, [(images, labels)]),
        autoencoder.decoder,
        encoder=autoencoder.encoder,
        alpha=0.3,
        learning_rate=0.1,
        max_iterations=60,
    )


def short_patch_swap(model: Subject) -> PatchSwap:
    """Cells of the last convolution's 4 x 4."""
    images, labels = model.training_images[:200], model.training_labels[:200]
    return PatchSwap(model, model.maps, images, labels)


BUILDERS: dict[str, Builder] = {
    "CEM": short_cem,
    "DeDUCE": short_deduce,
    "JSMA": JSMA,
    "LatentShift": latent_shift,
    "NearestExample": nearest_example,
    "PIECE": short_piece,
    "PatchSwap": short_patch_swap,
    "REVISE": short_revise,
    "Schut": lambda model: Schut([model, model], confidence=0.5),
    "VLK": short_vlk,
    "Wachter": lambda model: Wachter(model, lambda_rounds=4, max_iterations=60),
}
"""How each public explainer is built around a classifier; a new explainer needs a line here."""

HOPELESS: dict[str, dict[str, Any]] = {"CEM": {"kappa": 1e3}, "VLK": {"kappa": 1.0}}
"""Settings with which a pair fails of those that have no confidence to ask for."""

NOT_APPLICABLE = {"gpu", "log_density_near_zero"}
"""Checks that skip themselves: for want of a GPU, or where results have no log-density."""

UNTARGETED = {"VLK"}
"""Without a target any class but the predicted one will do."""
MOVES_GROUPS = {"DeDUCE", "JSMA", "Schut"}
"""Few pixels a step, and so groups of them; the others move all entries at once."""
NO_GRADIENT = {"NearestExample", "PatchSwap"}
"""It computes none, and counts none."""

every_explainer = pytest.mark.parametrize("name", sorted(BUILDERS))


def build(name: str, model: Any) -> CounterfactualExplainer:
    return BUILDERS[name](model)


def test_every_public_explainer_is_held_to_the_contract():
    assert set(BUILDERS) == set(explainers.METHODS)


def contract():
    for name in sorted(BUILDERS):
        for check, run in explainer_checks(BUILDERS[name], hopeless=HOPELESS.get(name)):
            yield pytest.param(check, run, id=f"{name}-{check}")


@pytest.mark.parametrize(("check_name", "check"), [*contract()])
def test_the_contract(check_name, check):
    try:
        check()
    except NotApplicable as reason:
        if check_name not in NOT_APPLICABLE:
            pytest.fail(f"did not run: {reason}")


# --- what this package's own promise beyond the contract ---


@every_explainer
def test_easy_targets_are_found(name):
    """And evaluations are counted as what they are."""
    model = Subject()
    result = build(name, model).generate(model.images, model.target)
    assert result.success.sum() >= 5
    if name in NO_GRADIENT:
        assert (result.evaluations == 0).all()
        assert (result.forward_evaluations >= 1).all()
    else:
        assert (result.evaluations >= 1).all()
    assert (result.log_density is not None) == (name == "DeDUCE")


@every_explainer
def test_without_a_target_the_runner_up_is_taken(name):
    """Or, by the methods that can, any class but the predicted one."""
    model = Subject()
    with torch.no_grad():
        first, second = model(model.images).topk(2).indices.T
    result = build(name, model).generate(model.images)
    assert result.success.any()
    if name in UNTARGETED:
        assert (result.target != first).all()
    else:
        assert torch.equal(result.target, second)


@every_explainer
def test_methods_that_move_few_pixels_move_groups_and_the_others_name_them(name):
    model, halves = Subject(), torch.arange(8).view(1, 8, 1) // 4
    explainer = build(name, model)
    if name in MOVES_GROUPS:
        with pytest.raises(TypeError, match="feature_mask must hold integers"):
            explainer.generate(model.images, model.target, feature_mask=halves.float())
        return
    refused = f"{name} takes no feature_mask, .* DeDUCE, Schut and JSMA"
    with pytest.raises(ValueError, match=refused):
        explainer.generate(model.images, model.target, feature_mask=halves)


@pytest.mark.parametrize("name", ["DeDUCE", "REVISE", "Schut"])
def test_a_spectrally_normalised_model_is_left_as_it_was(name):
    """Each forward pass in train mode would move the vectors that estimate its norms."""
    model = Subject()
    spectral_normalize(model, coeff=3.0, example_input=model.images[:1])
    explainer = build(name, model.train())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = explainer.generate(model.images, model.target)
    assert result.success.sum() >= 5
    assert all(part.training for part in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_bound_method_of_a_model_is_a_function_of_it():
    model = Subject()
    expected = JSMA(model).generate(model.images, model.target)
    model.train()
    result = JSMA(model.forward).generate(model.images, model.target)
    np.testing.assert_allclose(result.counterfactuals, expected.counterfactuals, atol=1e-12)
    assert model.training
