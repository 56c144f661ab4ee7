from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from captum_deduce.bulk.schema import Layout
from captum_deduce.bulk.shards import ShardMaker
from captum_deduce.bulk.source import Item
from captum_deduce.bulk.targets import Plan
from captum_deduce.search import Problem
from tests.bulk.test_manifest import work

pytest.importorskip("pyarrow")


def items_of(small, count):
    for index in range(count):
        yield Item(index, small.images[index], int(small.labels[index]))


def make(small, items, plan, size=10, batch=8):
    """Shards in the order in which they were written."""
    tables = {}
    with replace(work(small), internal_batch_size=batch).stream() as stream:
        maker = ShardMaker(stream, plan, Layout((1, 8, 8), torch.float64), size, tables.setdefault)
        maker.make(items)
    return tables, maker.counts


def test_the_batch_stays_full_across_shards(small, monkeypatch):
    sizes = []
    forward = Problem.forward

    def noted(self, images, state):
        sizes.append(len(images))
        return forward(self, images, state)

    monkeypatch.setattr(Problem, "forward", noted)
    tables, counts = make(small, items_of(small, 60), Plan("runner-up", "all"))
    assert len(tables) == 6
    assert counts.pairs == sum(table.num_rows for table in tables.values()) == 60
    short = next(place for place, size in enumerate(sizes) if size < 8)
    assert sizes[:short] == [8] * short
    # What is left of the last eight pairs, of which the slowest may take all its steps.
    assert len(sizes) - short <= 61
    assert sum(sizes[:short]) > 0.8 * sum(sizes)


def test_a_shard_is_written_before_the_data_set_is_gone_through(small):
    """Else a run that dies would lose all."""
    written_at = []

    def noted():
        for item in items_of(small, 100):
            written_at.append(len(written))
            yield item

    written = []
    with work(small).stream() as stream:
        layout = Layout((1, 8, 8), torch.float64)
        maker = ShardMaker(
            stream, Plan("label", "errors"), layout, 10, lambda *shard: written.append(shard)
        )
        maker.make(noted())
    assert len(written) == 10
    # Also where no image is explained: there are mistakes in few of these shards.
    assert written_at[60] >= 3
    assert written_at[99] >= 7


def test_a_shard_without_pairs_is_written_too(small):
    nothing = Plan("label", lambda images, labels, scores: labels < 0)
    tables, counts = make(small, items_of(small, 25), nothing)
    assert list(tables) == [0, 1, 2]
    assert [table.num_rows for table in tables.values()] == [0, 0, 0]
    assert (counts.items, counts.pairs) == (25, 0)


def test_images_count_once_their_last_pair_is_back(small):
    reported = []
    with work(small).stream() as stream:
        maker = ShardMaker(
            stream,
            Plan("all", "all"),
            Layout((1, 8, 8), torch.float64),
            10,
            lambda *shard: None,
            lambda counts: reported.append((counts.items, counts.pairs)),
        )
        maker.make(items_of(small, 12))
    assert reported[-1] == (12, 108)
    assert all(9 * items <= pairs for items, pairs in reported)
    assert reported == sorted(reported)


def test_warnings_of_a_search_are_given_once(small):
    """Not with every shard: there may be a million."""
    import warnings

    explainer = type(small.explainer)(
        small.explainer.forward_func,
        "2",
        small.explainer.density,
        classification_weight=0.0,
        max_iterations=3,
    )
    own = replace(work(small), explainer=explainer)
    with warnings.catch_warnings(record=True) as caught, own.stream() as stream:
        warnings.simplefilter("always")
        maker = ShardMaker(
            stream,
            Plan("runner-up", "all"),
            Layout((1, 8, 8), torch.float64),
            5,
            lambda *shard: None,
        )
        maker.make(items_of(small, 40))
    assert len([w for w in caught if "pairs failed" in str(w.message)]) == 1
