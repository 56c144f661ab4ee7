"""A report as one HTML file that works from disk, without a network and on a telephone."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_deduce.reports.dataset.page_data import MOST_ROWS, page_data
from captum_deduce.reports.dataset.pairs import QUESTIONS, STATES
from captum_deduce.reports.dataset.pictures import change_pixels, data_uri, framed
from captum_deduce.reports.dataset.report import RunReport
from captum_deduce.reports.dataset.selection import CHEAPEST, DEAREST, EXAMPLES, PairPictures
from captum_deduce.reports.html_page import render_page

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_SHOWN = 25
"""Classes of the heat map, those of most pairs; and spots, those that are surest."""

_TITLES = {"mistake": "What the model's mistakes cost"}
_LEVELS = 9
_MOST_ERRORS = 50
_SETTINGS = ("explainer", "targets", "only", "store_images", "versions", "model", "density")


def save_report(report: RunReport, path: str | os.PathLike[str]) -> None:
    """Write a report as one HTML file, which needs nothing from outside.

    Args:
        report (RunReport): Of :func:`captum_deduce.reports.report_run`.
        path (str or Path): The file; one that is there is replaced.

    Raises:
        OSError: It can't be written.
    """
    text = report_html(report)
    Path(path).write_text(text, encoding="utf-8")


def report_html(report: RunReport) -> str:
    """Write a report as HTML.

    Whatever comes from the run, such as names of classes, stands in it as text, never as markup;
    a browser that reads the page loads nothing, and runs only the page's own script.

    Args:
        report (RunReport): Of :func:`captum_deduce.reports.report_run`.

    Returns:
        str: A whole page.
    """
    values = {
        "data": page_data(report),
        "title": _TITLES.get(report.question, "What another answer costs"),
        "summary": _summary(report),
        "heat": _heat_map(report.class_pairs),
        "question": QUESTIONS[report.question],
        "question_key": report.question,
        "questions": {
            key: words
            for key, words in QUESTIONS.items()
            if (report.pairs["question"] == key).any()
        },
        "states": {
            key: words for key, words in STATES.items() if (report.pairs["state"] == key).any()
        },
        "class_cards": _class_cards(report),
        "spots": _spots(report),
        "errors": _errors(report.pairs),
        "settings": _settings(report),
        "crisp": max(report.run.shape[1:]) <= 64,
        "without_originals": report.without_originals,
        "cheapest": CHEAPEST,
        "dearest": DEAREST,
        "examples": EXAMPLES,
        "most_rows": MOST_ROWS,
    }
    return render_page("captum_deduce.reports.dataset", "report", values, {"figure": figure})


def figure(value: Any) -> str:
    """Write a number for people: three digits, of numbers from a thousand on all, in groups.

    Args:
        value (float or None): A number; what is missing may be None, NaN or NA.

    Returns:
        str: "12,345", "1.5", "0.0712"; "-" for what is missing.
    """
    import pandas as pd

    if value is None or pd.isna(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _summary(report: RunReport) -> dict[str, Any]:
    pairs = report.pairs
    about = pairs[pairs["question"] == report.question]
    states = {state: int((about["state"] == state).sum()) for state in STATES}
    labelled = pairs[pairs["label"].notna() & pairs["prediction"].notna()]
    wrong = labelled[labelled["prediction"] != labelled["label"]]
    return {
        "seen": report.run.items_seen,
        "complete": report.run.complete,
        "pairs": len(pairs),
        "about": len(about),
        "mistakes": int(wrong["index"].nunique()),
        "labelled": bool(len(labelled)),
        "states": states,
        "errors": int((pairs["state"] == "error").sum()),
        "failed": int((pairs["state"] == "failed").sum()),
        "cost_median": about["cost"].median(),
        "l0_median": about["l0"].where(about["state"] == "found").median(),
        "pictures": len(report.pictures),
    }


def _heat_map(class_pairs: DataFrame) -> dict[str, Any]:
    """What a way from a prediction to a target costs, of the classes that occur most."""
    counts: dict[int, int] = {}
    names: dict[int, str] = {}
    for row in class_pairs.itertuples():
        for number, name in (
            (row.prediction, row.prediction_name),
            (row.target, row.target_name),
        ):
            counts[number] = counts.get(number, 0) + row.pairs
            names[number] = name
    shown = sorted(sorted(counts, key=lambda number: -counts[number])[:MOST_SHOWN])
    within = class_pairs[class_pairs["prediction"].isin(shown) & class_pairs["target"].isin(shown)]
    costs = within["cost_median"].dropna()
    low, high = (costs.min(), costs.max()) if len(costs) else (0.0, 0.0)
    cells = {
        (row.prediction, row.target): {
            "row": row,
            "level": _level(row.cost_median, low, high),
            "failed_only": not row.found and row.failed,
        }
        for row in within.itertuples()
    }
    return {
        "classes": [(number, names[number]) for number in shown],
        "cells": cells,
        "left_out": len(counts) - len(shown),
        "low": low,
        "high": high,
        "levels": range(_LEVELS + 1),
    }


def _level(cost: float, low: float, high: float) -> int | None:
    if math.isnan(cost):
        return None
    if low <= 0 or high <= low:
        return 0
    # costs of classes differ by factors
    return round(_LEVELS * math.log(cost / low) / math.log(high / low))


def _class_cards(report: RunReport) -> list[dict[str, Any]]:
    about = report.pairs[report.pairs["question"] == report.question]
    shown: dict[tuple[int, int], list[PairPictures]] = {}
    drawn = about.loc[[row for row in report.pictures if row in about.index]]
    for row, pair in drawn.sort_values("cost").iterrows():
        key = (pair["prediction"], pair["target"])
        shown.setdefault(key, []).append(report.pictures[row])
    maps = change_pixels(report.maps.signed[: report.map_count])
    return [
        {
            "row": row,
            "map": data_uri(maps[place]) if row.found else "",
            "examples": shown.get((row.prediction, row.target), [])[:EXAMPLES],
        }
        for place, row in enumerate(report.class_pairs.head(report.map_count).itertuples())
    ]


def _spots(report: RunReport) -> list[dict[str, Any]]:
    """Those whose spot holds more than its area, for sure."""
    spots = report.spots[report.spots["at_least"] > report.spots.get("area", 1.0)].head(MOST_SHOWN)
    drawn = []
    for spot in spots.itertuples():
        pixels = change_pixels(report.maps.signed[spot.map][None])[0]
        picture = framed(pixels, spot.top, spot.left, spot.height, spot.width)
        drawn.append({"spot": spot, "picture": data_uri(picture)})
    return drawn


def _errors(pairs: DataFrame) -> dict[str, Any]:
    broken = pairs[pairs["state"] == "error"]
    said = broken.groupby("error", sort=False)["index"].agg(["size", "first"])
    said = said.sort_values("size", ascending=False, kind="stable")
    rows = [
        {"error": error, "count": int(size), "first": int(first)}
        for error, size, first in said.head(_MOST_ERRORS).itertuples()
    ]
    return {"rows": rows, "left_out": len(said) - len(rows)}


def _settings(report: RunReport) -> list[tuple[str, str]]:
    manifest = report.run.manifest
    named = [name for name in _SETTINGS if name in manifest]
    # whatever else a manifest says, but for bounds of many numbers and names of many classes
    named += [
        name
        for name in manifest
        if name not in named and len(json.dumps(manifest[name], default=str)) < 200
    ]
    return [(name.replace("_", " "), _in_words(manifest[name])) for name in named]


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
