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
    assert cell(Summary(None, None, 0, ()), 2) == ABSENT
    assert cell(Summary(0.0309, 0.0028, 9, (0.03, 0.0318)), 2, 100) == "3.09 (0.28)"


def test_columns_with_a_row_that_found_nothing():
    results = {"some": found([True, False, True, True]), "none": found([False] * 4)}
    table = evaluate(results, sets=[0, 0, 1, 1])
    rows = list(results)
    assert metric_column(table, "L1", rows, 1) == ["2.0 (0.0)", ABSENT]
    assert failure_column(table, rows) == ["25.00 (35.36)", "100.00 (0.00)"]
    assert metric_column(None, "L0", rows, 1) == [ABSENT, ABSENT]


def test_the_caption_says_which_pairs():
    table = evaluate({"a": found([True, False, True]), "b": found([True, True, True])})
    assert caption(table).startswith("Means over the 2 of 3 pairs on which all succeeded")
    assert "\n" not in caption(table)


def test_a_report_needs_only_a_title():
    report = Report("title")
    assert (report.columns, report.notes, report.data, report.results) == ([], [], {}, {})
    assert report.figure is None
