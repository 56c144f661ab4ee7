r"""Substitutability: can a classifier be trained on counterfactuals instead of real images?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.datasets import ImageData
from captum_deduce.metrics.features import as_extractor


@dataclass(frozen=True)
class Substitutability:
    """What :func:`substitutability` found.

    Args:
        ratio (float): ``accuracy`` over ``real_accuracy``, from 0; 1 where counterfactuals serve as
            well as real images.
        accuracy (float): Share of the test images that neighbours among the counterfactuals get
            right.
        real_accuracy (float): The same with neighbours among real images.
        used (int): Counterfactuals that were the training data.
        failed (int): Pairs left out as their search failed.
        already (int): Pairs left out as their original was at the goal as it is: a real image.
    """

    ratio: float
    accuracy: float
    real_accuracy: float
    used: int
    failed: int
    already: int


def substitutability(
    result: Counterfactuals,
    real: ImageData | tuple[Tensor, Tensor],
    test: ImageData | tuple[Tensor, Tensor],
    *,
    k: int = 1,
    extractor: Callable[[Tensor], Tensor] | None = None,
) -> Substitutability:
    r"""Train nearest-neighbour classifiers on counterfactuals and on real images, and compare them.

    The value is the accuracy, on real test images, of a k-nearest-neighbour classifier whose
    training data are the counterfactuals with their targets as labels, over that of one trained on
    real images. From 0; higher is better, and 1 says that the counterfactuals are as good examples
    of their classes as real images are.

    Sources: Samangouei et al., *ExplainGAN: Model Explanation via Decision Boundary Crossing
    Transformations* (2018); Kenny and Keane, *On Generating Plausible Counterfactual and
    Semi-Factual Explanations for Deep Learning* (2021).

    Limits: a few typical images of each class are enough for a high value, so it ignores variety
    and the distance from the originals. A class that is no counterfactual's target is never
    predicted. Accuracies rise with the number of images, so give about as many real images as there
    are counterfactuals, of the same classes. Pixels are good features for centred digits and little
    else; for photographs give an ``extractor``.

    Args:
        result (Counterfactuals): N pairs. Those that failed, and those whose original was at the
            goal as it is, are left out and counted.
        real (ImageData or tuple[Tensor, Tensor]): Real images and their classes, to train on, in
            the units of the result's.
        test (ImageData or tuple[Tensor, Tensor]): Real images and their classes that are neither
            in ``real`` nor originals of the result.
        k (int, optional): Neighbours, by Euclidean distance. Default: 1
        extractor (FeatureExtractor, Callable or nn.Module, optional): From images to the features
            between which distances are taken. Default: None (pixels)

    Returns:
        Substitutability: The ratio, both accuracies, and how many pairs were used and left out.

    Raises:
        TypeError: An argument of another kind.
        ValueError: No counterfactual, images of another shape, labels that do not fit, fewer
            training images than ``k``, or real images that get no test image right.

    Examples::

        >>> from captum_deduce import JSMA
        >>> from captum_deduce.datasets import load_digits
        >>> from captum_deduce.training import train_classifier
        >>> train, _, test = load_digits()
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> _ = train_classifier(model, train, epochs=3)
        >>> images, target = train.images[:50], (train.target[:50] + 1) % 10
        >>> result = JSMA(model).generate(images, target)
        >>> real = train.images[50:100], train.target[50:100]
        >>> found = substitutability(result, real, test)
        >>> found.accuracy < found.real_accuracy, found.used + found.failed + found.already
        (True, 50)
    """
    checks.number("k", k, minimum=1, integer=True)
    if not isinstance(result, Counterfactuals):
        raise TypeError(f"result must be Counterfactuals, got {type(result).__name__}")
    already = result.already.cpu()
    found = result.success.cpu() & ~already
    made = result[found]
    if len(made) == 0:
        raise ValueError(f"result must hold a counterfactual, got none in {len(result)} pair(s)")
    real_images, real_labels = _labelled("real", real, made.inputs)
    test_images, test_labels = _labelled("test", test, made.inputs)
    for name, count in (("counterfactuals", len(made)), ("real images", len(real_images))):
        if k > count:
            raise ValueError(f"k must be at most the number of {name}, {count}, got {k}")
    rows = _flat if extractor is None else as_extractor(extractor)
    asked = rows(test_images)
    real_accuracy = _accuracy(rows(real_images), real_labels, asked, test_labels, k)
    if real_accuracy == 0:
        raise ValueError("real must get some test image right to be compared with, got none")
    accuracy = _accuracy(rows(made.counterfactuals), made.target, asked, test_labels, k)
    failed = int((~result.success).sum())
    return Substitutability(
        accuracy / real_accuracy, accuracy, real_accuracy, len(made), failed, int(already.sum())
    )


def _flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def _labelled(
    name: str, data: ImageData | tuple[Tensor, Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    pair = (data.images, data.target) if isinstance(data, ImageData) else data
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            f"{name} must be ImageData or a tuple of images and labels, got {type(data).__name__}"
        )
    images, labels = pair
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise TypeError(
            f"{name} must hold two tensors, images and labels, got {type(images).__name__} and "
            f"{type(labels).__name__}"
        )
    checks.images(images)
    if images.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"{name} must hold images of the result's shape {tuple(like.shape[1:])}, got "
            f"{tuple(images.shape[1:])}"
        )
    if len(labels) != len(images):
        raise ValueError(f"{name} must hold one label per image ({len(images)}), got {len(labels)}")
    most = torch.iinfo(torch.int64).max
    return images, checks.targets(labels, len(images), most, f"{name} labels")


def _accuracy(features: Tensor, labels: Tensor, asked: Tensor, expected: Tensor, k: int) -> float:
    # scikit-learn takes a while to import, and only this needs it.
    from sklearn.neighbors import KNeighborsClassifier

    known, asking = features.detach().cpu().numpy(), asked.detach().cpu().numpy()
    classifier = KNeighborsClassifier(n_neighbors=k).fit(known, labels.cpu().numpy())
    return float(classifier.score(asking, expected.cpu().numpy()))
