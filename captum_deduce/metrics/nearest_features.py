r"""How far a counterfactual's features are from those of the nearest training image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.features import as_extractor
from captum_deduce.prototypes import PrototypeIndex, nearest_rows


class NearestFeatureDistance:
    r"""Distance to the nearest training image, between features (NN-Dist).

    .. math::
        \min_{i} \|f(x') - f(x_i)\|_2

    over all training images :math:`x_i`, or over those of the target's class alone. From 0; lower
    is better: the counterfactual lies where there are training images. It is in the features' own
    units, so compare only values of the same extractor and the same training images. To learn what
    a low value is, call :meth:`distance` with held-out real images. Values below theirs mean that a
    method returns training images, or copies them.

    Among the images of all classes, one that has hardly changed is near its own class: its value is
    low, though it is not like the target. ``same_class=True`` avoids that.

    Source: Kenny and Keane, *On Generating Plausible Counterfactual and Semi-Factual Explanations
    for Deep Learning* (2021), where it is taken in the explained classifier's last features.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair,
    which does not depend on the other pairs.

    Args:
        extractor (FeatureExtractor, Callable or nn.Module): From images to features.
        training (PrototypeIndex): Features of the training images by the same extractor, with
            their labels (``PrototypeIndex(*extractor.from_loader(loader))``), or with the classes
            that the model predicts (:meth:`PrototypeIndex.from_loader
            <captum_deduce.PrototypeIndex.from_loader>`). Its ``chunk_size`` bounds the memory of
            the search.
        same_class (bool, optional): Look among the images of the target's class only.
            Default: False

    Raises:
        TypeError: An argument of another kind.

    Examples::

        >>> from captum_deduce.metrics import FeatureExtractor
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
        >>> extractor = FeatureExtractor(model)
        >>> images, labels = torch.rand(50, 1, 8, 8), torch.arange(50) % 10
        >>> training = PrototypeIndex(*extractor.from_loader([(images[:40], labels[:40])]))
        >>> metric = NearestFeatureDistance(extractor, training)
        >>> metric.distance(images[:3])
        tensor([0., 0., 0.])
        >>> (metric.distance(images[40:]) > 0).all()
        tensor(True)
    """

    def __init__(
        self,
        extractor: Callable[[Tensor], Tensor],
        training: PrototypeIndex,
        *,
        same_class: bool = False,
    ) -> None:
        if not isinstance(training, PrototypeIndex):
            raise TypeError(f"training must be a PrototypeIndex, got {type(training).__name__}")
        checks.flag("same_class", same_class)
        self.extractor = as_extractor(extractor)
        self.training = training
        self.same_class = same_class

    def distance(self, images: Tensor, target: object = None) -> Tensor:
        """Find how far the nearest training image is.

        Args:
            images (Tensor): N x ...: counterfactuals, or real images that the index does not hold.
            target (int, list or Tensor, optional): Their classes, N or one for all; only looked at
                with ``same_class``. Default: None

        Returns:
            Tensor: N distances, of the index's dtype and on its device.

        Raises:
            TypeError: Images or classes of the wrong kind, or no ``target`` where it is needed.
            ValueError: Images that are not finite, features of another number than the index has,
                or a target of which it has no image.
        """
        checks.images(images)
        classes = self._classes(images, target)
        features = self.extractor(images).to(self.training.features)
        if features.shape[1] != self.training.num_features:
            raise ValueError(
                "extractor must give as many features as training has, D = "
                f"{self.training.num_features}, got {features.shape[1]}"
            )
        found = features.new_empty(len(features))
        for index in sorted(set(classes.tolist())):
            rows = (classes == index).nonzero().flatten().to(features.device)
            for part in rows.split(self.extractor.batch_size):
                found[part] = self._nearest(features[part], index)
        return found

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N distances, as of :meth:`distance`.
        """
        return self.distance(result.counterfactuals, result.target)

    def _classes(self, images: Tensor, target: object) -> Tensor:
        """The class to look in for each image; 0 for all where all classes will do."""
        if not self.same_class:
            return torch.zeros(len(images), dtype=torch.int64)
        if target is None:
            raise TypeError("target must be given with same_class=True, got None")
        classes = checks.targets(target, len(images), self.training.num_classes)
        self.training.require(1, classes.tolist())
        return classes

    def _nearest(self, features: Tensor, index: int) -> Tensor:
        if self.same_class:
            return self.training.nearest(features, index)[0][:, 0]
        everything = self.training.features
        return nearest_rows(features, everything, 1, self.training.chunk_size)[0][:, 0]
