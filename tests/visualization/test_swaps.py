from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from captum_deduce.explainers import PatchSwaps
from captum_deduce.visualization import plot_swaps
from tests.visualization.samples import make_result


@pytest.fixture
def swaps() -> PatchSwaps:
    made = torch.Generator().manual_seed(0)
    inputs, changed = torch.rand(2, 3, 3, 8, 12, generator=made)
    return PatchSwaps(
        result=make_result(
            inputs, changed, target=[1, 2, 1], success=[True, False, True], prediction=[0, 0, 2]
        ),
        distractors=torch.rand(4, 3, 8, 12, generator=made),
        grid=(2, 3),
        query_cells=torch.tensor([[5, 0], [1, -1], [-1, -1]]),
        distractor_index=torch.tensor([[3, 2], [1, -1], [-1, -1]]),
        distractor_cells=torch.tensor([[4, 2], [5, -1], [-1, -1]]),
        feature_edits=torch.tensor([2, -1, 0]),
        feature_confidence=torch.tensor([0.9, 0.2, 0.7]),
    )


def boxes(axes) -> list[tuple[float, float]]:
    """Centres of the outlined parts, in pixels from the image's corner."""
    return [
        (p.get_x() + p.get_width() / 2 + 0.5, p.get_y() + p.get_height() / 2 + 0.5)
        for p in axes.patches
        if isinstance(p, Rectangle)
    ]


def test_parts_are_outlined_where_they_go_and_come_from(swaps):
    figure = plot_swaps(swaps, class_names=["cat", "dog", "fox"])
    rows = np.array(figure.axes, dtype=object).reshape(3, 4)
    original, first, second, last = rows[0]
    assert boxes(original) == [(10, 6), (2, 2)]
    assert boxes(first) == [(6, 6)]
    assert boxes(second) == [(10, 2)]
    assert [text.get_text() for text in original.texts] == ["1", "2"]
    assert [text.get_text() for text in second.texts] == ["2"]
    np.testing.assert_allclose(
        first.images[0].get_array(), swaps.distractors[3].movedim(0, -1).numpy(), atol=1e-6
    )
    assert original.get_title() == "seen as cat"
    assert first.get_title() == "parts of a dog"
    assert last.get_title().endswith("features: 90.0%")
    assert rows[1][-1].get_title().startswith("failed: fox")
    assert not rows[1][2].axison
    assert boxes(rows[2][0]) == []


def test_few_rows_and_distractors(swaps):
    figure = plot_swaps(swaps, max_rows=1, max_distractors=1)
    assert len(figure.axes) == 3
    assert "the first 1 of 3 pairs" in [text.get_text() for text in figure.texts]
    assert boxes(figure.axes[1]) == [(6, 6)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_rows": 0}, ValueError, "max_rows"),
        ({"image_size": 0}, ValueError, "image_size"),
        ({"std": 2.0}, ValueError, "colours from 0 to 1"),
    ],
)
def test_what_is_refused(swaps, change, error, message):
    with pytest.raises(error, match=message):
        plot_swaps(swaps, **change)
    with pytest.raises(TypeError, match="swaps must be PatchSwaps, got Counterfactuals"):
        plot_swaps(swaps.result)
