from __future__ import annotations

import math
import re

from captum_deduce.explorer.curves import curve_html


def points(html: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', html)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_a_curve_goes_from_left_to_right_and_up_where_values_rise():
    (line,) = points(curve_html("p", [0.0, 0.25, 1.0], limits=(0, 1)))
    assert [x for x, _ in line] == [0, 300, 600]
    heights = [y for _, y in line]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] - heights[1] == (heights[0] - heights[2]) / 4


def test_what_is_not_finite_leaves_a_gap():
    assert [len(line) for line in points(curve_html("d", [1.0, -math.inf, 2.0, 3.0]))] == [1, 2]
    assert points(curve_html("d", [math.nan])) == []
    assert points(curve_html("d", [])) == []


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    (line,) = points(curve_html("p", [step / 5000 for step in range(5001)], limits=(0, 1)))
    assert len(line) <= 301
    assert line[0][0] == 0
    assert line[-1][0] == 600


def test_a_mark_shows_the_value_there_and_titles_are_escaped():
    html = curve_html("p of <cat>", [0.1, 0.2, 0.3], threshold=0.5, mark=1)
    assert "<b>0.2</b>" in html
    assert "<cat>" not in html
    assert html.count("<line") == 2
