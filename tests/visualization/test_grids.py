from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import same_color

from captum_deduce.visualization import plot_grid
from captum_deduce.visualization.sheet import FAILED_COLOR
from tests.visualization import stored
from tests.visualization.samples import assert_readable, grey_result, make_result, raster, texts


def _rows(figure, rows, columns):
    """The axes of a sheet's images, row by row."""
    return np.array(figure.axes[: rows * columns]).reshape(rows, columns)


def _array(axes):
    return np.asarray(axes.images[0].get_array())


def _words(figure):
    return [text.get_text() for text in texts(figure)]


def _is_framed(axes):
    return all(same_color(s.get_edgecolor(), FAILED_COLOR) for s in axes.spines.values())


def _two():
    first = grey_result()
    second = replace(first, counterfactuals=first.inputs.flip(-1), success=~first.success)
    return {"DeDUCE": first, "mirror": second}


def test_the_grid_has_the_originals_then_a_row_per_explainer():
    results = _two()
    rows = _rows(plot_grid(results), 3, 4)
    expected = [results["DeDUCE"].inputs, *(result.counterfactuals for result in results.values())]
    for axes_row, images in zip(rows, expected, strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            np.testing.assert_array_equal(_array(axes)[..., 0], image[0])
    assert [axes.get_ylabel() for axes in rows[:, 0]] == ["original", "DeDUCE", "mirror"]
    assert [axes.get_title() for axes in rows[0]] == ["7 → 1", "1 → 7", "7 → 4", "1 → 1"]


def test_failed_pairs_of_the_grid_are_crossed_out():
    results = _two()
    rows = _rows(plot_grid(results), 3, 4)
    for axes_row, success in zip(
        rows, [torch.ones(4), *(result.success for result in results.values())], strict=True
    ):
        for axes, found in zip(axes_row, success, strict=True):
            assert _is_framed(axes) == (not found)
            assert len(axes.lines) == (0 if found else 2)
            assert [text.get_text() for text in axes.texts] == ([] if found else ["failed"])


def test_the_crosses_do_not_move_the_images():
    rows = _rows(plot_grid(_two()), 3, 4)
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in rows.flat}
    assert limits == {((-0.5, 7.5), (7.5, -0.5))}


def test_labels_come_first_and_models_that_disagree_are_not_quoted():
    results = _two()
    labelled = plot_grid(results, labels=torch.tensor([0, 1, 2, 3]))
    assert [a.get_title() for a in labelled.axes[:4]] == ["0 → 1", "1 → 7", "2 → 4", "3 → 1"]
    mistakes = plot_grid(results, labels=results["mirror"].target)
    assert [a.get_title() for a in mistakes.axes[:4]] == ["7 → 1", "1 → 7", "7 → 4", "1 → 1"]
    results["mirror"] = replace(results["mirror"], prediction=torch.tensor([7, 1, 3, 1]))
    titles = [axes.get_title() for axes in plot_grid(results).axes[:4]]
    assert titles == ["7 → 1", "1 → 7", "→ 4", "1 → 1"]


def test_the_first_columns_are_drawn_and_a_note_says_so():
    figure = plot_grid(_two(), max_columns=3)
    assert len(figure.axes) == 9
    assert "the first 3 of 4 pairs" in _words(figure)


def test_twelve_columns_with_long_names_stay_apart():
    twelve = grey_result()[[0, 1, 2, 3] * 3]
    names = ["automobile", "a cat in a hat", *["emperor penguin"] * 6]
    results = {"DeDUCE": twelve, "an explainer with a very long name": twelve}
    figure = plot_grid(results, class_names=names)
    assert_readable(figure)
    width = figure.get_size_inches()[0]
    assert width < 16
    assert_readable(plot_grid(results, image_size=0.6))
    assert_readable(plot_grid({"x": twelve[:1]}))


def test_results_of_other_pairs_are_refused():
    first = grey_result()
    with pytest.raises(ValueError, match=r"inputs of 'b' .*differ from those of 'a'"):
        plot_grid({"a": first, "b": first[[1, 0, 2, 3]]})
    with pytest.raises(ValueError, match=r"inputs of 'b' \(shape \(3, 1, 8, 8\)\)"):
        plot_grid({"a": first, "b": first[:3]})
    with pytest.raises(ValueError, match=r"target of 'b'"):
        plot_grid({"a": first, "b": replace(first, target=first.target + 1)})
    with pytest.raises(ValueError, match="max_columns"):
        plot_grid({"a": first}, max_columns=0)
    with pytest.raises(ValueError, match="labels"):
        plot_grid({"a": first}, labels=[1])


# --- changes, notes and captions ---


