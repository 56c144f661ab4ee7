from __future__ import annotations

from dataclasses import replace

import pytest

from captum_deduce.bulk.folder import shard_files
from tests.bulk.test_manifest import work

pytest.importorskip("pyarrow")


def test_shards_that_are_asked_for_are_written_and_counted(small, tmp_path):
    own, reports = replace(work(small), folder=tmp_path), []
    with own.stream() as stream:
        counts = own.explain(
            stream, [range(20, 30), range(50, 60)], lambda c: reports.append(c.items)
        )
    assert list(shard_files(tmp_path)) == [2, 5]
    assert counts.items == 20
    assert counts.failures == 0
    assert reports[-1] == 20
    assert reports == sorted(reports)
