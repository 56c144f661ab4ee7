from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from captum_deduce import ClassGaussianMixture, DeDUCE
from captum_deduce.bulk import explain_dataset
from captum_deduce.datasets import load_digits
from captum_deduce.models import SmallCNN
from captum_deduce.reports import class_pairs, find_spot, report_run
from captum_deduce.reports.dataset import report as module
from captum_deduce.training import train_classifier
from tests.reports.dataset.made_up import MadeUpRun, make_result, random_run


def test_maps_belong_to_their_pairs_of_classes_and_spots_to_their_classes():
    run = random_run(90, (3, 8, 6))
    report = report_run(run)
    result, found = run.result, run.result.success
    assert report.map_count == len(report.class_pairs) > 5
    for place, row in enumerate(report.class_pairs.itertuples()):
        members = found & (result.prediction == row.prediction) & (result.target == row.target)
        expected = result[members].attributions.double().mean(0)
        np.testing.assert_allclose(report.maps.signed[place], expected, rtol=1e-6, atol=1e-9)
    assert len(report.spots) == 8
    for row in report.spots.itertuples():
        side = result.target if row.way == "towards" else result.prediction
        members = result[found & (side == row._2)].attributions.double().abs().sum(1)
        share = (members / members.sum((1, 2), keepdim=True)).mean(0).numpy()
        spot = find_spot(share, len(members))
        assert row.pairs == len(members) == report.maps.count[row.map]
        assert (row.top, row.left, row.height, row.width) == (
            spot.top,
            spot.left,
            spot.height,
            spot.width,
        )
        assert row.share == pytest.approx(spot.share)
        assert row.at_least == pytest.approx(spot.at_least)
    assert report.spots["at_least"].is_monotonic_decreasing


def test_of_many_classes_those_that_occur_most_have_maps(monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASS_PAIRS", 3)
    monkeypatch.setattr(module, "MOST_CLASSES", 2)
    report = report_run(random_run(200, classes=9))
    assert (report.map_count, len(report.spots), len(report.maps.count)) == (3, 4, 7)
    assert len(report.class_pairs) > 30
    assert (report.maps.count > 0).all()
    monkeypatch.setattr(module, "_MAP_ENTRIES", 64 * 4)
    report = report_run(random_run(200, classes=9))
    assert (report.map_count, len(report.spots)) == (2, 2)


def test_costs_are_in_input_units_and_maps_in_shares_of_the_range():
    run = random_run(30)
    wide = replace(
        run.result,
        inputs=run.result.inputs * 4 - 2,
        counterfactuals=run.result.counterfactuals * 4 - 2,
    )
    bounds = {"lower_bound": [[[-2.0]]], "upper_bound": [[[2.0]]]}
    first, second = report_run(run), report_run(replace(run, result=wide, manifest=bounds))
    np.testing.assert_allclose(second.pairs["cost"], 4 * first.pairs["cost"], rtol=1e-4)
    np.testing.assert_allclose(second.maps.signed, first.maps.signed, atol=1e-6)


@pytest.mark.parametrize("state", ["failed", "already", "one pair"])
def test_runs_in_which_little_was_found(state):
    run = random_run(1 if state == "one pair" else 9)
    result = run.result
    if state == "failed":
        result = replace(result, success=torch.zeros(9, dtype=torch.bool))
    if state == "already":
        result = replace(result, counterfactuals=result.inputs, success=torch.ones(9).bool())
    report = report_run(replace(run, result=result))
    assert set(report.pairs["state"]) == {"found" if state == "one pair" else state}
    assert report.class_pairs["pairs"].sum() == len(result)
    assert len(report.spots) == (2 if state == "one pair" else 0)


def test_names_of_images_are_those_of_an_image_folder_or_given():
    run = random_run(4)
    folder = SimpleNamespace(samples=[(f"{number}.png", 0) for number in range(4)])
    names = ["0.png", "1.png", "2.png", "3.png"]
    assert report_run(run, image_names=names).image_names == names
    with_images = [(image, 0) for image in run.result.inputs]
    assert report_run(run, dataset=with_images).image_names is None
    read = type("Folder", (list,), {"samples": folder.samples})(with_images)
    assert report_run(run, dataset=read).image_names == names


def test_mistakes_are_said():
    run = random_run(4)
    with pytest.raises(ValueError, match=r"image_names must name every image .* at least 4, got 2"):
        report_run(run, image_names=["a", "b"])
    with pytest.raises(ValueError, match="class_names must name every class"):
        report_run(run, class_names=["a"])
    with pytest.raises(ValueError, match="at least one pair"):
        report_run(replace(run, result=run.result[:0], label=[]))
    flat = torch.rand(4, 5)
    signals = make_result(flat, flat, *(torch.zeros(4).long(),) * 2, torch.ones(4).bool())
    with pytest.raises(ValueError, match=r"run must be of images.* got inputs of the shape \(5,\)"):
        report_run(MadeUpRun(signals, [1] * 4))


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory):
    """A run over mistakes of a model that knows threes by a mark in the upper right corner."""
    pytest.importorskip("pyarrow")
    torch.manual_seed(0)
    splits = load_digits()
    images = splits.train.images.clone()
    images[splits.train.target == 3, :, :2, -2:] = 1
    flawed = replace(splits.train, images=images)
    model = SmallCNN(image_size=8)
    train_classifier(model, flawed, epochs=10, batch_size=64, learning_rate=0.05)
    model.eval()
    layer = model.layers[-3]
    density = ClassGaussianMixture.fit_loader(
        model, layer, flawed.batches(), covariance_type="tied", regularization="oas"
    )
    explainer = DeDUCE.closest(model, layer, density)
    folder = tmp_path_factory.mktemp("shortcut")
    return explain_dataset(explainer, splits.test, folder), splits.test


def test_a_planted_shortcut_is_the_first_spot(shortcut):
    run, test = shortcut
    report = report_run(run, dataset=test)
    first = report.spots.iloc[0]
    assert (first["way"], first["name"]) == ("towards", "3")
    assert (first["top"], first["left"], first["height"], first["width"]) == (0, 6, 2, 2)
    assert first["at_least"] > 0.3 > 4 * first["area"]
    others = report.spots[(report.spots["way"] == "towards") & (report.spots["name"] != "3")]
    assert (others["at_least"] < first["at_least"] / 2).all()


def test_a_run_on_disk_gives_what_its_columns_say(shortcut):
    run, test = shortcut
    report = report_run(run, dataset=test)
    table, result = run.table(), run.counterfactuals(dataset=test)
    assert report.question == "mistake"
    assert len(report.pairs) == len(table) == len(result)
    np.testing.assert_allclose(
        report.pairs["cost"].dropna(), result.l1()[result.success & ~result.already], rtol=1e-5
    )
    assert report.class_pairs["found"].sum() == int((result.success & ~result.already).sum())
    assert class_pairs(report.pairs).equals(report.class_pairs)
    assert report.without_originals == ""
    assert "stores no images" in report_run(run).without_originals