def test_changes_stand_beside_the_counterfactuals_on_one_scale():
    results = _two()
    rows = _rows(plot_grid(results, changes=True), 3, 8)
    largest = max(
        float((result.counterfactuals - result.inputs)[result.success].abs().max())
        for result in results.values()
    )
    for axes_row, result in zip(rows[1:], results.values(), strict=True):
        difference = (result.counterfactuals - result.inputs)[:, 0].numpy()
        for pair, found in enumerate(result.success.tolist()):
            image, change = axes_row[2 * pair], axes_row[2 * pair + 1]
            np.testing.assert_array_equal(_array(image)[..., 0], result.counterfactuals[pair, 0])
            if not found:
                assert not change.images
                assert image.get_title() == change.get_title() == ""
                continue
            np.testing.assert_allclose(_array(change), difference[pair], atol=1e-7)
            assert change.images[0].get_clim() == pytest.approx((-largest, largest))
            assert image.get_title() == f"L0 {(difference[pair] != 0).sum()}"
            assert change.get_title() == f"L1 {np.abs(difference[pair]).sum():.2f}"
    assert not any(axes.images for axes in rows[0, 1::2])
    assert [axes.get_title() for axes in rows[0, ::2]] == ["7 → 1", "1 → 7", "7 → 4", "1 → 1"]


def test_the_images_of_a_pair_are_nearer_to_one_another_than_to_others():
    row = _rows(plot_grid(_two(), changes=True), 3, 8)[1]
    boxes = [axes.get_position() for axes in row]
    gaps = [right.x0 - left.x1 for left, right in pairwise(boxes)]
    assert max(gaps[::2]) < 0.6 * min(gaps[1::2])
    assert len({round(box.width, 6) for box in boxes}) == 1


def test_without_a_success_there_is_no_change_and_no_scale():
    failed = replace(grey_result(), success=torch.zeros(4, dtype=torch.bool))
    figure = plot_grid({"x": failed}, changes=True)
    assert len(figure.axes) == 2 * 8
    assert sum(bool(axes.images) for axes in figure.axes) == 8
    assert_readable(figure)


def test_notes_stand_below_their_explainers_names():
    figure = plot_grid(_two(), changes=True, notes={"mirror": "one line\nanother"})
    rows = _rows(figure, 3, 8)
    assert [axes.get_ylabel() for axes in rows[:, 0]] == ["original", "DeDUCE", "mirror"]
    assert not rows[1, 0].texts
    note, name = rows[2, 0].texts[-1], rows[2, 0].yaxis.label
    assert note.get_text() == "one line\nanother"
    assert_readable(figure)
    above, below = (text.get_window_extent() for text in (name, note))
    assert below.y1 <= above.y0
    assert below.x1 == pytest.approx(above.x1, abs=2)
    box = rows[2, 0].get_window_extent()
    assert box.y0 - 2 <= below.y0
    assert above.y1 <= box.y1 + 2
    assert below.x1 < box.x0


def test_a_caption_replaces_the_count():
    words = _words(plot_grid(_two(), max_columns=3, caption="three of four, $ as it is"))
    assert "three of four, $ as it is" in words
    assert not any("the first" in text for text in words)


def test_all_of_it_can_be_read_with_long_names():
    six = grey_result()[[0, 1, 2, 3, 0, 1]]
    figure = plot_grid(
        {"DeDUCE": six, "an explainer with a very long name": six},
        class_names=["automobile"] * 8,
        changes=True,
        notes={"DeDUCE": "6 of 6 found\nL0 18.2\nL1 12.25\n1.234 s"},
        caption="6 of 12 pairs",
    )
    assert_readable(figure)
    assert "automobile\n→ automobile" in _words(figure) or "automobile → automobile" in _words(
        figure
    )


def test_notes_of_nobody_are_refused():
    with pytest.raises(ValueError, match=r"notes must be .*\['DeDUCE', 'mirror'\].*\['VLK'\]"):
        plot_grid(_two(), notes={"VLK": "no row"})
    with pytest.raises(TypeError, match="changes"):
        plot_grid(_two(), changes="yes")


# --- what is refused, and what else holds ---


@pytest.mark.parametrize("shape", [(2, 64), (2, 2, 8, 8)])
def test_what_is_no_image_is_refused(shape):
    vectors = make_result(torch.zeros(shape), torch.ones(shape))
    with pytest.raises(ValueError, match=r"result\.inputs .*grey.*RGB"):
        plot_grid({"x": vectors})


def test_no_pairs_and_no_results_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        plot_grid({"x": grey_result()[:0]})
    with pytest.raises(ValueError, match="at least one"):
        plot_grid({})
    with pytest.raises(TypeError, match=r"mapping .*list"):
        plot_grid([grey_result()])
    with pytest.raises(TypeError, match="'x': list"):
        plot_grid({"x": [grey_result()]})


def test_nothing_is_left_in_pyplot():
    before = plt.get_fignums()
    plot_grid({"one": grey_result()}, changes=True)
    assert plt.get_fignums() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_on_a_gpu_are_drawn():
    result = grey_result()
    tensors = {name: value.cuda() for name, value in vars(result).items() if value is not None}
    there = type(result)(**tensors)
    for changes in (False, True):
        expected = raster(plot_grid({"x": result}, changes=changes))
        found = raster(plot_grid({"x": there}, changes=changes))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["plot_grid", "plot_grid_changes"])
def test_the_picture_is_the_stored_one(name):
    figure = stored.FIGURES[name]()
    assert_readable(figure)
    assert stored.distance(figure, name) < stored.TOLERANCE
