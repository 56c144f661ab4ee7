"""The pairs of a report as the script of its page reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from captum_deduce.reports.dataset.pairs import CLASSES, QUESTIONS, STATES, order_by_cost
from captum_deduce.reports.dataset.report import RunReport

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MOST_ROWS = 50_000
"""Pairs that a page holds, at most: those that the report is about first, the cheapest first."""


def page_data(report: RunReport) -> dict[str, Any]:
    """Write the pairs column by column.

    Args:
        report (RunReport): The report.

    Returns:
        dict[str, Any]: What the page's script reads, in forms that JSON has: numbers with as many
        digits as it shows, None for what is missing.
    """
    pairs = _first_rows(report)
    columns = {
        "index": pairs["index"].astype(int).tolist(),
        "cost": _rounded(pairs["cost"], 4),
        "confidence": _rounded(pairs["confidence"], 3),
        "l0": [None if value != value else int(value) for value in pairs["l0"]],
        "question": [list(QUESTIONS).index(question) for question in pairs["question"]],
        "state": [list(STATES).index(state) for state in pairs["state"]],
    }
    for side in CLASSES:
        columns[side] = [None if none else int(number) for number, none in _marked(pairs[side])]
    if "log_density_quantile" in pairs:
        quantiles = pairs["log_density_quantile"].astype("float64")
        if quantiles.notna().any():
            columns["quantile"] = _rounded(quantiles, 3)
    place = {row: number for number, row in enumerate(pairs.index)}
    return {
        "columns": columns,
        "names": _names(pairs),
        "questions": list(QUESTIONS),
        "states": list(STATES),
        "errors": {
            place[row]: pairs.at[row, "error"] for row in pairs.index[pairs["error"].notna()]
        },
        "image_names": (
            None
            if report.image_names is None
            else [report.image_names[index] for index in columns["index"]]
        ),
        "pictures": {
            place[row]: [drawn.original, drawn.counterfactual, drawn.change]
            for row, drawn in report.pictures.items()
            if row in place
        },
    }


def _marked(classes: Series) -> Iterator[tuple[Any, bool]]:
    return zip(classes, classes.isna(), strict=True)


def _names(pairs: DataFrame) -> dict[int, str]:
    """Names of classes by their numbers; of several classes with one name each has its number."""
    names: dict[int, str] = {}
    for side in CLASSES:
        known = pairs[[side, f"{side}_name"]].dropna().drop_duplicates()
        names |= {int(number): name for number, name in known.itertuples(index=False)}
    often = Counter(names.values())
    return {
        number: f"{name} ({number})" if often[name] > 1 else name for number, name in names.items()
    }


def _first_rows(report: RunReport) -> DataFrame:
    pairs = report.pairs
    about = pairs[pairs["question"] == report.question]
    rows = [*pairs.index[pairs["state"] == "error"], *order_by_cost(about), *pairs.index]
    # pictures of the dearest are among those kept, too
    return pairs.loc[list(dict.fromkeys([*report.pictures, *rows]))[:MOST_ROWS]]


def _rounded(values: Series, digits: int) -> list[float | None]:
    return [None if value != value else float(f"{value:.{digits}g}") for value in values]
