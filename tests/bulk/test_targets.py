from __future__ import annotations

import pytest
import torch

from captum_deduce.bulk.schema import Failure
from captum_deduce.bulk.source import Item
from captum_deduce.bulk.targets import Plan

SCORES = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 5.0, 4.0], [1.0, 9.0, 2.0, 3.0]])
ITEMS = [Item(i, torch.full((1, 2, 2), float(i)), label) for i, label in enumerate([0, 1, 3])]
ALL = [True] * 4


def choose(targets, only, items=ITEMS, targetable=ALL):
    return Plan(targets, only).choose(items, SCORES, lambda: targetable)


@pytest.mark.parametrize(
    ("targets", "only", "expected"),
    [
        ("label", "errors", [[], [1], [3]]),
        ("label", "all", [[0], [1], [3]]),
        ("runner-up", "errors", [[], [3], [3]]),
        ("runner-up", "all", [[1], [3], [3]]),
        ("all", "errors", [[], [0, 1, 3], [0, 2, 3]]),
        ("all", "all", [[1, 2, 3], [0, 1, 3], [0, 2, 3]]),
    ],
)
def test_words(targets, only, expected):
    assert choose(targets, only) == expected


def test_classes_that_cant_be_targets_are_passed_over():
    assert choose("runner-up", "all", targetable=[True, True, True, False]) == [[1], [1], [2]]
    assert choose("all", "all", targetable=[False, True, False, False]) == [[1], [1], []]
    # What was asked for by name is not: the reason is told later.
    assert choose("label", "errors", targetable=[True, False, True, True]) == [[], [1], [3]]


def test_functions_see_the_images_that_were_chosen():
    seen = []

    def targets(images, labels, scores):
        seen.append((images[:, 0, 0, 0].tolist(), labels.tolist(), scores.tolist()))
        return [[2, 2, 0], []]

    assert choose(targets, lambda i, l, s: l > 0) == [[], [2, 0], []]  # noqa: E741
    assert seen == [([1.0, 2.0], [1, 3], SCORES[1:].tolist())]
    assert choose(lambda i, l, s: l * 0 + 2, "all") == [[2], [2], [2]]  # noqa: E741


@pytest.mark.parametrize(
    ("targets", "only", "error", "reason"),
    [
        (lambda i, l, s: 3, "all", ValueError, "targets must return a class"),  # noqa: E741
        (lambda i, l, s: [1], "all", ValueError, "for each of 3 images"),  # noqa: E741
        (lambda i, l, s: [1.0, 1, 1], "all", TypeError, "integers"),  # noqa: E741
        ("all", lambda i, l, s: [1, 0, 1], ValueError, "only must return a bool"),  # noqa: E741
        ("all", lambda i, l, s: s > 0, ValueError, "only must return a bool"),  # noqa: E741
    ],
)
def test_functions_that_return_something_else_are_named(targets, only, error, reason):
    with pytest.raises(error, match=reason):
        choose(targets, only)


def test_an_image_without_a_label_is_a_failure_only_where_that_matters():
    items = [Item(7, ITEMS[0].image, None), *ITEMS[1:]]
    failure = Failure(7, "ValueError: it has no label", prediction=0)
    assert choose("label", "all", items) == [failure, [1], [3]]
    assert choose("all", "errors", items)[0] == failure
    assert choose("runner-up", "all", items) == [[1], [3], [3]]


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="targets must be one of"):
        Plan("labels", "all")
    with pytest.raises(ValueError, match="only must be one of"):
        Plan("label", "mistakes")
