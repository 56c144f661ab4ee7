from __future__ import annotations

import pytest
import torch

from captum_deduce.search import as_column


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4, 4)])
def test_each_number_meets_all_entries_of_its_own_row(shape):
    values, images = torch.tensor([1.0, 2.0, 3.0]), torch.ones(shape)
    column = as_column(values, images)
    assert column.dim() == images.dim()
    scaled = column * images
    assert scaled.shape == shape
    assert all((row == value).all() for row, value in zip(scaled, values, strict=True))
