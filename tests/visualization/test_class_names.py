from __future__ import annotations

import json
from types import MappingProxyType

import numpy as np
import pytest
import torch

from captum_deduce.visualization import (
    plot_counterfactuals,
    plot_grid,
    plot_trajectory,
    save_animation,
)
from captum_deduce.visualization.class_names import (
    changes_in_words,
    classes_seen,
    read_class_names,
)
from tests.visualization.samples import make_result, texts


def test_names_are_read_from_any_sequence_of_strings():
    assert read_class_names(None, 3) == ["0", "1", "2"]
    assert read_class_names(("cat", "dog"), 2) == ["cat", "dog"]
    assert read_class_names(np.array(["cat", "dog", "frog"]), 2) == ["cat", "dog", "frog"]
    assert read_class_names(["polar\n bear "], 1) == ["polar bear"]


def test_a_mapping_is_read_by_its_indices_whatever_their_order():
    names = {2: "dog", 0: "cat", 1: "horse"}
    assert read_class_names(names, 3) == ["cat", "horse", "dog"]
    assert read_class_names(MappingProxyType(names), 2) == ["cat", "horse"]
    as_json = json.loads(json.dumps(names))
    assert list(as_json) == ["2", "0", "1"]
    assert read_class_names(as_json, 3) == ["cat", "horse", "dog"]
    by_numpy = dict(zip(np.arange(2), ["a", "b"], strict=True))
    assert read_class_names(by_numpy, 2) == ["a", "b"]
    assert read_class_names({10**9: "k", 3: "d"}, 4) == ["0", "1", "2", "d"]
    assert read_class_names({"1": "seven\n up"}, 3) == ["0", "seven up", "2"]
    assert read_class_names({}, 2) == ["0", "1"]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["cat"], ValueError, "at least 3 .*class 2 .*1 names"),
        ([], ValueError, "0 names"),
        ("cat", TypeError, "sequence of strings.*'cat'"),
        ([0, 1, 2], TypeError, "sequence of strings"),
        (3, TypeError, "sequence of strings.*got 3"),
        ({"cat", "dog", "cow"}, TypeError, "an order.*got a set"),
        (frozenset({"cat", "dog", "cow"}), TypeError, "an order.*got a frozenset"),
        ({"cat": 0, "dog": 1, "cow": 2}.keys(), TypeError, "an order.*dict_keys"),
        ({"dog": 2, "cat": 0, "cow": 1}, TypeError, "indices to strings.*{index: name for name"),
        ({0: 0, 1: 1, 2: 2}, TypeError, "indices to strings"),
        ({"cat": "cat", "dog": "dog"}, ValueError, "class indices.*key 'cat'"),
        ({"LABEL_0": "cat"}, ValueError, "class indices.*key 'LABEL_0'"),
        ({-1: "cat"}, ValueError, "class indices.*key -1"),
        ({0.0: "cat"}, ValueError, "class indices.*key 0.0"),
        ({"01": "cat"}, ValueError, "class indices.*key '01'"),
        ({True: "cat"}, ValueError, "class indices.*key True"),
        ({0: "cat", "0": "dog"}, ValueError, "a class once"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, error, words):
    with pytest.raises(error, match=f"class_names .*{words}"):
        read_class_names(names, 3)


def names_drawn(draw):
    """What a picture of the pair 1 -> 2 says with names for these."""
    figure = draw({2: "dog", 0: "cat", "1": "horse"})
    said = " ".join(text.get_text() for text in texts(figure))
    with pytest.raises(TypeError, match="class_names"):
        draw({"dog": 2, "cat": 0, "horse": 1})
    with pytest.raises(TypeError, match="class_names"):
        draw({"dog", "cat", "horse"})
    return [name for name in ("cat", "horse", "dog") if name in said]


def test_every_picture_reads_names_by_index(tmp_path):
    images = torch.zeros(1, 1, 4, 4)
    changed = images + torch.eye(4)
    path = torch.cat([images, changed])
    result = make_result(images, changed, target=[2], prediction=[1], trajectory=[path])
    pictures = [
        lambda names: result.plot(class_names=names),
        lambda names: plot_counterfactuals(result, class_names=names),
        lambda names: plot_grid({"JSMA": result}, class_names=names),
        lambda names: plot_trajectory(result, class_names=names),
    ]
    for draw in pictures:
        assert names_drawn(draw) == ["horse", "dog"]
    with pytest.raises(TypeError, match="class_names"):
        save_animation(result, 0, tmp_path / "a.gif", class_names={"dog", "cat", "horse"})


def test_changes_are_counted_in_entries_and_of_colours_in_places():
    grey = torch.zeros(3, 1, 40, 40)
    changed = grey.clone()
    changed[1, 0, 0, 0] = changed[2, 0, :30] = 1.0
    assert changes_in_words(grey != changed) == [
        "0 entries changed",
        "1 entry changed",
        "1,200 entries changed",
    ]
    assert changes_in_words(grey != changed, brief=True)[2] == "1,200 changed"
    colours = torch.zeros(3, 3, 40, 40)
    changed = colours.clone()
    changed[1, 2, 0, 0] = changed[2, :, :30] = 1.0
    assert changes_in_words(colours != changed) == [
        "0 entries in 0 places",
        "1 entry in 1 place",
        "3,600 entries in 1,200 places",
    ]
    assert changes_in_words(colours != changed, brief=True)[2] == "3,600 in 1,200 places"


def test_the_largest_class_is_found():
    assert classes_seen(torch.tensor([1, 0]), None, torch.tensor([4])) == 5
    assert classes_seen(torch.tensor([], dtype=torch.int64), None) == 0
