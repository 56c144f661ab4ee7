from __future__ import annotations

import torch

from captum_deduce import datasets
from captum_deduce.commands.pairs import choose_pairs


def test_pairs_are_chosen_in_the_order_of_the_test_images():
    test = datasets.ImageData(
        torch.zeros(7, 1, 8, 8), torch.tensor([2, 2, 0, 1, 0, 1, 2]), ("a", "b", "c")
    )
    prediction = torch.tensor([2, 2, 1, 2, 0, 0, 2])
    pairs = choose_pairs(prediction, test, None, 2)
    assert pairs.num_mistakes == 3
    assert pairs.index.tolist() == [2, 3, 5, 0, 0, 4, 4]
    assert pairs.target.tolist() == [0, 1, 1, 0, 1, 1, 2]
    assert pairs.labels.tolist() == [0, 1, 1, 2, 2, 0, 0]
    assert "3 of 7 test images are misclassified; all of them" in pairs.description

    few = choose_pairs(prediction, test, 2, 9)
    assert few.index.tolist() == [2, 3, 0, 0, 4, 4]
    assert "the first 2 of them" in few.description
    none_right = choose_pairs((test.target + 1) % 3, test, 0, 2)
    assert len(none_right.index) == 0
