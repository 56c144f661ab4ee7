"""The published settings, and means by the rule of common pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from captum_deduce import Counterfactuals
from captum_deduce.experiments.methods import (
    AGREEMENT,
    PROBABILITY,
    deduce,
    evenly_among,
    found_by_all,
    make_anogan,
    measure,
    oracle_metrics,
    published,
    revise,
    search,
    siblings,
)
from captum_deduce.experiments.plan import FULL, every_target
from captum_deduce.models import WGAN

# What the paper says of its own settings, section 3, 4.2 and appendix B.
PUBLISHED = {
    "DeDUCE": {
        "confidence": 0.5,
        "step_size": 0.2,
        "max_changes": 5,
        "pixels_per_step": 1,
        "momentum": 0.6,
        "max_iterations": 700,
        "classification_weight": 1.0,
        "normalize_terms": True,
        "density_quantile": None,
    },
    "JSMA": {"saliency": "gradient", "step_size": 0.2, "pixels_per_step": 1, "max_iterations": 700},
    "VLK": {"k": 5, "c_steps": 2, "beta": 0.1, "gamma": 100.0, "theta": 100.0},
    "REVISE": {"distance_weight": 1.0, "select": "first", "confidence": 0.5},
}


def found(inputs, success, target=1):
    count = len(success)
    zeros = torch.zeros(count)
    moved = inputs.clone()
    moved.view(count, -1)[:, 0] += torch.arange(1.0, count + 1) / 10
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=moved,
        target=torch.full((count,), target),
        success=torch.tensor(success),
        confidence=zeros,
        iterations=zeros.long(),
        evaluations=zeros.long(),
        forward_evaluations=zeros.long(),
        prediction=zeros.long(),
    )


@pytest.fixture
def inputs():
    return torch.rand(4, 1, 2, 2)


def test_the_algorithms_have_the_published_settings(models):
    made = published(models)
    assert list(made) == list(PUBLISHED)
    for name, settings in PUBLISHED.items():
        assert {key: getattr(made[name], key) for key in settings} == settings
    assert made["DeDUCE"].forward_func is models.normalised.model
    for name in ("JSMA", "VLK", "REVISE"):
        assert made[name].forward_func is models.plain.model
    assert made["REVISE"].max_iterations == models.size.revise.max_iterations


def test_revise_and_deduce_with_other_settings(models):
    explainer = revise(models, FULL.revise, 0.1)
    assert (explainer.optimizer, explainer.learning_rate) == ("sgd", 1e-5)
    assert (explainer.distance_weight, explainer.max_iterations) == (0.1, 50_000)
    elsewhere = revise(models, FULL.revise, checkpoint=models.normalised, confidence=0.9)
    assert (explainer.forward_func, elsewhere.forward_func) == (
        models.plain.model,
        models.normalised.model,
    )
    assert elsewhere.confidence == 0.9
    other = deduce(models, classification_weight=7.0, normalize_terms=False)
    assert (other.classification_weight, other.normalize_terms) == (7.0, False)


def test_a_search_reports_each_explainer(models, store, capsys):
    cases = every_target(models.splits.test, sets=1, images=1)
    runs = search(store, {"DeDUCE": deduce(models)}, cases)
    count = int(runs["DeDUCE"].result.success.sum())
    assert f"DeDUCE: {count} of 9 found in" in capsys.readouterr().out
    assert runs["DeDUCE"].result.target.tolist() == cases.target.tolist()


def test_the_oracles_judge(models):
    images = models.splits.test.images[:6]
    result = found(images, [True] * 6, target=3)
    oracles = models.oracles  # trained when asked for
    with torch.no_grad():
        scores = [oracle(result.counterfactuals).double() for oracle in oracles]
    metrics = oracle_metrics(models)
    agreement = sum((one.argmax(1) == 3).double() for one in scores) / 2
    torch.testing.assert_close(metrics[AGREEMENT](result).double(), agreement)
    probability = sum(one.exp()[:, 3] / one.exp().sum(1) for one in scores) / 2
    torch.testing.assert_close(metrics[PROBABILITY](result).double(), probability)


def test_anogan_as_published():
    wgan = WGAN(image_size=8, latent_size=5, hidden_channels=2)
    anogan = make_anogan(wgan, FULL.anogan, seed=4)
    assert (anogan.optimizer, anogan.restarts, anogan.steps) == ("sgd", 3, 4000)
    assert (anogan.step_size, anogan.feature_weight, anogan.candidates) == (0.03, 0.1, 0)
    assert (anogan.latent_shape, anogan.seed) == ((5,), 4)


def test_means_are_over_common_pairs(inputs):
    results = {
        "a": found(inputs, [True, True, False, True]),
        "b": found(inputs, [True, False, True, True]),
        "never": found(inputs, [False] * 4),
    }
    table = measure(results, {"L1": Counterfactuals.l1}, None)
    assert table["never", "L1"].mean is None
    assert table["never", "failure rate"].mean == 1
    assert table["a", "L1"].mean == pytest.approx((0.1 + 0.4) / 2)
    assert found_by_all(list(results.values())).tolist() == [True, False, False, True]


def test_without_a_common_pair_each_has_its_own(inputs):
    results = {
        "a": found(inputs, [True, True, False, False]),
        "b": found(inputs, [False, False, True, False]),
    }
    table = measure(results, {"L1": Counterfactuals.l1}, torch.tensor([0, 0, 1, 1]))
    assert table.pairs == "own"
    assert table["a", "L1"].mean == pytest.approx(0.15)
    assert table["b", "L1"].mean == pytest.approx(0.3)
    assert table["a", "L1"].deviation is None  # no set has pairs of both


def test_deviations_need_a_pair_in_every_set(inputs):
    sets = torch.tensor([0, 0, 1, 1])
    everywhere = measure({"a": found(inputs, [True] * 4)}, {"L1": Counterfactuals.l1}, sets)
    assert everywhere["a", "L1"].deviation == pytest.approx(0.2 / 2**0.5)  # of .15 and .35
    missing = found(inputs, [True, True, False, False])
    assert measure({"a": missing}, {"L1": Counterfactuals.l1}, sets)["a", "L1"].deviation is None


def test_nobody_found_anything(inputs):
    never = found(inputs, [False] * 4)
    assert measure({"a": never}, {"L1": Counterfactuals.l1}, None)["a", "L1"].mean is None
    assert not found_by_all([never]).any()


def test_what_was_there_already_is_not_found(inputs):
    there = found(inputs, [True, True, True, False])
    counterfactuals = there.counterfactuals.clone()
    counterfactuals[0] = inputs[0]
    there = replace(there, counterfactuals=counterfactuals)
    other = found(inputs, [True, True, False, True])
    assert found_by_all([there, other]).tolist() == [False, True, False, False]
    table = measure({"there": there, "other": other}, {"L1": Counterfactuals.l1}, None)
    assert table["other", "L1"].pairs == 1


def test_pairs_are_chosen_evenly():
    mask = torch.tensor([False, *[True] * 9, False])
    assert evenly_among(mask, None).tolist() == list(range(1, 10))
    assert evenly_among(mask, 20).tolist() == list(range(1, 10))
    assert evenly_among(mask, 3).tolist() == [1, 5, 9]
    assert evenly_among(~mask, 2).tolist() == [0, 10]


def test_siblings_explain_the_classifier_that_they_are_given(models):
    found = siblings(models, models.normalised)
    assert list(found) == ["CEM", "LatentShift", "PIECE", "PatchSwap", "NearestExample"]
    for explainer in found.values():
        assert explainer.forward_func is models.normalised.model
    assert found["PIECE"].vae is models.vae
    assert found["PIECE"].max_iterations == models.size.revise.max_iterations
