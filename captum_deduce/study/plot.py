"""An analysis as a picture: estimates with their intervals, a panel per task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_deduce.study.analysis import ORIGINALS, StudyAnalysis
from captum_deduce.study.design import TASKS
from captum_deduce.visualization import new_figure, own_style

if TYPE_CHECKING:
    from pandas import DataFrame

_COLOR = "#1f6feb"
_ORIGINALS = "#5b6675"
_ROW = 0.32


@own_style()
def plot_study(analysis: StudyAnalysis) -> Figure:
    """Draw what people answered, method by method.

    Args:
        analysis (StudyAnalysis): Of :func:`analyse_study`.

    Returns:
        matplotlib.figure.Figure: A panel for each task that was answered, with 95% intervals; in
        the panel of realness originals are a band. It is not shown.
    """
    panels = [
        (task, frame)
        for task, frame in (
            ("name", analysis.naming),
            ("real", analysis.realness),
            ("prefer", analysis.preference),
        )
        if len(frame)
    ]
    rows = 1 + len(analysis.key.methods)
    figure = new_figure(1.2 + 3.1 * len(panels), 1.0 + _ROW * rows)
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (task, frame) in zip(every, panels, strict=True):
        _PANELS[task](axes, frame, analysis.key.methods)
        axes.set_title(TASKS[task], fontsize=10)
    every[0].set_yticks(range(rows), [*analysis.key.methods, ORIGINALS])
    every[0].set_ylim(rows - 0.5, -0.5)
    return figure


def _naming(axes: Axes, frame: DataFrame, methods: list[str]) -> None:
    _shares(axes, frame, "correct", methods)
    axes.set_xlabel("answers that name the target (%)", fontsize=9)


def _realness(axes: Axes, frame: DataFrame, methods: list[str]) -> None:
    _shares(axes, frame, "judged_real", methods)
    for row in frame[frame["method"] == ORIGINALS].to_dict("records"):
        axes.axvspan(100 * row["low"], 100 * row["high"], color=_ORIGINALS, alpha=0.15, lw=0)
    axes.set_xlabel("judged real (%)", fontsize=9)


def _preference(axes: Axes, frame: DataFrame, methods: list[str]) -> None:
    for row in frame.to_dict("records"):
        _interval(axes, methods.index(row["method"]), row["strength"], row["low"], row["high"])
    axes.axvline(0, color=_ORIGINALS, lw=0.8, ls=":")
    axes.set_xlabel("strength of preference (log-odds)", fontsize=9)


_PANELS = {"name": _naming, "real": _realness, "prefer": _preference}


def _shares(axes: Axes, frame: DataFrame, column: str, methods: list[str]) -> None:
    for row in frame.to_dict("records"):
        original = row["method"] == ORIGINALS
        place = len(methods) if original else methods.index(row["method"])
        value, low, high = (100 * row[name] for name in (column, "low", "high"))
        _interval(axes, place, value, low, high, _ORIGINALS if original else _COLOR)
    axes.set_xlim(-3, 103)


def _interval(
    axes: Axes, place: int, value: float, low: float, high: float, color: str = _COLOR
) -> None:
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=color, lw=2, solid_capstyle="round")
    axes.plot([value], [place], "o", color=color, ms=6)
