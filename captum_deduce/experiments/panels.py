"""The frontier's picture: a panel for each classifier, a curve for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_deduce.experiments.matched import CLASSIFIERS
from captum_deduce.visualization import new_figure, own_style

TITLES = {
    "plain": "ResNet-18",
    "SN": "with spectral normalisation",
    "SN, noise": "with spectral normalisation,\ntrained with noise",
}
"""What each panel's classifier is."""

FEW = 0.5
"""A point of which fewer than this share of the pairs was found is drawn faintly."""

_GREY = "0.4"

# Okabe and Ito's colours, which are told apart with every colour vision, and another marker for
# each; grey is for methods that need a generative model or have no confidence.
_STYLES: dict[str, dict[str, Any]] = {
    "DeDUCE": {"color": "#0072B2", "marker": "o"},
    "closest": {"color": "#56B4E9", "marker": "v"},
    "sparsest": {"color": "#009E73", "marker": "s"},
    "realistic": {"color": "#D55E00", "marker": "^"},
    "realistic, polished": {"color": "#D55E00", "marker": "h", "linestyle": ":"},
    "realistic, layers": {"color": "#E69F00", "marker": "D"},
    "realistic, smoothed": {"color": "#D55E00", "marker": "P", "linestyle": "--"},
    "JSMA": {"color": "#000000", "marker": "X", "linestyle": "--"},
    "Wachter": {"color": "#CC79A7", "marker": "*", "linestyle": "--", "markersize": 9},
    "CEM": {"color": _GREY, "marker": "<", "linestyle": "none"},
    "PatchSwap": {"color": _GREY, "marker": ">", "linestyle": "none"},
    "NearestExample": {"color": _GREY, "marker": "p", "linestyle": "none"},
    "VLK": {"color": _GREY, "marker": "d", "linestyle": ":"},
    "REVISE": {"color": _GREY, "marker": "o", "linestyle": ":"},
    "LatentShift": {"color": _GREY, "marker": "v", "linestyle": "none"},
    "PIECE": {"color": _GREY, "marker": "^", "linestyle": "none"},
}


@dataclass(frozen=True)
class Point:
    """Where a method with one setting lies.

    Args:
        method (str): Whose.
        classifier (str): On which, one of :data:`~captum_deduce.experiments.matched.CLASSIFIERS`.
        distance (float): Mean L1 of what was found.
        agreement (float): Mean oracle agreement.
        distance_error (float or None): Standard error of the distance; None where it is not known.
        agreement_error (float or None): Likewise of the agreement.
        found (float): Share of the pairs with a counterfactual.
        generative (bool): The method needs a generative model.
    """

    method: str
    classifier: str
    distance: float
    agreement: float
    distance_error: float | None
    agreement_error: float | None
    found: float
    generative: bool


@own_style()
def panels(points: Sequence[Point]) -> Figure:
    """Draw oracle agreement against L1: upper left is best.

    Args:
        points (Sequence[Point]): Those of one method and classifier make a curve, in their order.

    Returns:
        Figure: A panel for each classifier, on shared axes, and a legend below them.
    """
    figure = new_figure(11.0, 5.4)
    every: Sequence[Axes] = figure.subplots(1, len(CLASSIFIERS), sharex=True, sharey=True)
    for axes, classifier in zip(every, CLASSIFIERS, strict=True):
        shown = [point for point in points if point.classifier == classifier]
        for method in dict.fromkeys(point.method for point in shown):
            _draw(axes, [point for point in shown if point.method == method])
        axes.set_title(TITLES[classifier], fontsize=10)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    every[0].set_xlim(left=0)
    every[0].set_ylim(-0.04, 1.04)
    every[0].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    every[0].set_ylabel("oracle agreement, over all pairs")
    middle = every[len(every) // 2]
    middle.set_xlabel("L1 distance to the original, of those found (smaller is nearer)")
    _legend(figure, points)
    return figure


def _draw(axes: Axes, curve: Sequence[Point]) -> None:
    first = curve[0]
    style = _style(first)
    across = [point.distance for point in curve]
    up = [point.agreement for point in curve]
    if len(curve) > 1:
        axes.plot(across, up, color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    for point in curve:
        axes.errorbar(
            point.distance,
            point.agreement,
            xerr=point.distance_error,
            yerr=point.agreement_error,
            elinewidth=0.8,
            alpha=1.0 if point.found >= FEW else 0.35,
            **{**style, "linestyle": "none"},
        )


def _style(point: Point) -> dict[str, Any]:
    own = _STYLES[point.method]
    filling = "white" if point.generative else own["color"]
    return {"linestyle": "-", "markersize": 6, "markerfacecolor": filling, **own}


def _legend(figure: Figure, points: Sequence[Point]) -> None:
    shown = {point.method: point for point in points}
    handles = [
        Line2D([], [], label=method, **_style(shown[method]))
        for method in _STYLES
        if method in shown
    ]
    figure.legend(
        handles=handles,
        title="Each marker is a confidence asked for, bars are standard errors over originals; "
        f"hollow: needs a generative model; faint: found for less than {FEW:.0%} of the pairs",
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        title_fontsize=9,
        frameon=False,
        handlelength=2.8,
    )
