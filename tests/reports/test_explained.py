from __future__ import annotations

import pytest
import torch
from PIL import Image

from captum_deduce.reports import explained as module
from captum_deduce.reports.explained import explain
from captum_deduce.zoo import make_explainer


@pytest.fixture
def result(demo, digit_images):
    images = digit_images.images[:3]
    explainer = make_explainer(demo.checkpoint, max_iterations=3)
    return explain(explainer, images, [1, 2, 3], digit_images.class_names)


def test_pairs_come_back_in_order_with_the_originals_probabilities(
    result, digit_images, probabilities
):
    assert torch.equal(result.result.inputs, digit_images.images[:3])
    assert result.result.target.tolist() == [1, 2, 3]
    expected = torch.from_numpy(probabilities(digit_images.images[:3]))
    torch.testing.assert_close(result.before.double(), expected, atol=1e-5, rtol=1e-4)
    assert result.seconds > 0
    assert result.class_names == digit_images.class_names


def test_names_are_read_by_index(demo, digit_images):
    explainer = make_explainer(demo.checkpoint, max_iterations=1)
    names = {"3": "three", "0": "zero"}
    found = explain(explainer, digit_images.images[:1], [3], names)
    assert found.class_names == ("zero", "1", "2", "three", *"456789")
    with pytest.raises(TypeError, match="class_names must have an order"):
        explain(explainer, digit_images.images[:1], [3], set("0123456789"))


def test_only_masked_pixels_change(demo, digit_images):
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:4, :] = True
    explainer = make_explainer(demo.checkpoint, max_iterations=5)
    images = digit_images.images[:2]
    found = explain(explainer, images, [1, 2], digit_images.class_names, mask=mask).result
    assert (found.attributions != 0).any()
    assert not (found.attributions != 0)[~mask.expand_as(images)].any()


def test_the_picture_shows_the_chosen_rows_with_labels_and_probabilities(
    result, tmp_path, monkeypatch
):
    drawn = []

    def record(*arguments, **keywords):
        drawn.append(plot(*arguments, **keywords))
        return drawn[-1]

    plot = module.plot_counterfactuals
    monkeypatch.setattr(module, "plot_counterfactuals", record)
    result.save_picture(tmp_path / "a.png", slice(1, 3), torch.tensor([7, 8, 9]))
    titles = [axes.get_title() for axes in drawn[0].axes if axes.get_title()]
    originals = [title for title in titles if title.startswith("label: ")]
    seen = result.before[1:].max(1)
    assert originals == [
        f"label: {label}\nseen as {seen.indices[row]} ({seen.values[row]:.1%})"
        for row, label in enumerate((8, 9))
    ]
    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
    inches = drawn[0].get_size_inches()
    assert (width, height) == pytest.approx(tuple(inches * module.DPI), abs=1)
