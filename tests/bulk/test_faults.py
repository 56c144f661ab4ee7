"""What ends a run, done for real: to processes, disks and files."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from captum_deduce.bulk import read
from captum_deduce.bulk.folder import locked, shard_files
from tests.bulk.process import Digits, Elsewhere, explain
from tests.bulk.test_explain import assert_same_pairs, by_row

pytest.importorskip("pyarrow")


def temporary_files(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".shard")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed: 270 pairs."""
    digits = Digits(30, torch.float64)
    return explain(digits, tmp_path_factory.mktemp("whole") / "run"), digits


@pytest.mark.parametrize(
    ("ending", "status"),
    [(signal.SIGKILL, -9), (signal.SIGHUP, -1), (signal.SIGTERM, -15), (signal.SIGINT, 1)],
    ids=["kill -9", "closed terminal", "kill", "Ctrl-C"],
)
def test_whatever_ends_a_run_it_goes_on(whole, tmp_path, ending, status):
    expected, digits = whole
    other = Elsewhere(tmp_path, 30, pause=0.15)
    other.wait_for_shards(1)
    os.kill(other.process.pid, ending)
    assert other.end() == status
    part = read(tmp_path)
    assert not part.complete
    assert 10 <= part.items_seen < 30
    run = explain(digits, tmp_path)
    assert run.complete
    assert_same_pairs(run, expected, digits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_killed_twenty_times_every_pair_is_there_once(tmp_path, dtype):
    """The moments are random: the generator's seed is new each time, and printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    digits = Digits(600, getattr(torch, dtype))
    expected = explain(digits, tmp_path / "whole")
    assert len(expected) == 5400
    folder, seen = tmp_path / "run", [0]
    for _ in range(20):
        other = Elsewhere(folder, 600, dtype, pause=0.03)
        # However slow the machine is: some before a further shard is there, some after.
        other.wait_for_shards(seen[-1] + moments.randrange(2))
        time.sleep(moments.uniform(0, 0.3))
        other.process.kill()
        assert other.end() == -9, "it ended before it was killed"
        seen.append(len(shard_files(folder)))
    print(f"shards there after each: {seen}")
    assert 5 < seen[-1] < 60
    assert Elsewhere(folder, 600, dtype).end() == 0
    run = read(folder)
    assert run.complete
    assert by_row(run)[1] == by_row(expected)[1]
    assert temporary_files(folder) == []
    if dtype == "float64":
        assert_same_pairs(run, expected, digits)
        return
    found, other = run.counterfactuals(dataset=digits), expected.counterfactuals(dataset=digits)
    assert torch.equal(found.success, other.success)
    differ = (found.counterfactuals != other.counterfactuals).flatten(1).any(1).double().mean()
    print(f"float32: {differ:.2%} of pairs differ in an entry")
    assert differ < 0.02


def test_a_second_process_is_refused_while_the_first_lives(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("captum_deduce.bulk.folder._PATIENCE", 0.2)
    expected, digits = whole
    other = Elsewhere(tmp_path, 30, pause=0.2)
    other.wait_for_shards(1)
    with pytest.raises(ValueError, match="no other process is writing to; one is writing to"):
        explain(digits, tmp_path)
    other.process.kill()
    assert other.end() == -9
    assert_same_pairs(explain(digits, tmp_path), expected, digits)


@pytest.mark.slow
def test_readers_of_a_dead_process_hold_its_folder_for_a_moment_only(whole, tmp_path):
    """Its forked readers have inherited the lock; they notice within seconds that it is gone."""
    expected, digits = whole
    other = Elsewhere(tmp_path, 30, pause=0.1, workers=1)
    other.wait_for_shards(1)
    other.process.kill()
    assert other.end() == -9
    assert_same_pairs(explain(digits, tmp_path), expected, digits)


def test_ranks_have_locks_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("captum_deduce.bulk.folder._PATIENCE", 0.1)
    refused = pytest.raises(ValueError, match="one is writing to")
    with locked(tmp_path, 0), locked(tmp_path, 1), refused, locked(tmp_path, 1):
        pass
    with locked(tmp_path, 1):
        assert (tmp_path / ".lock-1").exists()


def test_a_truncated_shard_is_made_anew(whole, tmp_path):
    expected, digits = whole
    folder = tmp_path / "run"
    shutil.copytree(expected.folder, folder)
    last = folder / "shard-00002.parquet"
    last.write_bytes(last.read_bytes()[:-50])
    (folder / "shard-00001.parquet").write_bytes(b"")
    with pytest.warns(UserWarning, match="made anew, as it can't be read"):
        run = explain(digits, folder)
    assert_same_pairs(run, expected, digits)


def test_what_a_killed_process_was_writing_is_cleared_away(whole, tmp_path):
    expected, digits = whole
    folder = tmp_path / "run"
    shutil.copytree(expected.folder, folder)
    (folder / ".shard-00001.parquet.99999").write_bytes(b"half")
    (folder / "shard-00001.parquet").unlink()
    assert_same_pairs(explain(digits, folder), expected, digits)
    assert temporary_files(folder) == []


@contextlib.contextmanager
def mounted(folder, options):
    """A small file system in memory; skips where mounting is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_whole_shards_and_the_run_goes_on_elsewhere(whole, tmp_path):
    expected, digits = whole
    with mounted(tmp_path / "small", "size=64k") as folder:
        # In pages of 4 KiB: one for the manifest, and room for one shard and a half.
        pages = -(-expected.shards[0].stat().st_size // 4096)
        (folder / "ballast").write_bytes(bytes(4096 * (16 - 1 - pages - pages // 2)))
        with pytest.raises(OSError, match=r"could not be written: .*No space left on device"):
            explain(digits, folder)
        part = read(folder)
        assert len(part.shards) == 1
        assert temporary_files(folder) == []
        part.table()
        (folder / "ballast").unlink()
        (tmp_path / "large").mkdir()
        shutil.copytree(folder, tmp_path / "large" / "run")
    run = explain(digits, tmp_path / "large" / "run")
    assert_same_pairs(run, expected, digits)


def test_a_folder_that_is_read_only_is_refused_before_any_work(whole, tmp_path):
    _, digits = whole
    with mounted(tmp_path / "fixed", "ro") as folder:
        with pytest.raises(OSError, match="out must be a folder that can be written to"):
            explain(digits, folder)
        with pytest.raises(OSError, match="out must be a folder that can be written to"):
            explain(digits, folder / "run")


def test_a_file_in_the_folders_place_is_refused(whole, tmp_path):
    _, digits = whole
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(OSError, match="out must be a folder"):
        explain(digits, tmp_path / "run")
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"
