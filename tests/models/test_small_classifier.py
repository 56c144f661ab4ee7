"""What both small classifiers keep: files and errors."""

from __future__ import annotations

import pytest
import torch

from captum_deduce.models import SmallCNN, SmallVGG

both = pytest.mark.parametrize("kind", [SmallCNN, SmallVGG])


@both
def test_save_and_load(kind, tmp_path):
    model = kind(2, 4, width=3, image_size=(9, 12)).double()
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = kind.load(path)
    images = torch.rand(2, 2, 9, 12, dtype=torch.float64)
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training


@both
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image_size": 7}, ValueError, "image_size"),
        ({"width": 0}, ValueError, "width must be .* got 0"),
        ({"num_classes": 2.5}, TypeError, "num_classes"),
        ({"in_channels": 0}, ValueError, "in_channels must be .* got 0"),
    ],
)
def test_bad_sizes(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)
