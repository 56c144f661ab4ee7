from __future__ import annotations

import json

import pytest
import torch

from captum_deduce.bulk.folder import RunFolder, locked, read_manifest, shard_files, shard_name
from captum_deduce.bulk.schema import Layout, Rows

pytest.importorskip("pyarrow")

MANIFEST = {
    "format_version": 1,
    "targets": "label",
    "explainer": {"class": "a", "confidence": 0.5},
    "shape": (1, 2, 2),
    "versions": {"captum_deduce": "1", "torch": "2"},
    "complete": False,
}


def shard(first, stop):
    bounds = torch.tensor(0.0), torch.tensor(1.0)
    return Rows(Layout((1, 2, 2), torch.float32), bounds).table(range(first, stop))


def test_shards_are_listed_by_their_numbers_and_others_files_left_out(tmp_path):
    for number in (3, 12, 100_000):
        (tmp_path / shard_name(number)).touch()
    for name in ("shard-1.parquet", "shard-000004.parquet", "shard-x.parquet", "other.parquet"):
        (tmp_path / name).touch()
    assert list(shard_files(tmp_path)) == [3, 12, 100_000]


def test_missing_shards_are_those_of_this_rank(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (0, 3):
        folder.write_shard(number, shard(10 * number, 10 * number + 10))
    assert list(folder.missing(45, 10)) == [range(10, 20), range(20, 30), range(40, 45)]
    assert list(RunFolder(tmp_path, 0, 2).missing(45, 10)) == [range(20, 30), range(40, 45)]
    assert list(RunFolder(tmp_path, 1, 2).missing(45, 10)) == [range(10, 20)]
    endless = folder.missing(None, 10)
    assert [next(endless) for _ in range(4)][-1] == range(50, 60)
    # Found one by one: a billion images need no list.
    assert next(iter(folder.missing(10**12, 10))) == range(10, 20)


def test_a_run_is_complete_once_every_image_is_seen(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open(MANIFEST)
    folder.write_shard(0, shard(0, 10))
    folder.close(15)
    assert (read_manifest(tmp_path)["items_seen"], read_manifest(tmp_path)["complete"]) == (
        10,
        False,
    )
    folder.write_shard(1, shard(10, 15))
    folder.close(15)
    assert (read_manifest(tmp_path)["items_seen"], read_manifest(tmp_path)["complete"]) == (
        15,
        True,
    )
    folder.close(None)
    assert not read_manifest(tmp_path)["complete"]


def test_the_same_settings_go_on_whatever_has_come_of_them(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open(MANIFEST)
    folder.close(0)
    before = read_manifest(tmp_path)
    versions = {"captum_deduce": "1", "torch": "3"}
    folder.open({**MANIFEST, "complete": True, "items": 7, "versions": versions})
    assert read_manifest(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"targets": "all"}, "targets: 'label' there, 'all' now"),
        ({"explainer": {"class": "a", "confidence": 0.6}}, "explainer.confidence: 0.5 there, 0.6"),
        ({"versions": {"captum_deduce": "2", "torch": "2"}}, "captum_deduce: 1 there, 2 now"),
    ],
)
def test_other_settings_do_not(tmp_path, change, reason):
    folder = RunFolder(tmp_path)
    folder.open(MANIFEST)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=reason):
        folder.open({**MANIFEST, **change})
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_newer_format_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": 2}), encoding="utf-8")
    with pytest.raises(ValueError, match="format version 2; this version of the package reads 1"):
        RunFolder(tmp_path).open(MANIFEST)


def test_a_rank_clears_away_only_what_is_its_own(tmp_path):
    for number in range(4):
        (tmp_path / f".{shard_name(number)}.123").touch()
        (tmp_path / shard_name(number)).write_bytes(b"damaged")
    reasons = RunFolder(tmp_path, 1, 2).clean()
    assert len(reasons) == 2
    assert list(shard_files(tmp_path)) == [0, 2]
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert left == [f".{shard_name(0)}.123", f".{shard_name(2)}.123"]


def test_nothing_is_deleted_where_nothing_is(tmp_path):
    (tmp_path / "mine").touch()
    assert RunFolder(tmp_path).delete() is None
    folder = RunFolder(tmp_path)
    folder.open(MANIFEST)
    assert folder.delete() == f"Deleted in {tmp_path}: 0 shard(s) and manifest.json"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_shards_of_no_run_are_not_deleted(tmp_path):
    (tmp_path / shard_name(0)).write_text("mine", encoding="utf-8")
    assert RunFolder(tmp_path).delete() is None
    assert (tmp_path / shard_name(0)).read_text(encoding="utf-8") == "mine"


def test_a_lock_makes_its_folder_and_lets_go_after_an_error(tmp_path):
    def failing():
        with locked(tmp_path / "a" / "b"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
