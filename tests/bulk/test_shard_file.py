from __future__ import annotations

import os

import pytest
import torch

from captum_deduce.bulk.schema import SCALARS, Layout
from captum_deduce.bulk.shard_file import ShardFile
from tests.bulk.test_reader import SHAPE, made_up_run

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def shard(tmp_path):
    made_up_run(tmp_path)
    return tmp_path / "shard-00000.parquet"


def test_columns_are_read_as_pyarrow_reads_them(shard):
    file = ShardFile.open(shard)
    file.require(Layout(SHAPE, torch.float32, True).schema())
    assert file.about["stop"] == 4
    assert sum(file.group_rows) == 4
    assert file.read(SCALARS).equals(pq.read_table(shard, columns=list(SCALARS)))


def test_a_run_of_other_images_has_other_columns(shard):
    file = ShardFile.open(shard)
    with pytest.raises(ValueError, match=r"00000\.parquet must have .* lacks change_values"):
        file.require(Layout(SHAPE, torch.float64, True).schema())
    with pytest.raises(ValueError, match=r"00000\.parquet must have the columns of its run alone"):
        file.require(Layout(SHAPE, torch.float32).schema())


def test_a_bit_that_has_changed_in_a_page_is_noticed(shard):
    whole = shard.read_bytes()
    names = ShardFile.open(shard).columns
    column = pq.read_metadata(shard).row_group(0).column(0)
    inside = column.file_offset or column.data_page_offset
    inside = whole.index(b"\x28\xb5\x2f\xfd", inside) + 6  # within what zstd has compressed
    shard.write_bytes(whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :])
    with pytest.raises(ValueError, match=r"00000\.parquet can't be read: .*CRC"):
        ShardFile.open(shard).read(names)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    pipe = tmp_path / "shard-00000.parquet"
    if not hasattr(os, "mkfifo"):
        pytest.skip("mounting pipes is not permitted here")
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"{path} can't be read: it is no file"):
            ShardFile.open(path)
