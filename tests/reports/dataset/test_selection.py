from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from captum_deduce.reports import Range, class_pairs, order_by_cost, pairs_table
from captum_deduce.reports.dataset import selection
from captum_deduce.reports.dataset.selection import choose_rows, draw_pairs
from tests.reports.dataset.made_up import random_run
from tests.reports.dataset.test_pictures import decoded

SCALE = Range.read(0.0, 1.0)


def test_the_cheapest_then_examples_of_each_pair_of_classes_then_the_dearest(monkeypatch):
    monkeypatch.setattr(selection, "CHEAPEST", 7)
    monkeypatch.setattr(selection, "EXAMPLES", 2)
    monkeypatch.setattr(selection, "DEAREST", 4)
    pairs = pairs_table(random_run(80).table())
    ordered = order_by_cost(pairs)
    shown = class_pairs(pairs).head(5)
    rows = choose_rows(pairs, shown)
    assert len(rows) == len(set(rows))
    assert rows[:7] == ordered[:7]
    expected = set(ordered[:7]) | set(ordered[-4:])
    for wanted in shown.itertuples():
        members = [
            row
            for row in ordered
            if pairs.at[row, "prediction"] == wanted.prediction
            and pairs.at[row, "target"] == wanted.target
        ]
        expected |= set(members[:2])
    assert set(rows) == expected
    assert rows[-1] not in ordered[:70]


def test_pictures_are_those_of_the_rows():
    run = random_run(40)
    rows = [5, 39, 0, 17]
    drawn, reason = draw_pairs(run, rows, SCALE)
    assert reason == ""
    assert list(drawn) == rows
    for row, pair in drawn.items():
        for uri, images in (
            (pair.original, run.result.inputs),
            (pair.counterfactual, run.result.counterfactuals),
        ):
            np.testing.assert_array_equal(decoded(uri), (images[row, 0] * 255).round())
        white = (decoded(pair.change) == 255).all(2)
        np.testing.assert_array_equal(white, run.result.attributions[row, 0] == 0)
        assert len(pair) == len(pair.change + pair.original + pair.counterfactual)


def test_without_originals_the_changes_are_drawn():
    run = random_run(40, manifest={"store_images": False})
    drawn, reason = draw_pairs(run, [3, 1], SCALE)
    assert "stores no images" in reason
    assert all(
        pair.change and not pair.original and not pair.counterfactual for pair in drawn.values()
    )
    assert [pair.change for pair in drawn.values()] == [
        pair.change for pair in draw_pairs(random_run(40), [3, 1], SCALE)[0].values()
    ]
    dataset = [(2 * image, 0) for image in run.result.inputs]
    given, reason = draw_pairs(run, [3, 1], SCALE, dataset, lambda image: image / 2)
    assert reason == ""
    assert given == draw_pairs(random_run(40), [3, 1], SCALE)[0]


@pytest.mark.parametrize("room", [2_000, 40_000, 10**9])
def test_pictures_become_smaller_then_fewer_where_there_is_little_room(monkeypatch, room):
    monkeypatch.setattr(selection, "PICTURE_BYTES", room)
    run = random_run(12, (3, 100, 80))
    rows = [7, 2, 11, 0, 5, 1]
    drawn, _ = draw_pairs(run, rows, SCALE)
    assert sum(len(pair) for pair in drawn.values()) <= room
    assert list(drawn) == rows[: len(drawn)]
    sides = {decoded(pair.original).shape[0] for pair in drawn.values()}
    assert sides <= {100, 96, 64}
    if room == 10**9:
        assert sides == {100}
    if room == 40_000:
        assert len(drawn) >= 1
        assert sides == {64}
    if room == 2_000:
        assert not drawn


def test_no_rows_no_pictures():
    assert draw_pairs(random_run(3, (3, 100, 80)), [], SCALE)[0] == {}


def test_a_change_in_units_of_a_narrow_range_is_drawn_as_any():
    run = random_run(8)
    wide = replace(
        run.result, inputs=run.result.inputs * 255, counterfactuals=run.result.counterfactuals * 255
    )
    other = replace(run, result=wide)
    drawn, _ = draw_pairs(other, [0, 1], Range.read(0.0, 255.0))
    expected = draw_pairs(run, [0, 1], SCALE)[0]
    assert [pair.original for pair in drawn.values()] == [p.original for p in expected.values()]
    assert torch.equal(other.result.target, run.result.target)
