from __future__ import annotations

import json

import pytest
import torch

from captum_deduce.bulk import read
from captum_deduce.bulk.folder import RunFolder
from captum_deduce.bulk.schema import Failure, Layout, Pairs
from tests.bulk.test_schema import filled, made_up

pq = pytest.importorskip("pyarrow.parquet")

SHAPE = (3, 4, 5)


def made_up_run(folder, dtype=torch.float32, store_images=True):
    """Two shards of four images each, one image of which could not be read, one a pair short."""
    layout = Layout(SHAPE, dtype, store_images)
    manifest = {
        "format_version": 1,
        "shape": list(SHAPE),
        "dtype": str(dtype).removeprefix("torch."),
        "store_images": store_images,
        "class_names": ["a", "b", "c"],
        "lower_bound": 0.0,
        "upper_bound": 1.0,
        "complete": False,
    }
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    result = made_up(6, SHAPE, dtype)
    index = [0, 1, 3, 4, 6, 7]
    for number, rows in enumerate((slice(0, 3), slice(3, 6))):
        pairs = Pairs(index[rows], [None, 1, 2], result[rows])
        failures = [Failure(2, "ValueError: broken")] if number == 0 else []
        span = range(4 * number, 4 * number + 4)
        table = filled(layout, pairs, failures, span)
        RunFolder(folder).write_shard(number, table)
    return result


def assert_same(read_back, expected):
    for name, value in vars(expected).items():
        found = getattr(read_back, name)
        if value is None:
            assert found is None
        else:
            assert found.dtype == value.dtype, name
            assert torch.equal(found, value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_come_back_to_the_last_bit(tmp_path, dtype):
    expected = made_up_run(tmp_path, dtype)
    run = read(tmp_path)
    assert len(run) == 7
    assert run.items_seen == 8
    assert_same(run.counterfactuals(), expected)
    # Row 2 is the image that could not be read.
    assert_same(run.counterfactuals([6, 0, 3]), expected[[5, 0, 2]])


def test_the_difference_alone_would_not_bring_every_bit_back(tmp_path):
    expected = made_up_run(tmp_path)
    run = read(tmp_path)
    changes = torch.cat([chunk for _, chunk in run.changes()])
    assert not torch.equal(expected.inputs + changes, expected.counterfactuals)


def test_originals_come_from_the_data_set_where_none_are_stored(tmp_path):
    expected = made_up_run(tmp_path, store_images=False)
    run = read(tmp_path)
    images = torch.zeros(8, *SHAPE)
    images[[0, 1, 3, 4, 6, 7]] = expected.inputs
    dataset = [(2 * image, 0) for image in images]
    found = run.counterfactuals(dataset=dataset, transform=lambda image: image / 2)
    assert_same(found, expected)
    with pytest.raises(ValueError, match="dataset must be given"):
        run.counterfactuals()
    with pytest.raises(ValueError, match="dataset must hold the images of this run"):
        run.counterfactuals(dataset=[torch.zeros(1, 4, 5)] * 8)


def test_changes_come_in_chunks_of_rows(tmp_path):
    expected = made_up_run(tmp_path, torch.float64)
    run = read(tmp_path)
    chunks = list(run.changes(chunk_size=4))  # of two files
    assert [rows for rows, _ in chunks] == [[0, 1, 3], [4, 5, 6]]
    assert [len(rows) for rows, _ in run.changes(chunk_size=2)] == [2, 1, 2, 1]
    found = torch.cat([chunk for _, chunk in chunks])
    torch.testing.assert_close(found, expected.attributions, atol=0, rtol=0)
    ((rows, alone),) = run.changes(5)
    assert rows == [5]
    assert torch.equal(alone, expected.attributions[4:5])


@pytest.mark.parametrize(("size", "groups"), [(1, 4), (2000, 2), (2**25, 1)])
def test_rows_are_found_however_they_are_grouped_in_the_file(tmp_path, monkeypatch, size, groups):
    monkeypatch.setattr("captum_deduce.bulk.folder._GROUP_BYTES", size)
    expected = made_up_run(tmp_path)
    run = read(tmp_path)
    assert pq.read_metadata(run.shards[0]).num_row_groups == groups
    assert_same(run.counterfactuals([6, 0, 3]), expected[[5, 0, 2]])
    assert_same(run.counterfactuals([3, 1, 3]), expected[[2, 1, 2]])
    assert_same(run.counterfactuals(), expected)


def test_the_table_has_a_row_for_each_pair_and_each_broken_image(tmp_path):
    expected = made_up_run(tmp_path)
    table = read(tmp_path).table()
    assert table["index"].tolist() == [0, 1, 2, 3, 4, 6, 7]
    fine = table[table["error"].isna()]
    assert fine["target"].tolist() == expected.target.tolist()
    assert fine["success"].tolist() == expected.success.tolist()
    assert table.loc[2, "error"] == "ValueError: broken"
    assert table.loc[2, ["target", "success", "l0", "log_density"]].isna().all()
    assert table["label"].isna().tolist() == [True, False, True, False, True, False, False]


def test_rows_that_are_not_there_or_broken_are_refused(tmp_path):
    made_up_run(tmp_path)
    run = read(tmp_path)
    with pytest.raises(IndexError, match="rows"):
        run.counterfactuals([7])
    with pytest.raises(ValueError, match=r"row\(s\) 2 could not"):
        run.counterfactuals([1, 2])
    with pytest.raises(ValueError, match="at least one"):
        run.counterfactuals([])


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        read(tmp_path)
    made_up_run(tmp_path)
    shard = tmp_path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard-00001\.parquet can't be read"):
        read(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="no manifest of a run"):
        read(tmp_path)
