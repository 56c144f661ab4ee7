"""Every method explains the classifier, and asks for the confidence, that its entry names."""

from __future__ import annotations

import pytest

from captum_deduce import DeDUCE, Polish
from captum_deduce.experiments.matched import (
    CLASSIFIERS,
    GENERATIVE,
    LAYERS_BUDGET,
    LIGHTER,
    POLISHED,
    PRESETS,
    RIVALS,
    SMOOTHED_BUDGET,
    margin_of_confidence,
    matched_entries,
)

WITHOUT_CONFIDENCE = {"CEM", "LatentShift", "PIECE", "PatchSwap", "NearestExample"}


@pytest.fixture
def entries(models):
    return matched_entries(models)


@pytest.fixture
def explained(models):
    checkpoints = (models.plain_described, models.normalised, models.noise_trained)
    return dict(zip(CLASSIFIERS, checkpoints, strict=True))


def test_presets_and_rivals_are_asked_the_same_of_every_classifier(models, entries, explained):
    for classifier, checkpoint in explained.items():
        for method in (*PRESETS, POLISHED, *RIVALS):
            curve = [
                entry
                for entry in entries.values()
                if (entry.method, entry.classifier) == (method, classifier)
            ]
            assert [each.explainer.confidence for each in curve] == [*models.size.confidences]
            assert [float(each.setting) for each in curve] == [*models.size.confidences]
            assert {each.generative for each in curve} == {"-"}
            for entry in curve:
                assert entry.explainer.forward_func is checkpoint.model
                if method not in RIVALS:
                    assert entry.explainer.density is checkpoint.density


def test_the_polished_preset_is_the_preset_polished(models, entries):
    for entry in entries.values():
        if entry.method == POLISHED:
            preset = entries[f"realistic, {entry.classifier}, {entry.setting}"].explainer
            assert {**vars(preset), "polish": Polish()} == vars(entry.explainer)


@pytest.mark.parametrize("method", PRESETS)
def test_of_a_preset_only_the_confidence_is_another(models, entries, method):
    checkpoint = models.normalised
    make = DeDUCE if method == "DeDUCE" else getattr(DeDUCE, method)
    expected = make(checkpoint.model, checkpoint.settings.layer, checkpoint.density)
    for confidence in models.size.confidences:
        found = dict(vars(entries[f"{method}, SN, {confidence:g}"].explainer))
        assert found.pop("confidence") == confidence
        assert found == {name: value for name, value in vars(expected).items() if name in found}


def test_densities_of_layers_and_the_smoothed_classifier(models, entries):
    size = models.size
    layered = (models.plain_multi_layer, models.multi_layer, models.noise_multi_layer)
    for classifier, (model, density) in zip(CLASSIFIERS, layered, strict=True):
        for confidence in size.confidences:
            explainer = entries[f"realistic, layers, {classifier}, {confidence:g}"].explainer
            assert explainer.forward_func is model
            assert explainer.density is density
            assert explainer.density_quantile == LAYERS_BUDGET["density_quantile"]
    assert [model.model for model, _ in layered] == [
        checkpoint.model for checkpoint in (models.plain, models.normalised, models.noise_trained)
    ]
    smoothed, described = models.smoothed
    assert smoothed.model is models.noise_trained.model
    assert (smoothed.noise, smoothed.copies) == (size.smoothing, size.smoothing_copies)
    for confidence in size.confidences:
        explainer = entries[f"realistic, smoothed, SN, noise, {confidence:g}"].explainer
        assert explainer.forward_func is smoothed
        assert explainer.density is described
        assert {name: getattr(explainer, name) for name in SMOOTHED_BUDGET} == SMOOTHED_BUDGET
    assert not any("smoothed" in name for name in entries if ", noise" not in name)


def test_costly_methods_explain_the_two_with_spectral_normalisation(models, entries, explained):
    for classifier in ("SN", "SN, noise"):
        model = explained[classifier].model
        for confidence in models.size.costly_confidences:
            kappa = 2 * confidence - 1
            vlk = entries[f"VLK, {classifier}, kappa {kappa:g}"].explainer
            assert vlk.kappa == pytest.approx(kappa)
            assert vlk.forward_func is model
            assert vlk.max_iterations == models.size.vlk_steps
            revise = entries[f"REVISE, {classifier}, {confidence:g}"].explainer
            assert (revise.confidence, revise.distance_weight) == (confidence, LIGHTER)
            assert revise.forward_func is model
    costly = [entry for entry in entries.values() if entry.method in ("VLK", "REVISE")]
    assert len(costly) == 4 * len(models.size.costly_confidences)


def test_prototypes_are_those_of_the_classifier_that_is_explained(models, entries, explained):
    for classifier in ("SN", "SN, noise"):
        vlk = entries[f"VLK, {classifier}, kappa 0"].explainer
        seen = explained[classifier].model(models.splits.train.images).argmax(1)
        counts = seen.bincount(minlength=10)
        if counts.min() >= vlk.k:  # after the shortest training they may be of labels
            assert vlk.prototypes.counts.tolist() == counts.tolist()


def test_the_others_are_points_on_the_usual_classifier_and_marked(models, entries):
    points = [entry for entry in entries.values() if entry.setting == "-"]
    assert {entry.method for entry in points} == WITHOUT_CONFIDENCE
    for entry in points:
        assert entry.classifier == "SN"
        assert entry.explainer.forward_func is models.normalised.model
        assert entry.generative == GENERATIVE.get(entry.method, "-")
        assert entry.generative == ("VAE" if hasattr(entry.explainer, "vae") else "-")
    assert {entry.method for entry in entries.values() if entry.generative != "-"} == {*GENERATIVE}


def test_names_tell_entries_apart(models, entries):
    size = models.size
    # besides presets and rivals: polished, with several layers; and one classifier smoothed
    curves = 3 * (len(PRESETS) + len(RIVALS) + 2) + 1
    expected = curves * len(size.confidences) + 8 + len(WITHOUT_CONFIDENCE)
    assert len(entries) == expected
    assert [entry.name for entry in entries.values()] == [*entries]


@pytest.mark.parametrize("confidence", [0.5, 0.75, 0.98])
def test_kappa_is_the_lead_between_two_classes(confidence):
    assert margin_of_confidence(confidence) == pytest.approx(confidence - (1 - confidence))
