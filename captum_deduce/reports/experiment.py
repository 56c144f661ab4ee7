"""What an experiment returns, and cells of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics import EvaluationTable, Summary
from captum_deduce.reports.tables import Column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSENT = "-"
"""What a cell without a value says, where nothing was found or the paper gives no number."""


@dataclass(frozen=True)
class Report:
    """What an experiment found.

    Args:
        title (str): What it is, in a line.
        columns (list[tuple[str, Sequence[str]]]): Its table, as
            :func:`captum_deduce.reports.markdown` takes it; empty: it has none.
        notes (list[str]): Sentences that belong below the table or the figure.
        data (dict[str, Any]): All numbers, in a form that ``json.dumps`` takes.
        figure (matplotlib.figure.Figure or None): Its picture.
        results (Mapping[str, Counterfactuals]): What the explainers found, by name.
        own_columns (list[tuple[str, Sequence[str]]]): A second table, such as of means over the
            pairs that each explainer found itself; empty: there is none.
    """

    title: str
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    figure: Figure | None = None
    results: Mapping[str, Counterfactuals] = field(default_factory=dict)
    own_columns: list[Column] = field(default_factory=list)


def cell(summary: Summary, decimals: int, scale: float = 1.0) -> str:
    """Write a mean, with the deviation over sets in brackets where there is one.

    Args:
        summary (Summary): The mean.
        decimals (int): How many to write.
        scale (float, optional): A factor, such as 100 for per cent. Default: 1.0

    Returns:
        str: As the paper writes it; :data:`ABSENT` where there is no mean.
    """
    if summary.mean is None:
        return ABSENT
    mean = f"{summary.mean * scale:.{decimals}f}"
    if summary.deviation is None:
        return mean
    return f"{mean} ({summary.deviation * scale:.{decimals}f})"


def metric_column(
    table: EvaluationTable | None,
    metric: str,
    rows: Sequence[str],
    decimals: int,
    scale: float = 1.0,
) -> list[str]:
    """Write a metric of every row.

    Args:
        table (EvaluationTable or None): Where it was measured, if it was.
        metric (str): Its name there.
        rows (Sequence[str]): Names of results.
        decimals (int): How many to write.
        scale (float, optional): A factor. Default: 1.0

    Returns:
        list[str]: A cell for each row; :data:`ABSENT` for those without a mean.
    """
    if table is None:
        return [ABSENT] * len(rows)
    return [cell(table[row, metric], decimals, scale) for row in rows]


def failure_column(table: EvaluationTable, rows: Sequence[str]) -> list[str]:
    """Write the share of all pairs, in per cent, for which nothing was found.

    Args:
        table (EvaluationTable): Any.
        rows (Sequence[str]): Names of its results.

    Returns:
        list[str]: A cell for each row.
    """
    return metric_column(table, "failure rate", rows, 2, 100.0)


def caption(table: EvaluationTable) -> str:
    """Say over which pairs the means are.

    Args:
        table (EvaluationTable): The means.

    Returns:
        str: A sentence.
    """
    return table.to_markdown().rsplit("\n\n", 1)[1]
