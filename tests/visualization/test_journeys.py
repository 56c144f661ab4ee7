from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.journeys import Journey, draw_curves, stacked
from captum_deduce.visualization.traces import Trace
from tests.visualization.samples import SEVEN, changed, make_result


def _result(returned=-1, **fields):
    """A search of six steps that lights the lower left, one pixel more at each step."""
    steps = [SEVEN]
    for column in range(6):
        steps.append(changed(steps[-1], (7, column, 0.5)))
    images = torch.stack(steps)
    return make_result(images[:1], images[returned].unsqueeze(0), trajectory=[images], **fields)


def _read(result, most=10, names=None, mean=None, std=None):
    return Journey.read(result, 0, most, names, mean, std, None)


def test_colours_and_changes_are_those_of_the_chosen_steps():
    result = _result()
    journey = _read(result, most=4)
    assert journey.steps.tolist() == [0, 2, 4, 6]
    images = result.trajectory[0][[0, 2, 4, 6]]
    np.testing.assert_array_equal(journey.colors[..., 0], images[:, 0])
    np.testing.assert_allclose(journey.changes, images[:, 0] - SEVEN[0], atol=1e-7)
    assert journey.changed == ["0 changed", "2 changed", "4 changed", "6 changed"]


@pytest.mark.parametrize("step", [0, 3, 6])
def test_the_step_that_was_returned_is_found(step):
    journey = _read(_result(returned=step), most=3)
    assert journey.returned == step
    np.testing.assert_array_equal(
        journey.final[0][..., 0], changed(SEVEN, *((7, column, 0.5) for column in range(step)))[0]
    )
    assert np.count_nonzero(journey.final[1]) == step


def test_an_image_that_is_no_step_of_the_trajectory_has_none():
    result = _result()
    other = make_result(result.inputs, 1 - result.inputs, trajectory=result.trajectory)
    assert _read(other).returned is None


def test_headings_say_how_the_search_ended():
    found = _read(_result(confidence=[0.5625]), names=["zero", "one"])
    assert found.title == "zero → one"
    assert found.outcome == "found after 6 steps (56.2%)"
    failed = _read(_result(success=[False], confidence=[0.25]))
    assert failed.outcome == "failed after 6 steps (best attempt 25.0%)"
    one = make_result(
        SEVEN[None], SEVEN[None], trajectory=[torch.stack([SEVEN, SEVEN])], success=[True]
    )
    assert _read(one).outcome.startswith("found after 1 step (")


def test_normalised_trajectories_are_shown_in_their_colours():
    result = _result()
    normalised = make_result(
        (result.inputs - 0.5) / 0.25,
        (result.counterfactuals - 0.5) / 0.25,
        trajectory=[(result.trajectory[0] - 0.5) / 0.25],
    )
    journey, expected = _read(normalised, mean=0.5, std=0.25), _read(result)
    np.testing.assert_allclose(journey.colors, expected.colors, atol=1e-6)
    np.testing.assert_allclose(journey.changes, expected.changes, atol=1e-6)


def test_a_trace_covers_the_steps_that_are_drawn_and_the_one_returned():
    journey = _read(_result(returned=5), most=3)
    trace = journey.trace(lambda x: x.flatten(1)[:, :3], None, None)
    assert {0, 3, 5, 6} <= set(trace.steps.tolist())
    assert journey.trace(None, None, None) is None
    with pytest.raises(ValueError, match="forward_func is None"):
        journey.trace(None, "layer", None)
    with pytest.raises(ValueError, match="forward_func is None"):
        journey.trace(None, None, object())


def _curves(trace, journey):
    sheet = sheets.make_sheet(1, 1, (8, 8), image_size=4.0)
    axes = stacked(sheet, trace.num_curves, 1.0, 0.5, 2.0, 2.5)
    draw_curves(axes, trace, journey)
    return axes


def _trace(log_density=None):
    confidence = np.array([0.1, 0.3, 0.9])
    return Trace(np.array([0, 2, 6]), confidence, 1 - confidence, None, log_density)


def test_panels_share_the_height_without_touching():
    axes = _curves(_trace(np.array([-5.0, -4.0, -1.0])), _read(_result()))
    upper, lower = (panel.get_window_extent() for panel in axes)
    assert upper.y1 - lower.y0 == pytest.approx(250)
    assert upper.y0 > lower.y1
    assert upper.height == pytest.approx(lower.height)


def test_curves_are_those_of_the_trace():
    journey = _read(_result(returned=2), names=["zero", "_one"])
    upper, lower = _curves(_trace(np.array([-5.0, -4.0, -1.0])), journey)
    target, original, returned = upper.lines
    assert target.get_xydata().tolist() == [[0, 0.1], [2, 0.3], [6, 0.9]]
    assert original.get_xydata()[:, 1] == pytest.approx([0.9, 0.7, 0.1])
    assert set(returned.get_xdata()) == {2}
    assert [text.get_text() for text in upper.get_legend().get_texts()] == [
        *("p(_one)", "p(zero)", "returned")
    ]
    assert lower.lines[0].get_xydata().tolist() == [[0, -5], [2, -4], [6, -1]]
    assert lower.get_yscale() == "linear"
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("probability", "log-density\n(nats)")
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("", "step")


def test_log_densities_far_from_the_data_are_on_a_logarithmic_axis():
    upper, lower = _curves(_trace(np.array([-2e9, -4e3, 150.0])), _read(_result()))
    assert lower.get_yscale() == "symlog"
    assert upper.get_yscale() == "linear"


def test_one_curve_is_drawn_where_the_model_saw_the_target_from_the_start():
    journey = _read(_result(prediction=[1]))
    (panel,) = _curves(_trace(), journey)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["p(1)", "returned"]
    # two different classes of the same name are still two curves
    (panel,) = _curves(_trace(), _read(_result(), names=["same", "same"]))
    assert len(panel.get_legend().get_texts()) == 3
