"""Which test images the demo explains, and the classes that it turns them into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce import datasets


@dataclass(frozen=True)
class Pairs:
    """Test images and the classes to turn them into: all mistakes first.

    Args:
        index (Tensor): Which test image, N.
        labels (Tensor): Its true class, N.
        target (Tensor): The class to turn it into, N.
        num_mistakes (int): How many of the N are mistakes.
        description (str): What was chosen.
    """

    index: Tensor
    labels: Tensor
    target: Tensor
    num_mistakes: int
    description: str


def choose_pairs(
    prediction: Tensor, test: datasets.ImageData, most_mistakes: int | None, num_right: int
) -> Pairs:
    """Pair mistakes with their true class, and some right images with every other class.

    Args:
        prediction (Tensor): The classifier's, one per test image.
        test (ImageData): The test images.
        most_mistakes (int or None): The first mistakes are taken, at most this many; None: all.
        num_right (int): How many right images are taken: the first ones that differ in class.

    Returns:
        Pairs: Mistakes, then each right image with all of its targets.
    """
    classes = torch.arange(len(test.class_names))
    mistakes = (prediction != test.target).nonzero().flatten()
    right = [((prediction == test.target) & (test.target == c)).nonzero()[:1] for c in classes]
    chosen_right = torch.cat(right).flatten().sort().values[:num_right]
    chosen = mistakes[:most_mistakes]
    index = torch.cat([chosen, chosen_right.repeat_interleave(len(classes) - 1)])
    others = [classes[classes != label] for label in test.target[chosen_right]]
    if not len(mistakes):
        found = f"None of the {len(test):,} test images is misclassified."
    else:
        which = {0: "none", len(mistakes): "all"}.get(len(chosen), f"the first {len(chosen)}")
        found = (
            f"{len(mistakes)} of {len(test):,} test images are misclassified; {which} of them "
            f"{'is' if len(chosen) == 1 < len(mistakes) else 'are'} turned into their true class."
        )
    return Pairs(
        index=index,
        labels=test.target[index],
        target=torch.cat([test.target[chosen], *others]),
        num_mistakes=len(chosen),
        description=f"{found}\nRight ones turned into every other class: {len(chosen_right)}.",
    )
