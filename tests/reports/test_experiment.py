"""Cells of the tables, by hand."""

from __future__ import annotations

import torch

from captum_deduce import Counterfactuals
from captum_deduce.metrics import Summary, evaluate
from captum_deduce.reports.experiment import (
    ABSENT,
    Report,
    caption,
    cell,
    failure_column,
    metric_column,
)


def found(success):
    count = len(success)
    zeros = torch.zeros(count)
    return Counterfactuals(
        inputs=torch.zeros(count, 1, 2, 2),
        counterfactuals=torch.full((count, 1, 2, 2), 0.5),
        target=torch.ones(count, dtype=torch.long),
        success=torch.tensor(success),
        confidence=zeros,
        iterations=zeros.long(),
        evaluations=zeros.long(),
        forward_evaluations=zeros.long(),
        prediction=zeros.long(),
    )


def test_cells():
    assert cell(Summary(1.2345, None, 3, ()), 2) == "1.23"
    assert cell(Summary(0.0309, 0.0028, 9, (0.03, 0.0318)), 2, 100) == "3.09 (0.28)"


def test_columns_with_a_row_that_was_not_measured():
    results = {"some": found([True, False, True, True]), "none": found([False] * 4)}
    table = evaluate(results["some"])
    assert metric_column(table, "L0", ["counterfactuals", "none"], 1) == ["4.0", ABSENT]
    named = evaluate({"some": results["some"]}, sets=[0, 0, 1, 1])
    assert failure_column(results, named) == ["25.00 (35.36)", "100.00"]
    assert metric_column(None, "L0", ["some"], 1) == [ABSENT]
    assert failure_column(results, None) == ["100.00", "100.00"]


def test_the_caption_says_which_pairs():
    table = evaluate({"a": found([True, False, True]), "b": found([True, True, True])})
    assert caption(table).startswith("Means over the 2 of 3 pairs on which all succeeded")
    assert "\n" not in caption(table)
    assert "found" in caption(None)


def test_a_report_needs_only_a_title():
    report = Report("title")
    assert (report.columns, report.notes, report.data, report.results) == ([], [], {}, {})
    assert report.figure is None
