"""Results as text, Markdown and pictures."""

from captum_deduce.reports.experiment import (
    ABSENT,
    Report,
    caption,
    cell,
    failure_column,
    metric_column,
)
from captum_deduce.reports.explained import BATCH_SIZE, DPI, Explained, explain
from captum_deduce.reports.tables import Column, markdown, mean, search_columns, table, totals

__all__ = [
    "ABSENT",
    "BATCH_SIZE",
    "DPI",
    "Column",
    "Explained",
    "Report",
    "caption",
    "cell",
    "explain",
    "failure_column",
    "markdown",
    "mean",
    "metric_column",
    "search_columns",
    "table",
    "totals",
]
