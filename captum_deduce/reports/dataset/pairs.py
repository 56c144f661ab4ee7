"""The pairs of a run as a table, and what they come to for each pair of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captum_deduce.visualization import ClassNames, read_class_names

if TYPE_CHECKING:
    from pandas import DataFrame, Series

QUESTIONS = {
    "mistake": "Mistakes, towards their label",
    "mistake elsewhere": "Mistakes, towards another class than their label",
    "right": "Right answers, towards another class",
    "no label": "Images without a label",
    "error": "Images that could not be explained",
}
"""What a pair asks, in the order in which a report prefers to answer, and in words."""

STATES = {
    "found": "found",
    "failed": "failed: the search ended without success",
    "already": "there already: nothing had to change",
    "error": "error: the image could not be explained",
}
"""What became of a pair, and in words."""

_NEEDED = ("index", "label", "prediction", "target", "success", "confidence", "l0", "l1", "error")
CLASSES = ("label", "prediction", "target")
"""The columns of classes."""


def pairs_table(table: DataFrame, class_names: ClassNames | None = None) -> DataFrame:
    """Say for each pair of a run what it asked and what became of it.

    Args:
        table (pandas.DataFrame): A row per pair, with the scalar columns of a run's Parquet files.
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)

    Returns:
        pandas.DataFrame: The same rows and columns, classes as nullable integers, and besides:
        ``question``, one of :data:`QUESTIONS`; ``state``, one of :data:`STATES`; ``cost``, the L1
        of pairs that were found, else missing; ``label_name``, ``prediction_name`` and
        ``target_name``, missing where there is no class.

    Raises:
        TypeError: ``class_names`` without an order, or something else than names.
        ValueError: A column is missing, or a class has no name.

    Examples::

        >>> import pandas as pd
        >>> row = {"index": 7, "label": 9, "prediction": 4, "target": 9, "success": True}
        >>> row |= {"confidence": 0.6, "l0": 3, "l1": 1.5, "error": None}
        >>> pairs = pairs_table(pd.DataFrame([row]))
        >>> print(*pairs.loc[0, ["question", "state", "cost"]])
        mistake found 1.5
    """
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise ValueError(f"table must have the columns {', '.join(_NEEDED)}; it lacks {missing}")
    pairs = table.reset_index(drop=True)
    for name in CLASSES:
        pairs[name] = pairs[name].astype("Int64")
    pairs["success"] = pairs["success"].astype("boolean").fillna(False).astype(bool)
    for name in ("confidence", "l0", "l1"):
        pairs[name] = pairs[name].astype("float64")
    pairs["question"] = _question(pairs)
    pairs["state"] = _state(pairs)
    pairs["cost"] = pairs["l1"].where(pairs["state"] == "found")
    seen = max(
        (int(pairs[name].max()) for name in CLASSES if pairs[name].notna().any()), default=-1
    )
    names = dict(enumerate(read_class_names(class_names, seen + 1)))
    for name in CLASSES:
        pairs[f"{name}_name"] = pairs[name].map(names).astype(object)
    return pairs


def _question(pairs: DataFrame) -> NDArray[np.object_]:
    wrong = (pairs["prediction"] != pairs["label"]).fillna(False)
    towards_label = (pairs["target"] == pairs["label"]).fillna(False)
    conditions = {
        "error": pairs["error"].notna(),
        "no label": pairs["label"].isna(),
        "mistake": wrong & towards_label,
        "mistake elsewhere": wrong,
    }
    return _first_that_holds(conditions, "right")


def _state(pairs: DataFrame) -> NDArray[np.object_]:
    conditions = {
        "error": pairs["error"].notna(),
        "failed": ~pairs["success"],
        "already": pairs["l0"] == 0,
    }
    return _first_that_holds(conditions, "found")


def _first_that_holds(conditions: dict[str, Series], otherwise: str) -> NDArray[np.object_]:
    masks = [condition.to_numpy(bool) for condition in conditions.values()]
    return np.select(masks, list(conditions), otherwise).astype(object)


def main_question(pairs: DataFrame) -> str:
    """Choose what a report is about.

    Args:
        pairs (pandas.DataFrame): Of :func:`pairs_table`.

    Returns:
        str: The first of :data:`QUESTIONS` that was asked and for which something was found or
        failed; where there is none, the first.
    """
    searched = set(pairs.loc[pairs["state"].isin(("found", "failed")), "question"])
    return next((question for question in QUESTIONS if question in searched), next(iter(QUESTIONS)))


def class_pairs(pairs: DataFrame, question: str | None = None) -> DataFrame:
    """Sum up what it takes to get from the class that the model sees to the target.

    Args:
        pairs (pandas.DataFrame): Of :func:`pairs_table`.
        question (str, optional): Only pairs that ask this, one of :data:`QUESTIONS`.
            Default: None (see :func:`main_question`)

    Returns:
        pandas.DataFrame: A row for each prediction and target that occur together, the most
        frequent first, with their names; how many pairs there are and how many were ``found``,
        ``failed`` or are ``already`` there; of the L1 of those found ``cost_median``,
        ``cost_mean`` and ``cost_min``, in input units, and ``l0_median``, missing where none was
        found. Pairs with errors, which may have no classes, are in no row.

    Raises:
        ValueError: An unknown question.
    """
    if question is None:
        question = main_question(pairs)
    if question not in QUESTIONS:
        raise ValueError(f"question must be one of {', '.join(QUESTIONS)}, got {question!r}")
    chosen = pairs[(pairs["question"] == question) & (pairs["state"] != "error")]
    by_classes = chosen.assign(
        l0_found=chosen["l0"].where(chosen["state"] == "found"),
        **{state: chosen["state"] == state for state in ("found", "failed", "already")},
    ).groupby(["prediction", "target"], sort=True)
    summed = by_classes.agg(
        prediction_name=("prediction_name", "first"),
        target_name=("target_name", "first"),
        pairs=("index", "size"),
        found=("found", "sum"),
        failed=("failed", "sum"),
        already=("already", "sum"),
        cost_median=("cost", "median"),
        cost_mean=("cost", "mean"),
        cost_min=("cost", "min"),
        l0_median=("l0_found", "median"),
    ).reset_index()
    return summed.sort_values("pairs", ascending=False, kind="stable", ignore_index=True)


def order_by_cost(pairs: DataFrame) -> list[int]:
    """Order pairs by what they cost: the cheapest first, those that failed last.

    Args:
        pairs (pandas.DataFrame): Of :func:`pairs_table`, or some of its rows.

    Returns:
        list[int]: Row labels of the pairs that were found or failed, in that order; pairs of one
        cost by their position in the data set.
    """
    searched = pairs[pairs["state"].isin(("found", "failed"))]
    ordered = searched.sort_values(["cost", "index"], na_position="last")
    return [int(row) for row in ordered.index]
