"""The figures show what was found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.experiments.figures import figure2, figure3, figure4, figure5
from captum_deduce.experiments.plan import drawn_at_random


def pictures(report):
    """Grey values of all images that are drawn, by axes, with the axes' titles."""
    axes = [one for one in report.figure.axes if one.get_images()]
    return [(one.get_title(), np.asarray(one.get_images()[0].get_array())) for one in axes]


def test_figure_2_draws_the_way(models, store):
    report = figure2(models, store)
    axes = report.figure.axes[0]
    assert len(axes.collections) >= 2
    assert any("step" in note for note in report.notes)


def test_figure_3_has_a_row_for_each_algorithm(models, store):
    report = figure3(models, store)
    drawn = pictures(report)
    assert len(drawn) == 5 * 6
    assert [title for title, _ in drawn[:3]] == ["4 → 9", "0 → 9", "9 → 3"]
    for row, result in enumerate(report.results.values(), 1):
        shown = drawn[6 * row + 2][1][..., 0]
        np.testing.assert_allclose(shown, result.counterfactuals[2, 0], atol=1e-6)


def test_figure_4_shows_originals_samples_and_their_mean(models, store):
    report = figure4(models, store)
    drawn = np.stack([image for _, image in pictures(report)]).reshape(5, 7, 8, 8, -1)[..., 0]
    cases = drawn_at_random(models.splits.test, 7, models.size.seed)
    np.testing.assert_allclose(drawn[0], cases.inputs[:, 0], atol=1e-6)
    assert all(np.abs(drawn[1] - drawn[row]).max() > 1e-3 for row in (2, 3, 4))
    with torch.no_grad():
        mean, log_variance = models.vae.encode(cases.inputs)
        noise = torch.randn(1000, *mean.shape)
        samples = models.vae.decode((mean + (log_variance / 2).exp() * noise).flatten(0, 1))
    center = samples.view(1000, 7, 8, 8).mean(0).numpy()
    off = [np.abs(drawn[row] - center).mean() for row in (1, 2, 3, 4)]
    assert off[3] < min(off[:3]) / 3  # about 1 / sqrt(50)
    assert report.data["mean squared error of a sample"] > 0


def test_figure_5_shows_eighteen_pairs(models, store):
    report = figure5(models, store)
    drawn = pictures(report)
    assert len(drawn) == 36
    (result,) = report.results.values()
    np.testing.assert_allclose(drawn[7][1][..., 0], result.counterfactuals[1, 0], atol=1e-6)
    title = drawn[7][0]
    assert title.startswith(f"→ {result.target[1]}, ")
    share = report.data["oracle agreement"][1]
    assert title.endswith(f"{share:.0%}" if result.success[1] else "failed")
    assert share == pytest.approx(round(2 * share) / 2)
