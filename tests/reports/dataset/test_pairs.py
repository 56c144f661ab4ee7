from __future__ import annotations

import math
import statistics

import pytest

from captum_deduce.reports import (
    QUESTIONS,
    STATES,
    class_pairs,
    main_question,
    order_by_cost,
    pairs_table,
)
from tests.reports.dataset.made_up import random_run

pd = pytest.importorskip("pandas")

# index, label, prediction, target, success, l0, l1, error; and what it asked and what became of it
ROWS = [
    (0, 1, 2, 1, True, 3, 1.5, None, "mistake", "found"),
    (1, 1, 2, 1, False, 9, 8.0, None, "mistake", "failed"),
    (2, 1, 2, 0, True, 1, 0.5, None, "mistake elsewhere", "found"),
    (3, 1, 1, 2, True, 2, 1.0, None, "right", "found"),
    (4, 1, 1, 1, True, 0, 0.0, None, "right", "already"),
    (5, None, 0, 1, True, 4, 2.0, None, "no label", "found"),
    (6, None, None, None, None, None, None, "broken", "error", "error"),
    (7, 2, None, None, None, None, None, "broken, too", "error", "error"),
    (8, 1, 2, 1, False, 0, 0.0, None, "mistake", "failed"),
]
NAMES = ["zero", "one", "two"]


@pytest.fixture
def table():
    names = ["index", "label", "prediction", "target", "success", "l0", "l1", "error"]
    frame = pd.DataFrame([row[:8] for row in ROWS], columns=names)
    return frame.assign(confidence=[None if row[7] else 0.75 for row in ROWS])


def test_what_was_asked_and_what_became_of_it(table):
    pairs = pairs_table(table, NAMES)
    assert pairs["question"].tolist() == [row[8] for row in ROWS]
    assert pairs["state"].tolist() == [row[9] for row in ROWS]
    assert set(pairs["question"]) == set(QUESTIONS)
    assert set(pairs["state"]) == set(STATES)
    found = {0: 1.5, 2: 0.5, 3: 1.0, 5: 2.0}
    for row, cost in enumerate(pairs["cost"]):
        assert cost == found[row] if row in found else math.isnan(cost)
    for side, place in (("label", 1), ("prediction", 2), ("target", 3)):
        assert str(pairs[side].dtype) == "Int64"
        names = [None if row[place] is None else NAMES[row[place]] for row in ROWS]
        assert pairs[f"{side}_name"].astype(object).where(pairs[side].notna(), None).tolist() == (
            names
        )


def test_the_table_that_was_given_stays_as_it_was(table):
    before = table.copy()
    pairs_table(table)
    pd.testing.assert_frame_equal(table, before)


def test_classes_without_names_are_called_by_their_numbers(table):
    assert pairs_table(table)["target_name"].tolist()[:3] == ["1", "1", "0"]
    assert pairs_table(table, {1: "one"})["target_name"].tolist()[:3] == ["one", "one", "0"]


def test_mistakes_are_what_a_report_is_about_where_there_are_some(table):
    pairs = pairs_table(table)
    assert main_question(pairs) == "mistake"
    assert main_question(pairs[pairs["question"] != "mistake"]) == "mistake elsewhere"
    assert main_question(pairs[pairs["question"] == "right"]) == "right"
    assert main_question(pairs[pairs["state"] == "already"]) == "mistake"  # nothing to choose from


def test_pairs_of_classes_are_summed_up_as_by_hand():
    run = random_run(90)
    result, label = run.result, run.label
    pairs = pairs_table(run.table(), ["a", "b", "c", "d"])
    summed = class_pairs(pairs)
    by_hand = {}
    for pair in range(90):
        key = (int(result.prediction[pair]), label[pair])
        by_hand.setdefault(key, []).append(pair)
    assert summed["pairs"].is_monotonic_decreasing
    assert len(summed) == len(by_hand)
    for row in summed.itertuples():
        members = by_hand[row.prediction, row.target]
        found = [pair for pair in members if result.success[pair]]
        costs = [result[pair].l1().item() for pair in found]
        entries = [result[pair].l0().item() for pair in found]
        assert (row.prediction_name, row.target_name) == (
            "abcd"[row.prediction],
            "abcd"[row.target],
        )
        assert (row.pairs, row.found, row.failed, row.already) == (
            len(members),
            len(found),
            len(members) - len(found),
            0,
        )
        assert row.cost_median == pytest.approx(statistics.median(costs), rel=1e-6)
        assert row.cost_mean == pytest.approx(statistics.fmean(costs), rel=1e-6)
        assert row.cost_min == pytest.approx(min(costs), rel=1e-6)
        assert row.l0_median == statistics.median(entries)


def test_pairs_of_classes_of_another_question(table):
    pairs = pairs_table(table, NAMES)
    (row,) = class_pairs(pairs[pairs["index"] != 4], "right").itertuples()
    assert (row.prediction_name, row.target_name, row.found) == ("one", "two", 1)
    (row,) = class_pairs(pairs).itertuples()
    assert (row.pairs, row.found, row.failed) == (3, 1, 2)
    assert class_pairs(pairs, "error").empty


def test_the_cheapest_come_first_and_those_that_failed_last(table):
    assert order_by_cost(pairs_table(table)) == [2, 3, 0, 5, 1, 8]


def test_mistakes_are_said(table):
    with pytest.raises(ValueError, match=r"lacks \['l1'\]"):
        pairs_table(table.drop(columns="l1"))
    with pytest.raises(ValueError, match="class_names must name every class, at least 3"):
        pairs_table(table, ["zero", "one"])
    with pytest.raises(ValueError, match=r"question must be one of .* got 'why'"):
        class_pairs(pairs_table(table), "why")
