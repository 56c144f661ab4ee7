from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce import ClassGaussianMixture, DeDUCE
from captum_deduce.visualization import plot_trajectory, trace_trajectory
from tests.visualization import stored
from tests.visualization.samples import SEVEN, assert_readable, changed, make_result, texts


def _result(steps=9, **fields):
    images = [SEVEN]
    for step in range(steps):
        images.append(changed(images[-1], (step % 8, step // 8, 0.75)))
    path = torch.stack(images)
    return make_result(path[:1], path[-1:], trajectory=[path], **fields)


def _images(axes):
    return np.asarray(axes.images[0].get_array())


def test_the_strip_shows_images_above_their_changes():
    result = _result()
    figure = plot_trajectory(result, num_images=4)
    above, below = figure.axes[:4], figure.axes[4:8]
    assert [axes.get_title() for axes in above] == ["step 0", "step 3", "step 6", "step 9"]
    path = result.trajectory[0]
    for column, step in enumerate((0, 3, 6, 9)):
        np.testing.assert_array_equal(_images(above[column])[..., 0], path[step, 0])
        np.testing.assert_allclose(_images(below[column]), (path[step] - path[0])[0], atol=1e-7)
        entries = int((path[step] != path[0]).sum())
        assert below[column].get_title() == f"{entries} changed"
    largest = float((path - path[0]).abs().max())
    assert {axes.images[0].get_clim() for axes in below} == {(-largest, largest)}
    # nothing but the scale: no model was given
    assert len(figure.axes) == 9


def test_curves_and_heading_come_from_the_model(digits):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    result = explainer.generate(
        digits.images[:2], target=(digits.labels[:2] + 3) % 10, return_trajectory=True
    )
    figure = plot_trajectory(result, 1, digits.model, digits.layer, digits.density)
    trace = trace_trajectory(result, 1, digits.model, digits.layer, digits.density)
    probability, log_density = figure.axes[-2:]
    np.testing.assert_allclose(probability.lines[0].get_ydata(), trace.confidence)
    np.testing.assert_allclose(log_density.lines[0].get_ydata(), trace.log_density)
    heading = figure.texts[0].get_text()
    assert heading.startswith(f"{int(result.prediction[1])} → {int(result.target[1])}, ")
    assert f"after {int(result.iterations[1])} steps" in heading
    assert_readable(figure)


def test_a_failed_search_is_called_failed():
    figure = plot_trajectory(_result(success=[False], confidence=[0.125]))
    assert figure.texts[0].get_text() == "0 → 1, failed after 9 steps (best attempt 12.5%)"


def _model():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 2))


@pytest.mark.parametrize("steps", [0, 1, 2, 30])
@pytest.mark.parametrize("size", [0.4, 1.0])
def test_every_length_and_size_can_be_read(steps, size):
    model = _model()
    density = ClassGaussianMixture().fit(torch.randn(20, 3), torch.arange(20) % 2)
    names = ["a very long class name, longer than all", "another very long class name"]
    figure = plot_trajectory(
        _result(steps), 0, model, model[1], density, class_names=names, image_size=size
    )
    assert_readable(figure)
    assert len([text for text in texts(figure) if text.get_text().startswith("step ")]) == min(
        steps + 1, 8
    )


def test_the_longest_heading_fits():
    names = ["WWWWWWWWWWWWWWWWWWWW"] * 2
    path = SEVEN.expand(2, -1, -1, -1)
    result = make_result(path[:1], path[:1], success=[False], trajectory=[path])
    long = replace(result, iterations=torch.tensor([49_999]))
    assert_readable(plot_trajectory(long, class_names=names))


def test_colour_trajectories_are_drawn():
    path = torch.rand(5, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    figure = plot_trajectory(make_result(path[:1], path[-1:], trajectory=[path]))
    np.testing.assert_allclose(_images(figure.axes[4]), path[4].permute(1, 2, 0), atol=1e-7)
    assert _images(figure.axes[9]).shape == (6, 9)


def test_what_does_not_fit_is_refused():
    result = _result()
    with pytest.raises(ValueError, match="num_images"):
        plot_trajectory(result, num_images=1)
    with pytest.raises(ValueError, match="image_size"):
        plot_trajectory(result, image_size=-1.0)
    with pytest.raises(ValueError, match=r"pair .*got 1"):
        plot_trajectory(result, 1)
    with pytest.raises(ValueError, match="forward_func is None"):
        plot_trajectory(result, layer="1")
    with pytest.raises(ValueError, match="class_names"):
        plot_trajectory(result, class_names=["x"])
    with pytest.raises(ValueError, match=r"result\.trajectory .*mean and std"):
        plot_trajectory(result, std=3.0)
    flat = torch.zeros(2, 64)
    with pytest.raises(ValueError, match=r"result\.trajectory .*\(1, 64\)"):
        plot_trajectory(make_result(flat[:1], flat[1:], trajectory=[flat]))


def test_the_picture_is_the_stored_one():
    figure = stored.trajectory()
    assert_readable(figure)
    assert stored.distance(figure, "plot_trajectory") < stored.TOLERANCE
