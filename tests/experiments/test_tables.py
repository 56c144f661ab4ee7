"""The tables' cells against means that numpy takes of the counterfactuals themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from captum_deduce import CounterfactualExplainer
from captum_deduce.experiments import methods, paper
from captum_deduce.experiments.plan import every_target
from captum_deduce.experiments.tables import table1, table2, table3, table4, table5
from captum_deduce.zoo import make_explainer


@pytest.fixture(autouse=True)
def _short_searches(monkeypatch):
    """Some fail, which the tables must say, and none takes long."""

    def briefly(checkpoint, **settings):
        return make_explainer(checkpoint, max_iterations=30, **settings)

    monkeypatch.setattr(methods, "make_explainer", briefly)


def columns_of(report):
    """Cells by heading; those of the paper by what they stand beside."""
    cells, before = {}, ""
    for heading, column in report.columns:
        name = heading if heading != "paper" else f"paper {before}"
        cells[name] = list(column)
        before = heading
    assert len({len(column) for column in cells.values()}) == 1
    return cells


def expected(report):
    """L0, L1 and failures in float64, by row; None for those that never succeeded."""
    results = report.results
    found = {name: result.success.numpy() for name, result in results.items()}
    common = np.logical_and.reduce([mask for mask in found.values() if mask.any()])
    means = {}
    for name, result in results.items():
        change = (result.counterfactuals.double() - result.inputs.double()).numpy()
        change = change.reshape(len(change), -1)
        mask = common if common.any() else found[name]
        l0 = np.count_nonzero(change, axis=1)[mask].mean() if found[name].any() else None
        l1 = np.abs(change).sum(1)[mask].mean() if found[name].any() else None
        means[name] = (l0, l1, 100 * (1 - found[name].mean()))
    return means


def check_distances(report, rows):
    cells = columns_of(report)
    for place, name in enumerate(rows):
        l0, l1, failure = expected(report)[name]
        for heading, value in (("L0", l0), ("L1", l1), ("failure in %", failure)):
            cell = cells[heading][place]
            if value is None:
                assert cell == "-"
            else:
                assert float(cell.split()[0]) == pytest.approx(value, abs=0.006), (heading, name)
    json.dumps(report.data, allow_nan=False)
    return cells


def test_table_1(models, store):
    report = table1(models, store)
    cells = check_distances(report, paper.METHODS)
    assert cells["algorithm"] == list(paper.METHODS)
    assert cells["paper L0"][0].startswith("21.16")
    assert cells["paper failure in %"][3].startswith("26.80")
    assert set(cells) >= {"AGAN", "paper AGAN", "oracle agreement in %", "oracle p"}
    cases = every_target(models.splits.test, models.size.sets, models.size.images)
    for result in report.results.values():
        assert result.target.tolist() == cases.target.tolist()
    own = dict(report.own_columns)
    for place, result in enumerate(report.results.values()):
        found = result[result.success]
        assert own["pairs"][place] == str(len(found))
        if len(found):
            mean = found.l1().double().mean().item()
            assert float(own["L1"][place].split()[0]) == pytest.approx(mean, abs=0.006)
    assert any("of the 1 originals" in note for note in report.notes)
    assert any("reduced: Adam" in note for note in report.notes)


def test_a_second_run_searches_and_scores_nothing(models, store, monkeypatch):
    first = table1(models, store)
    made = store.made

    def refuse(*arguments, **settings):
        raise RuntimeError("nothing is to be searched")

    monkeypatch.setattr(CounterfactualExplainer, "generate", refuse)
    second = table1(models, store)
    assert store.made == made
    assert second.columns == first.columns
    assert second.notes == first.notes


def test_table_2(models, store):
    report = table2(models, store)
    cells = columns_of(report)
    seconds = report.data["seconds of each pair"]
    for name, cell in zip(cells["algorithm"], cells["seconds"], strict=True):
        values = np.array(seconds[name])
        assert len(values) == models.size.timed_pairs
        assert cell == f"{values.mean():.2f} ({values.std(ddof=1):.2f})"
    assert cells["paper, Tesla T4"][2] == "109.86 (1.54)"
    assert "oracle agreement in %" in cells


def test_table_3(models, store):
    report = table3(models, store)
    cells = columns_of(report)
    assert [heading for heading, _ in report.columns[2:]][1:4] == ["0 → 9", "9 → 3", "2 → 6"]
    rows = list(zip(cells["algorithm"], cells["metric"], strict=True))
    for name, result in report.results.items():
        column = report.columns[3][1]
        ours, theirs = column[rows.index((name, "L0"))].split(" / ")
        assert theirs == paper.TABLE3[name]["L0"][1]
        count = int((result.counterfactuals[1] != result.inputs[1]).sum())
        assert ours == (str(count) if result.success[1] else "failed")
        assert column[rows.index((name, "oracle p"))].endswith(" / -")


def test_table_4(models, store):
    report = table4(models, store)
    check_distances(report, paper.TABLE4)
    validation = every_target(models.splits.validation, models.size.sets, models.size.images)
    by_hand = report.results["lambda = 10^3"]
    assert (by_hand.inputs == validation.inputs).all()
    assert by_hand.target.tolist() == validation.target.tolist()
    different = {name: result.iterations.tolist() for name, result in report.results.items()}
    assert different["lambda = 0"] != different["lambda = 10^5"]
    assert different["mu = 1/5"] != different["mu = 5"]


def test_table_5(models, store):
    report = table5(models, store)
    names = list(report.results)
    cells = check_distances(report, names)
    assert cells["settings"] == names
    assert [name.split(",")[0] for name in names] == ["lambda = 0.1"] * 3 + ["lambda = 1"] * 3
    assert cells["paper L1"] == ["88.79", "91.43", "84.92", "58.66", "54.72", "54.11"]
    assert all("reduced: Adam" in name for name in names)
    assert any(note.startswith("Reduced") for note in report.notes)
