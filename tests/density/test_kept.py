from __future__ import annotations

import torch

from captum_deduce.density import kept
from captum_deduce.density.kept import KeptSamples
from captum_deduce.density.samples import Samples


def batches(weighted: bool = False) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    return [
        Samples(
            torch.rand(count, 5, generator=generator),
            torch.arange(count) % 3,
            torch.rand(count, generator=generator) if weighted else None,
        )
        for count in (4, 1, 6)
    ]


def test_samples_come_back_in_blocks(monkeypatch):
    monkeypatch.setattr(kept, "_BLOCK", 25)
    parts = batches()
    table = KeptSamples(10_000)
    for part in parts:
        table.add(part)
    found = list(table.blocks())
    assert [len(part.features) for part in found] == [5, 6]
    for name in ("features", "target"):
        joined, expected = (torch.cat([getattr(s, name) for s in each]) for each in (found, parts))
        assert torch.equal(joined, expected)


def test_weights_are_kept_too():
    table = KeptSamples(10_000)
    parts = [*batches(), *batches(weighted=True)]
    for part in parts:
        table.add(part)
    plain, weighted = table.blocks()
    assert plain.sample_weight is None
    assert weighted.sample_weight is not None
    assert torch.equal(weighted.sample_weight, torch.cat([s.sample_weight for s in parts[3:]]))


def test_what_takes_more_than_the_budget_is_dropped():
    size = sum(part.features.nbytes + part.target.nbytes for part in batches())
    for budget in (size, size - 1, 0):
        table = KeptSamples(budget)
        for part in batches():
            table.add(part)
        assert table.complete == (budget == size)
        assert bool(list(table.blocks())) == table.complete


def test_soft_labels_are_not_kept():
    table = KeptSamples(10_000)
    table.add(Samples(torch.rand(2, 5), torch.rand(2, 3), None))
    assert not table.complete
