from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.explorer.collection import CHEAPEST, UNSURE, Collection, collect


@pytest.fixture
def five() -> Collection:
    return Collection(
        images=torch.zeros(5, 1, 2, 2),
        class_names=("cat", "dog", "fox"),
        prediction=torch.tensor([0, 1, 2, 0, 1]),
        runner_up=torch.tensor([1, 2, 0, 2, 0]),
        confidence=torch.tensor([0.9, 0.5, 0.8, 0.5, 0.7]),
        labels=torch.tensor([0, 0, 2, 1, 0]),
    )


def test_the_classifier_is_asked_in_eval_mode_and_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 4)).train()
    images = torch.rand(300, 3, 2, 2)
    found = collect(model, images, class_names=["a", "b", "c", "d"])
    logits = images.flatten(1) @ model[2].weight.T + model[2].bias
    order = logits.argsort(1, descending=True)
    assert torch.equal(found.prediction, order[:, 0])
    assert torch.equal(found.runner_up, order[:, 1])
    powers = logits.detach().double().exp()
    torch.testing.assert_close(found.confidence, powers.max(1).values / powers.sum(1))
    assert model.training
    assert model[1].training
    assert found.shape == (3, 2, 2)


def test_mistakes_right_answers_and_classes_are_selected(five):
    assert five.select("Mistakes") == [1, 3, 4]
    assert five.select("Right") == [0, 2]
    assert five.select("Mistakes", label=0, prediction=1) == [1, 4]
    assert five.select("All", prediction=0) == [0, 3]


def test_orders_rank_what_is_not_known_last_and_the_least_sure_of_it_first(five):
    costs = torch.tensor([torch.nan, torch.inf, torch.nan, 1.0, 2.0])
    assert five.select("All", order=CHEAPEST, costs=costs) == [3, 4, 1, 2, 0]
    assert five.select("All", order=CHEAPEST) == [1, 3, 4, 2, 0]
    assert five.select("All", order=UNSURE) == [1, 3, 4, 2, 0]


def test_a_mistake_is_turned_into_its_label_and_a_right_answer_into_the_runner_up(five):
    assert five.default_target(3) == 1
    assert five.default_target(2) == 0


def test_captions_say_what_is_seen_only_where_it_is_wrong(five):
    assert [five.caption(row) for row in (0, 1)] == ["cat", "cat seen as dog"]
    assert five.caption(1, short=True) == "cat as dog"


def test_without_labels_there_are_no_mistakes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    found = collect(model, torch.rand(2, 1, 2, 2))
    assert found.shown == ("All",)
    assert found.default_target(0) == int(found.runner_up[0])
    with pytest.raises(ValueError, match="shown must be"):
        found.select("Mistakes")
    with pytest.raises(ValueError, match="label must be None"):
        found.select(label=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.rand(2, 2, 4, 4)}, "1 channel or 3"),
        ({"images": torch.rand(2, 16)}, "channels x height x width"),
        ({"labels": [0, 7]}, "labels"),
        ({"labels": [0, 1, 1]}, "labels must be"),
        ({"class_names": ["a"]}, "class_names must name every class"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match=message):
        collect(model, **{"images": torch.rand(2, 1, 4, 4), **arguments})
