from __future__ import annotations

import numpy as np
import pytest

from captum_deduce.study import analyse_study, plot_study, read_answers
from tests.study import made_up


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    key = made_up.study(num_pairs=6).key
    rng = np.random.default_rng(0)
    contents = made_up.simulated(key, 6, [0.9, 0.5, 0.1], [0.9, 0.5, 0.1, 1], [1, 0, -1], rng)
    folder = tmp_path_factory.mktemp("answers")
    paths = [made_up.write(folder, one, f"{place}.json") for place, one in enumerate(contents)]
    return analyse_study(read_answers(paths, key), key, resamples=20)


def test_each_estimate_stands_where_the_tables_have_it(analysis):
    figure = plot_study(analysis)
    assert [axes.get_title() for axes in figure.axes] == [
        "Name the class",
        "Real or changed",
        "Which explains better",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["alpha", "beta", "gamma", "(originals)"]
    expected = [
        100 * analysis.naming["correct"],
        100 * analysis.realness["judged_real"],
        analysis.preference["strength"],
    ]
    for axes, values in zip(figure.axes, expected, strict=True):
        points = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose([line.get_xdata()[0] for line in points], values)
        assert [line.get_ydata()[0] for line in points] == list(range(len(values)))
    spans = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() != "o"]
    np.testing.assert_allclose(np.transpose(spans), 100 * analysis.naming[["low", "high"]].T)


def test_only_what_was_asked_is_drawn(tmp_path):
    key = made_up.study(["alone"], tasks=["real"]).key
    path = made_up.write(tmp_path, made_up.answers(key, 1, lambda *_: True))
    figure = plot_study(analyse_study(read_answers([path], key), key))
    assert [axes.get_title() for axes in figure.axes] == ["Real or changed"]
