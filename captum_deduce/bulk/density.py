"""A density fitted to a whole data set by many processes or machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, progress
from captum_deduce.bulk.ray_engine import RaySettings, mapped, plain_copy, received
from captum_deduce.bulk.source import Source
from captum_deduce.classifiers import FrozenModel, device_of, find_layer, modules_of
from captum_deduce.density import ClassGaussianMixture


@dataclass(frozen=True)
class _Fit:
    """What a worker has to know.

    Args:
        model (nn.Module or Callable): The classifier.
        layer (nn.Module or str): Of its features.
        source (Source): The data set.
        batch_size (int): Images that the model sees at once.
        arguments (dict[str, Any]): Of the density; None: features are wanted, not a density.
    """

    model: Callable[..., Any]
    layer: nn.Module | str
    source: Source
    batch_size: int
    arguments: dict[str, Any] | None


def fit_density(
    model: Callable[..., Any],
    layer: nn.Module | str,
    dataset: Any,
    *,
    transform: Callable[[Any], Any] | None = None,
    quantiles: bool = True,
    batch_size: int = 256,
    images_per_task: int = 4096,
    workers: int = 2,
    cpus: float = 1.0,
    gpus: float = 0.0,
    show_progress: bool | None = None,
    **constructor_arguments: Any,
) -> ClassGaussianMixture:
    """Fit a density on Ray's workers: each to its images, then merged.

    The moments of a merged density are those of one fit to all images, but for rounding
    (:meth:`~captum_deduce.ClassGaussianMixture.merge`). Quantiles need the final parameters: the
    workers then compute all features once more, and this process their log-densities.

    Args:
        model (nn.Module or Callable): As for
            :meth:`~captum_deduce.ClassGaussianMixture.fit_loader`; it has to be picklable, or
            spectrally normalised by this package.
        layer (nn.Module or str): Likewise.
        dataset (Any): Map-style, with labels, see :func:`explain_dataset`.
        transform (Callable, optional): Applied to each image. Default: None
        quantiles (bool, optional): Whether to find log-densities, too. Default: True
        batch_size (int, optional): Images that the model sees at once. Default: 256
        images_per_task (int, optional): What a lost worker loses. Default: 4096
        workers (int, optional): See :class:`RaySettings`. Default: 2
        cpus (float, optional): Likewise. Default: 1.0
        gpus (float, optional): Likewise. Default: 0.0
        show_progress (bool, optional): Draw a bar over the images.
            Default: None (after two seconds, in a terminal or a notebook)
        **constructor_arguments (Any): Of :class:`~captum_deduce.ClassGaussianMixture`. With
            ``"low_rank"``, and with ``"auto"`` where it becomes that, densities of very many images
            fix directions of their own and can't be merged.

    Returns:
        ClassGaussianMixture: On the CPU.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: An image that can't be read or has no label, data that can't be read by
            position, or what :meth:`~captum_deduce.ClassGaussianMixture.fit` refuses.
        ImportError: Ray is not installed.
    """
    for name, value in (("batch_size", batch_size), ("images_per_task", images_per_task)):
        checks.number(name, value, minimum=1, integer=True)
    checks.flag("quantiles", quantiles)
    settings = RaySettings(workers, cpus, gpus, shards_per_task=1)
    source = Source(dataset, transform)
    if not source.indexed or not source.length:
        raise ValueError(
            f"dataset must be map-style and hold images, got {type(dataset).__name__} of "
            f"{source.length} images"
        )
    density = ClassGaussianMixture(**constructor_arguments)
    # Together, so that the copy's layer is one of the copy's model.
    if not isinstance(layer, str):
        find_layer(model, layer)
    model, layer = plain_copy((model, layer), lambda pair: modules_of(pair[0]))
    fit = _Fit(model, layer, source, batch_size, constructor_arguments)
    length = source.length
    tasks = [
        {"first": first, "stop": min(first + images_per_task, length)}
        for first in range(0, length, images_per_task)
    ]
    passes = 2 if quantiles else 1
    with progress.bar(
        total=passes * length, desc="density", unit="image", show_progress=show_progress
    ) as bar:
        for row in mapped(_FitWorker, fit, tasks, settings):
            density.merge(row["density"])
            bar.update(row["images"])
        if quantiles:
            for row in mapped(_FitWorker, replace(fit, arguments=None), tasks, settings):
                density.update_quantiles(
                    torch.from_numpy(row["features"].copy()), torch.from_numpy(row["labels"].copy())
                )
                bar.update(row["images"])
    return density


class _FitWorker:
    """An actor that fits, or computes features.

    Args:
        known (ray.ObjectRef): Of the :class:`_Fit` and the :class:`RaySettings`.
    """

    def __init__(self, known: Any) -> None:
        fit: _Fit
        fit, settings = received(known)
        self.fit = fit
        if settings.gpus:
            for module in modules_of(fit.model):
                module.to("cuda")

    def __call__(self, tasks: dict[str, Any]) -> dict[str, Any]:
        """Work through the images of one task.

        Args:
            tasks (dict[str, Any]): ``first`` and ``stop`` of its images.

        Returns:
            dict[str, list]: One row: a density, or features and labels.
        """
        ((first, stop),) = zip(tasks["first"].tolist(), tasks["stop"].tolist(), strict=True)
        features, labels, num_classes = self._features(range(first, stop))
        if self.fit.arguments is None:
            return {
                "images": [stop - first],
                "features": [features.numpy()],
                "labels": [labels.numpy()],
            }
        arguments = {"num_classes": num_classes, **self.fit.arguments}
        density = ClassGaussianMixture(**arguments).partial_fit(features, labels)
        return {"images": [stop - first], "density": [density]}

    def _features(self, span: range) -> tuple[Tensor, Tensor, int]:
        features, labels, num_classes = [], [], 0
        with torch.no_grad(), FrozenModel(self.fit.model, self.fit.layer) as frozen:
            device = device_of(frozen.modules)
            for images, own in _labelled(self.fit.source, span, self.fit.batch_size):
                scores, found = frozen(images.to(device))
                num_classes = scores.shape[1]
                features.append(found.cpu())
                labels.append(own)
        return torch.cat(features), torch.cat(labels), num_classes


def _labelled(source: Source, span: range, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    images: list[Tensor] = []
    labels: list[int] = []
    for item in source.items([span]):
        if item.image is None or item.label is None:
            raise ValueError(f"image {item.index} of dataset: {item.error or 'it has no label'}")
        images.append(item.image)
        labels.append(item.label)
        if len(images) == size or item.index + 1 == span.stop:
            yield torch.stack(images), torch.tensor(labels)
            images, labels = [], []
