from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from captum_deduce.reports import QUESTIONS, STATES, order_by_cost, report_run
from captum_deduce.reports.dataset import page_data as module
from captum_deduce.reports.dataset.page_data import page_data
from tests.reports.dataset.made_up import random_run

ERRORS = [
    {"index": 60, "label": 2, "error": "ValueError: not finite"},
    {"index": 61, "error": "OSError: <b>truncated</b>"},
]


def test_every_pair_is_there_as_the_table_has_it():
    run = random_run(60, errors=ERRORS)
    report = report_run(run, class_names=["a", "b", "c", "d"])
    data = json.loads(json.dumps(page_data(report)))
    columns = data["columns"]
    assert sorted(columns["index"]) == list(range(62))
    assert data["names"] == {str(number): name for number, name in enumerate("abcd")}
    for place, index in enumerate(columns["index"]):
        row = report.pairs.loc[index]
        assert list(QUESTIONS)[columns["question"][place]] == row["question"]
        assert list(STATES)[columns["state"][place]] == row["state"]
        for side in ("label", "prediction", "target"):
            known = columns[side][place]
            assert (None if known is None else "abcd"[known]) == (row[f"{side}_name"] or None) or (
                known is None and row[f"{side}_name"] != row[f"{side}_name"]
            )
        cost = columns["cost"][place]
        if row["state"] == "found":
            assert cost == pytest.approx(row["cost"], rel=1e-3)
            assert columns["l0"][place] == row["l0"]
        else:
            assert cost is None
    errors = {columns["index"][int(place)]: words for place, words in data["errors"].items()}
    assert errors == {60: "ValueError: not finite", 61: "OSError: <b>truncated</b>"}
    shown = {columns["index"][int(place)] for place in data["pictures"]}
    assert shown == set(report.pictures)
    place = columns["index"].index(3)
    pictures = report.pictures[3]
    assert data["pictures"][str(place)] == [
        pictures.original,
        pictures.counterfactual,
        pictures.change,
    ]
    assert "quantile" not in columns


def test_quantiles_and_names_of_images_where_they_are_known():
    run = random_run(10)
    report = report_run(run, image_names=[f"{number}.png" for number in range(10)])
    quantiles = torch.linspace(0, 1, 10).tolist()
    report = replace(report, pairs=report.pairs.assign(log_density_quantile=quantiles))
    data = page_data(report)
    for index, quantile, name in zip(
        data["columns"]["index"], data["columns"]["quantile"], data["image_names"], strict=True
    ):
        assert quantile == pytest.approx(quantiles[index], rel=1e-2)
        assert name == f"{index}.png"


def test_of_too_many_pairs_those_with_pictures_errors_and_the_cheapest_stay(monkeypatch):
    run = random_run(60, errors=ERRORS)
    report = report_run(run)
    report = replace(report, pictures={row: report.pictures[row] for row in (50, 41)})
    monkeypatch.setattr(module, "MOST_ROWS", 20)
    kept = page_data(report)["columns"]["index"]
    assert len(kept) == 20
    cheapest = [row for row in order_by_cost(report.pairs) if row not in (50, 41)]
    assert set(kept) == {50, 41, 60, 61, *cheapest[:16]}


def test_classes_of_one_name_are_told_apart():
    report = report_run(random_run(40), class_names=["crane", "owl", "crane", "jay"])
    assert page_data(report)["names"] == {0: "crane (0)", 1: "owl", 2: "crane (2)", 3: "jay"}
