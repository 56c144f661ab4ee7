from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce import Counterfactuals
from captum_deduce.bulk.schema import Failure, Layout, Pairs, Rows, about_shard, png

pa = pytest.importorskip("pyarrow")

BOUNDS = (torch.tensor(0.0), torch.tensor(1.0))


def made_up(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Counterfactuals:
    generator = torch.Generator().manual_seed(3)
    # Powers, as differences of numbers from torch.rand are exact.
    inputs = torch.rand(count, *shape, generator=generator, dtype=dtype) ** 3
    changed = torch.where(
        torch.rand(count, *shape, generator=generator) < 0.2,
        torch.rand(count, *shape, generator=generator, dtype=dtype),
        inputs,
    )
    numbers = torch.arange(count)
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=changed,
        target=numbers % 3,
        success=numbers % 2 == 0,
        confidence=torch.rand(count, generator=generator, dtype=dtype),
        iterations=numbers + 5,
        evaluations=numbers + 6,
        forward_evaluations=numbers * 0,
        prediction=(numbers + 1) % 3,
        log_density=-torch.rand(count, generator=generator, dtype=torch.float64),
    )


def filled(layout, pairs, failures, span):
    rows = Rows(layout, BOUNDS)
    for failure in failures:
        rows.fail(failure)
    rows.add(pairs)
    return rows.table(span)


def test_rows_stand_in_the_order_of_images_and_targets():
    result = made_up(4, (1, 2, 3), torch.float32)
    pairs = Pairs([7, 5, 5, 6], [1, None, None, 0], result)
    failures = [Failure(4, "no image"), Failure(6, "no samples", label=0, target=9, prediction=1)]
    table = filled(Layout((1, 2, 3), torch.float32), pairs, failures, range(4, 8))
    assert table["index"].to_pylist() == [4, 5, 5, 6, 6, 7]
    assert table["target"].to_pylist() == [None, 1, 2, 0, 9, 0]
    assert table["error"].to_pylist() == ["no image", None, None, None, "no samples", None]
    assert table["label"].to_pylist() == [None, None, None, 0, 0, 1]
    assert table["success"].to_pylist() == [None, False, True, False, None, True]
    about = about_shard(table.schema.metadata)
    assert (about["first"], about["stop"]) == (4, 8)
    assert about["precision"] == {"confidence": "float32", "log_density": "float64"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_changes_are_what_a_loop_over_entries_finds(dtype):
    result = made_up(5, (2, 3, 4), dtype)
    pairs = Pairs(list(range(5)), [None] * 5, result, torch.linspace(0, 1, 5))
    table = filled(Layout((2, 3, 4), dtype), pairs, [], range(5))
    assert table["log_density_quantile"].to_pylist() == [0, 0.25, 0.5, 0.75, 1]
    for row, (before, after) in enumerate(
        zip(result.inputs.tolist(), result.counterfactuals.tolist(), strict=True)
    ):
        before, after = np.ravel(before), np.ravel(after)
        places = [i for i in range(24) if before[i] != after[i]]
        assert table["change_indices"][row].as_py() == places
        assert table["counterfactual_values"][row].as_py() == [after[i] for i in places]
        np.testing.assert_allclose(
            table["change_values"][row].as_py(), after[places] - before[places], atol=1e-7
        )
        assert table["l0"][row].as_py() == len(places)
        assert table["l1"][row].as_py() == pytest.approx(np.abs(after - before).sum(), rel=1e-6)
        assert table["shape"][row].as_py() == [2, 3, 4]


def test_pictures_go_from_black_at_the_lower_bound_to_white_at_the_upper():
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    levels = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    images = (levels / 255 - mean) / 0.2
    for file, expected in zip(png(images, -mean / 0.2, (1 - mean) / 0.2), levels, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(file)))
        np.testing.assert_array_equal(pixels, expected.permute(1, 2, 0).numpy())


def test_a_foreign_table_is_no_shard():
    with pytest.raises(ValueError, match="no shard of a run"):
        about_shard(pa.schema([("a", pa.int64())]).metadata)
