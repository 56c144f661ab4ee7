"""Which pairs are taken, and what the sizes promise."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from captum_deduce.datasets import ImageData
from captum_deduce.experiments.paper import TABLE3_PAIRS
from captum_deduce.experiments.plan import (
    DEFAULT,
    FULL,
    SIZES,
    SMOKE,
    Descent,
    drawn_at_random,
    every_target,
    first_of_their_classes,
)


@pytest.fixture
def data() -> ImageData:
    """Twelve images of three classes; each is filled with its own number."""
    images = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 2, 2) / 12
    return ImageData(images, torch.tensor([2, 0, 1] * 4), ("a", "b", "c"))


def numbers(cases):
    return (cases.inputs[:, 0, 0, 0] * 12).round().int().tolist()


def test_the_full_size_is_the_papers():
    assert (FULL.sets, FULL.images, FULL.classifier.width, FULL.classifier.epochs) == (
        5,
        100,
        64,
        50,
    )
    assert FULL.revise == Descent("sgd", 1e-5, 50_000)
    assert [one.learning_rate for one in FULL.revise_grid] == [1e-3, 1e-4, 1e-5]
    assert FULL.anogan.optimizer == "sgd"
    assert FULL.anogan.pairs is None
    assert "reduced" not in FULL.revise.label


def test_smaller_sizes_say_that_they_are_reduced():
    assert (DEFAULT.sets, DEFAULT.images, DEFAULT.classifier.width) == (1, 10, 16)
    assert DEFAULT.anogan.pairs == 40
    for size in (SMOKE, DEFAULT):
        for descent in (size.revise, *size.revise_grid):
            assert descent.max_iterations <= 2000
            assert descent.label.startswith("reduced: Adam")
    assert SMOKE.dataset == "digits"


def test_oracles_are_trained_from_other_seeds_than_the_explained_classifiers():
    for size in SIZES.values():
        seeds = [*size.oracle.seeds, *size.vgg_oracle.seeds]
        assert len(size.oracle.seeds) == len(size.vgg_oracle.seeds) == 2
        assert len({size.seed, *seeds}) == 5


def test_the_frontier_asks_for_ascending_confidences():
    for size in SIZES.values():
        assert list(size.confidences) == sorted(set(size.confidences))
        assert set(size.costly_confidences) <= set(size.confidences)
        assert min(size.costly_confidences) >= 0.5
        assert list(size.distances) == sorted(set(size.distances))
    assert (DEFAULT.frontier_images, len(DEFAULT.confidences)) == (30, 5)
    assert len(DEFAULT.costly_confidences) == 2


def test_given_numbers_override_and_the_rest_stays():
    changed = asdict(DEFAULT.overridden(images=3, width=4))
    assert (changed["images"], changed["classifier"]["width"]) == (3, 4)
    expected = asdict(DEFAULT) | {"images": 3, "frontier_images": 3}
    expected["classifier"] = expected["classifier"] | {"width": 4}
    assert changed == expected
    assert DEFAULT.overridden() == DEFAULT


def test_every_image_is_turned_into_every_other_class(data):
    cases = every_target(data, sets=2, images=3)
    expected = [
        (image, label, target, image // 3)
        for image, label in enumerate(data.target[:6].tolist())
        for target in range(3)
        if target != label
    ]
    found = zip(
        numbers(cases),
        cases.labels.tolist(),
        cases.target.tolist(),
        cases.sets.tolist(),
        strict=True,
    )
    assert list(found) == expected
    assert len(cases[torch.tensor([0, 5])]) == 2
    assert cases[torch.tensor([11])].sets.tolist() == [1]


def test_one_set_has_no_number(data):
    assert every_target(data, sets=1, images=4).sets is None


def test_more_images_than_there_are(data):
    with pytest.raises(ValueError, match=r"--images must be at most 6, .* 12 images, got 7"):
        every_target(data, sets=2, images=7)


def test_the_first_images_of_their_classes_each_taken_once(data):
    cases = first_of_their_classes(data, ((1, 0), (2, 1), (1, 2), (1, 0)))
    assert numbers(cases) == [2, 0, 5, 8]
    assert cases.labels.tolist() == [1, 2, 1, 1]
    assert cases.target.tolist() == [0, 1, 2, 0]


def test_the_pairs_of_the_papers_figure_3_on_mnists_first_labels():
    """Test labels 0 to 9 of MNIST, and the numbers that the published images belong to."""
    labels = torch.tensor([7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 2) / 12
    data = ImageData(images, labels, tuple("0123456789"))
    assert numbers(first_of_their_classes(data, TABLE3_PAIRS)) == [4, 3, 7, 1, 6, 8]


def test_random_pairs_differ_have_other_targets_and_come_again(data):
    cases = drawn_at_random(data, 10, seed=3)
    assert len(set(numbers(cases))) == 10
    assert (cases.labels != cases.target).all()
    np.testing.assert_array_equal(cases.labels, data.target[numbers(cases)])
    assert set(cases.target.tolist()) == {0, 1, 2}
    assert numbers(drawn_at_random(data, 10, seed=3)) == numbers(cases)
    assert numbers(drawn_at_random(data, 10, seed=4)) != numbers(cases)
