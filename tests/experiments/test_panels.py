"""Every point is where its numbers are, in its classifier's panel; nothing is laid over another."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer

from captum_deduce.experiments.matched import CLASSIFIERS, GENERATIVE, PRESETS, RIVALS
from captum_deduce.experiments.panels import Point, panels
from captum_deduce.explainers import METHODS


def point(method, classifier, distance, agreement, **settings):
    return Point(
        **{
            "method": method,
            "classifier": classifier,
            "distance": distance,
            "agreement": agreement,
            "distance_error": 1.5,
            "agreement_error": 0.04,
            "found": 1.0,
            "generative": method in GENERATIVE,
            **settings,
        }
    )


def bars(axes):
    return [each for each in axes.containers if isinstance(each, ErrorbarContainer)]


def test_curves_and_points_are_where_they_belong():
    points = [
        point("JSMA", "plain", 12.0, 0.05),
        point("realistic", "SN, noise", 30.0, 0.6),
        point("realistic", "SN, noise", 40.0, 0.9),
        point("REVISE", "SN, noise", 41.0, 0.3, distance_error=None, agreement_error=None),
        point("JSMA", "SN, noise", 20.0, 0.1, found=0.2),
    ]
    plain, usual, noise = panels(points).axes
    assert (len(bars(plain)), len(bars(usual)), len(bars(noise))) == (1, 0, 4)
    lines = [line.get_xydata().tolist() for line in noise.lines]
    assert [[30.0, 0.6], [40.0, 0.9]] in lines
    first = bars(noise)[0]
    assert first.has_xerr
    assert first.has_yerr
    across, up = (np.array(each.get_segments()[0]) for each in first.lines[2])
    np.testing.assert_allclose(across, [[28.5, 0.6], [31.5, 0.6]])
    np.testing.assert_allclose(up, [[30.0, 0.56], [30.0, 0.64]])
    drawn = {tuple(each.lines[0].get_xydata()[0]): each for each in bars(noise)}
    assert not drawn[41.0, 0.3].has_xerr
    assert drawn[41.0, 0.3].lines[0].get_markerfacecolor() == "white"
    assert drawn[20.0, 0.1].lines[0].get_alpha() < 1
    assert drawn[30.0, 0.6].lines[0].get_alpha() == 1


def test_a_distance_is_never_below_nothing():
    figure = panels([point("JSMA", "plain", 1.0, 0.05, distance_error=1.5)])
    assert {axes.get_xlim()[0] for axes in figure.axes} == {0}


def every_method():
    names = [*PRESETS, *RIVALS, "realistic, layers", "realistic, smoothed", *METHODS]
    return [name for name in dict.fromkeys(names) if name != "Schut"]


def test_methods_are_told_apart_without_their_colours():
    figure = panels([point(method, "SN", 20.0, 0.5) for method in every_method()])
    (legend,) = figure.legends
    handles = legend.get_lines()
    assert {text.get_text() for text in legend.get_texts()} == set(every_method())
    looks = {(line.get_marker(), line.get_markerfacecolor() == "white") for line in handles}
    assert len(looks) == len(handles)


@pytest.mark.parametrize("classifiers", [CLASSIFIERS, ()], ids=["full", "empty"])
def test_the_legend_and_the_panels_do_not_overlap(classifiers):
    figure = panels([point(m, c, 20.0, 0.5) for c in classifiers for m in every_method()])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays it out
    renderer = canvas.get_renderer()
    labels = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    shown = figure.axes[0].get_xlim()
    numbers = [
        tick.label1
        for axes in figure.axes
        for tick in axes.xaxis.get_major_ticks()
        if shown[0] <= tick.get_loc() <= shown[1]
    ]
    written = [text for text in (*labels, *numbers) if text.get_text()]
    boxes = [each.get_window_extent(renderer) for each in (*figure.axes, *written, *figure.legends)]
    for place, one in enumerate(boxes):
        assert one.x0 >= 0
        assert one.x1 <= figure.bbox.x1
        assert not any(one.overlaps(other) for other in boxes[place + 1 :])
    shared = {(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}
    assert len(shared) == 1
