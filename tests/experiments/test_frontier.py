"""The frontier's points are where its counterfactuals are."""

from __future__ import annotations

import pytest
import torch

from captum_deduce.experiments.frontier import SMALL_BUDGET, deduce_entries, frontier
from captum_deduce.experiments.methods import AGREEMENT


@pytest.fixture
def report(models, store):
    return frontier(models, store)


def test_points_and_table_are_means_over_what_was_found(models, report):
    cells = {
        name: dict(zip(report.columns[0][1], column, strict=True))
        for name, column in report.columns
    }
    axes = report.figure.axes[0]
    points = {tuple(line.get_xydata()[0]) for line in axes.lines}
    drawn = 0
    for name, result in report.results.items():
        found = result.success
        assert float(cells["failed %"][name]) == pytest.approx(
            100 * (1 - found.double().mean().item()), abs=0.01
        )
        if not found.any():
            assert cells["L1"][name] == "-"
            continue
        images, target = result.counterfactuals[found], result.target[found]
        change = images - result.inputs[found]
        l1 = change.abs().flatten(1).sum(1).double().mean().item()
        l0 = (change != 0).flatten(1).sum(1).double().mean().item()
        with torch.no_grad():
            seen = [oracle(images).argmax(1) == target for oracle in models.oracles]
        agreement = torch.stack(seen).double().mean().item()
        assert float(cells["L1"][name]) == pytest.approx(l1, abs=0.051)
        assert float(cells["L0"][name]) == pytest.approx(l0, abs=0.051)
        assert float(cells[AGREEMENT][name]) == pytest.approx(agreement, abs=0.00051)
        drawn += 1
        assert any(x == pytest.approx(l1) and y == pytest.approx(agreement) for x, y in points), (
            name
        )
    assert len(axes.lines) == drawn
    assert {"JSMA", "VLK", "REVISE", "DeDUCE", "closest", "realistic"} <= set(report.results)
    siblings = {"CEM", "LatentShift", "NearestExample", "PIECE", "PatchSwap"}
    assert siblings <= set(report.results)


def test_every_entry_explains_the_classifier_that_it_names(models):
    entries = deduce_entries(models)
    smoothed, density = models.smoothed
    averaged = entries.pop("realistic, smoothed").explainer
    assert averaged.forward_func is smoothed
    assert averaged.density is density
    assert smoothed.model is models.noise_trained.model
    assert (smoothed.noise, smoothed.copies) == (
        models.size.smoothing,
        models.size.smoothing_copies,
    )
    for name, explained, described in (
        ("realistic, layers", models.normalised, models.multi_layer),
        ("realistic, layers, noise", models.noise_trained, models.noise_multi_layer),
    ):
        explainer = entries.pop(name).explainer
        model, density = described
        assert explainer.forward_func is model
        assert explainer.density is density
        assert model.model is explained.model
        assert model.grids == {"stages.1": models.size.grid, explained.settings.layer: None}
        width = explained.model.fc.in_features
        assert density.num_features == width // 4 * models.size.grid**2 + width
    for entry in entries.values():
        checkpoint = models.noise_trained if "noise" in entry.classifier else models.normalised
        assert entry.explainer.forward_func is checkpoint.model
        assert entry.explainer.density is checkpoint.density
    assert models.noise_trained.settings.noise == models.size.noise
    assert models.noise_trained.settings.epochs == models.size.noise_epochs
    assert models.normalised.settings.noise == 0
    closer = entries["realistic, closer, noise"].explainer
    assert {name: getattr(closer, name) for name in SMALL_BUDGET} == SMALL_BUDGET
