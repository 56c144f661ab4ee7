"""Searches and scores are made once, and again as soon as anything differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, Counterfactuals
from captum_deduce.experiments.runs import Run, Store


@pytest.fixture
def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture
def pairs():
    source = torch.Generator().manual_seed(5)
    return torch.rand(5, 1, 8, 8, generator=source), torch.tensor([0, 1, 2, 0, 1])


def fields(run):
    return {name: value for name, value in run.tensors().items() if name != "seconds"}


def assert_same(first, second):
    assert fields(first).keys() == fields(second).keys()
    for name, value in fields(first).items():
        torch.testing.assert_close(value, fields(second)[name], rtol=0, atol=0)


def test_parts_give_what_one_call_gives(classifier, pairs, tmp_path):
    explainer = JSMA(classifier)
    store = Store(tmp_path / "runs", torch.device("cpu"), part=2)
    run = store.search("JSMA", explainer, *pairs)
    whole = explainer.generate(*pairs)
    assert isinstance(run.result, Counterfactuals)
    torch.testing.assert_close(run.result.counterfactuals, whole.counterfactuals)
    assert run.result.success.tolist() == whole.success.tolist()
    assert run.result.iterations.tolist() == whole.iterations.tolist()
    assert run.seconds.shape == (5,)
    assert run.seconds.dtype == torch.float64
    assert (run.seconds > 0).all()
    assert run.seconds[0] == run.seconds[1]
    assert (store.made, store.reused) == (3, 0)


def test_what_was_interrupted_goes_on(classifier, pairs, tmp_path, monkeypatch):
    explainer = JSMA(classifier)
    generate, calls = JSMA.generate, []

    def twice(self, inputs, *arguments, **settings):
        calls.append(len(inputs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, inputs, *arguments, **settings)

    monkeypatch.setattr(JSMA, "generate", twice)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path, torch.device("cpu"), part=2).search("JSMA", explainer, *pairs)
    again = Store(tmp_path, torch.device("cpu"), part=2)
    run = again.search("JSMA", explainer, *pairs)
    assert calls == [2, 2, 1, 1]
    assert (again.made, again.reused) == (1, 2)
    monkeypatch.undo()
    assert_same(
        run, Store(tmp_path / "new", torch.device("cpu"), part=2).search("J", explainer, *pairs)
    )


def test_any_name_makes_a_file(classifier, pairs, tmp_path):
    Store(tmp_path, torch.device("cpu")).search("mu = 1/5", JSMA(classifier), *pairs)
    assert [path.name[:7] for path in tmp_path.iterdir()] == ["mu-1-5-"]


def test_one_at_a_time(classifier, pairs, tmp_path):
    store = Store(tmp_path, torch.device("cpu"))
    run = store.search("JSMA", JSMA(classifier), *pairs, alone=True)
    assert store.made == 5
    assert len(set(run.seconds.tolist())) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda model, explainer, pairs: (JSMA(model, step_size=0.3), pairs),
        lambda model, explainer, pairs: (explainer, (pairs[0], pairs[1].roll(1))),
        lambda model, explainer, pairs: (explainer, (pairs[0].flip(0), pairs[1])),
        lambda model, explainer, pairs: (
            JSMA(nn.Sequential(nn.Flatten(), nn.Linear(64, 3))),
            pairs,
        ),
    ],
    ids=["setting", "targets", "inputs", "weights"],
)
def test_anything_that_differs_is_made_anew(classifier, pairs, tmp_path, change):
    explainer = JSMA(classifier)
    store = Store(tmp_path, torch.device("cpu"))
    store.search("JSMA", explainer, *pairs)
    store.search("JSMA", JSMA(classifier), *pairs)
    assert (store.made, store.reused) == (1, 1)
    other, others = change(classifier, explainer, pairs)
    store.search("JSMA", other, *others)
    assert (store.made, store.reused) == (2, 1)


def test_a_damaged_file_is_replaced(classifier, pairs, tmp_path, capsys):
    first = Store(tmp_path, torch.device("cpu")).search("JSMA", JSMA(classifier), *pairs)
    (path,) = tmp_path.glob("JSMA-*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    store = Store(tmp_path, torch.device("cpu"))
    assert_same(store.search("JSMA", JSMA(classifier), *pairs), first)
    assert store.made == 1
    assert "Made anew" in capsys.readouterr().out


class Brightness:
    def __init__(self, weight):
        self.weight = weight
        self.seen = []

    def score(self, images):
        return self.weight * images.flatten(1).sum(1)


def test_scores_are_kept(pairs, tmp_path):
    images = pairs[0]
    store = Store(tmp_path, torch.device("cpu"), part=2)
    expected = 2 * images.double().flatten(1).sum(1)
    for made in (3, 3):
        scores = store.scores("bright", Brightness(2.0).score, images)
        torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
        assert store.made == made
    store.scores("bright", Brightness(3.0).score, images)
    assert store.made == 6


def test_a_run_is_put_together_again(classifier, pairs):
    result = JSMA(classifier).generate(*pairs)
    run = Run(result, torch.arange(5, dtype=torch.float64))
    halves = [Run(result[rows], run.seconds[rows]) for rows in (slice(0, 2), slice(2, 5))]
    assert_same(Run.joined(halves), run)
    assert Run.joined(halves).seconds.tolist() == [0, 1, 2, 3, 4]
    assert_same(Run.of(run.tensors()), run)
