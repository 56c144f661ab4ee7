"""The frontier's tables and points are what its counterfactuals say, failures and all."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest
import torch
from scipy import stats

from captum_deduce import Counterfactuals
from captum_deduce.experiments.curves import Margin
from captum_deduce.experiments.frontier import frontier, margin_columns, measured, oracles
from captum_deduce.experiments.matched import PRESETS, RIVALS, Entry, matched_entries
from captum_deduce.experiments.methods import AGREEMENT
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.models import SmallCNN, SmallVGG

KEPT = (*PRESETS, *RIVALS, "VLK", "LatentShift", "NearestExample")
SHORTER = {"JSMA": 40, "Wachter": 20, "sparsest": 60}
# The package exports the function of the same name in its place.
module = importlib.import_module("captum_deduce.experiments.frontier")


def fewer(models):
    """Some of the methods, as the others go the same way, and some that soon give up."""
    left_out = {f"{confidence:g}" for confidence in models.size.confidences[1::2]}
    made = {
        name: entry
        for name, entry in matched_entries(models).items()
        if entry.method in KEPT and (entry.method == "realistic" or entry.setting not in left_out)
    }
    for entry in made.values():
        if entry.method in SHORTER:
            entry.explainer.max_iterations = SHORTER[entry.method]
    return made


@pytest.fixture(scope="module")
def run(_models, tmp_path_factory):
    """The report, the points of its picture, and how much a second run searched for anew."""
    store = Store(tmp_path_factory.mktemp("frontier"), torch.device("cpu"))
    drawn, panels = [], module.panels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "matched_entries", fewer)
        patch.setattr(module, "panels", lambda points: (drawn.extend(points), panels(points))[1])
        report, made = frontier(_models, store), store.made
        points = [*drawn]
        frontier(_models, store)
    return report, points, made, store.made - made


@pytest.fixture
def report(run):
    return run[0]


@pytest.fixture
def drawn(run):
    return run[1]


def by_row(report):
    columns = dict(report.columns)
    rows = zip(columns["method"], columns["classifier"], columns["confidence"], strict=True)
    names = [f"{m}, {c}" + ("" if s == "-" else f", {s}") for m, c, s in rows]
    return {
        name: {heading: cells[place] for heading, cells in columns.items()}
        for place, name in enumerate(names)
    }


def agreements(models, result):
    """Of each oracle with each pair, 0 where nothing was found."""
    judges = (*models.oracles, *models.vgg_oracles)
    with torch.no_grad():
        seen = [judge(result.counterfactuals).argmax(1) == result.target for judge in judges]
    return (torch.stack(seen) & result.success).double()


def test_table_and_points_are_what_was_found(models, report, drawn):
    rows = by_row(report)
    assert [*rows] == [*report.results]
    placed = iter(drawn)
    for name, result in report.results.items():
        cells, searched = rows[name], ~result.already
        found = result.success & searched
        share = found[searched].double().mean().item()
        assert float(cells["found %"]) == pytest.approx(100 * share, abs=0.051)
        seen = agreements(models, result)[:, searched]
        assert float(cells[AGREEMENT]) == pytest.approx(seen.mean().item(), abs=0.00051)
        strictest = seen.mean(1).min().item()
        assert float(cells["strictest"]) == pytest.approx(strictest, abs=0.00051)
        evaluations = result.evaluations[searched].double().mean().item()
        assert float(cells["evaluations"]) == pytest.approx(evaluations, abs=0.051)
        if not found.any():
            assert cells["L0"] == cells["L1"] == "-"
            continue
        change = (result.counterfactuals - result.inputs)[found].flatten(1)
        l1 = change.abs().sum(1).double().mean().item()
        assert float(cells["L1"]) == pytest.approx(l1, abs=0.051)
        l0 = (change != 0).sum(1).double().mean().item()
        assert float(cells["L0"]) == pytest.approx(l0, abs=0.051)
        point = next(placed)
        assert f"{point.method}, {point.classifier}" in name
        assert (point.distance, point.agreement) == pytest.approx((l1, seen.mean().item()))
        assert point.found == pytest.approx(share)
    assert next(placed, None) is None


def test_errors_are_over_originals(models, report):
    rows, checked = by_row(report), 0
    for name, result in report.results.items():
        if result.already.any():
            continue
        means = agreements(models, result).mean(0).view(2, 9).mean(1)
        assert float(rows[name]["error"]) == pytest.approx(stats.sem(means), abs=0.00051)
        checked += 1
    assert checked > 10


def test_margins_stand_below_and_numbers_are_json(models, report):
    size = models.size
    columns = dict(report.own_columns)
    assert columns["classifier"] == [
        name for name in ("plain", "SN", "SN, noise") for _ in size.distances
    ]
    assert columns["at L1"] == [f"{each:g}" for each in size.distances] * 3
    assert set(columns["best other"]) <= {"JSMA", "Wachter", "-"}
    assert set(columns["best preset"]) <= {"DeDUCE", "closest", "sparsest", "realistic", "-"}
    assert any(cell != "-" for cell in columns["best preset"])
    content = json.loads(json.dumps(report.data))
    assert [*content["entries"]] == [*report.results]
    assert {*content["margins"]} == {"plain", "SN", "SN, noise"}


def test_what_was_searched_for_is_not_searched_for_again(run):
    report, _, made, anew = run
    assert made == len(report.results)
    assert anew == 0


def test_the_oracles_are_of_two_makings(models):
    found = oracles(models)
    assert [*found] == ["SmallCNN 1", "SmallCNN 2", "SmallVGG 1", "SmallVGG 2"]
    assert [type(model) for model in found.values()] == [SmallCNN, SmallCNN, SmallVGG, SmallVGG]


def test_a_failure_counts_as_disagreement_whatever_its_best_attempt_shows(models):
    """Images of the target class, which the oracles see, half of them said to have failed."""
    result = real_images(models)
    judges = oracles(models)
    every = measured(judges, {"all": Run(result, torch.zeros(len(result)))})
    half = torch.arange(len(result)) % 2 == 0
    failing = replace(result, success=half)
    table = measured(judges, {"half": Run(failing, torch.zeros(len(result)))})
    assert every["all", AGREEMENT].mean > 0.5
    seen = agreements(models, failing).mean().item()
    assert table["half", AGREEMENT].mean == pytest.approx(seen)
    assert table["half", AGREEMENT].pairs == len(result)
    assert table["half", "L1"].pairs == int(half.sum())


def real_images(models):
    """The originals are their negatives."""
    data = models.splits.test
    images, target = data.images[:20], data.target[:20]
    numbers = torch.ones(20, dtype=torch.long)
    return Counterfactuals(
        inputs=1 - images,
        counterfactuals=images,
        target=target,
        success=torch.ones(20, dtype=torch.bool),
        confidence=torch.ones(20),
        iterations=numbers,
        evaluations=numbers,
        forward_evaluations=numbers,
        prediction=target,
    )


def test_margins_in_words():
    known = Margin(35.0, "realistic", "Wachter", 0.8, 0.55, (0.1, 0.375), 0.9)
    open_ended = Margin(45.0, "realistic", None, 0.9, None, None, 0.0)
    columns = dict(margin_columns({"SN, noise": [known, open_ended]}))
    assert columns["margin"] == ["0.250", "-"]
    assert columns["95% interval"] == ["0.100 to 0.375", "-"]
    assert columns["best other"] == ["Wachter", "-"]


def test_entries_without_a_setting_are_named_by_method_and_classifier(models):
    explainer = next(iter(matched_entries(models).values())).explainer
    assert Entry("CEM", "SN", explainer).name == "CEM, SN"
    assert Entry("JSMA", "SN, noise", explainer, "0.9").name == "JSMA, SN, noise, 0.9"
