r"""Distances between images in the features of several layers, and how much results differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, layers_of, read_layers

EPSILON = 1e-10
"""Added to the lengths by which features are divided, so that features of zero stay so."""


class FeatureDistance:
    r"""Distance of two images in normalised features of several layers.

    With :math:`\hat y_l` the output of layer l in which the channels of every place were divided by
    their Euclidean norm, and weights :math:`w_l`,

    .. math::
        d(x, x_0) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} \sum_c
        w_{l c}\, \big(\hat y_{l c h w} - \hat y_{0\, l c h w}\big)^2 .

    From 0; with weights of 1 at most 4 for each layer, and 2 where features are not negative.
    Between original and counterfactual lower is nearer; between counterfactuals of the same pair
    (:func:`diversity`) higher is more diverse. It says how far apart two images are for this model,
    not whether either is real.

    The form is that of Zhang et al., *The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric* (2018). **It isn't LPIPS itself**: that has the features of certain networks
    (AlexNet, VGG, SqueezeNet trained on ImageNet), inputs scaled as they want them, and weights
    fitted to people's judgements. Nothing is downloaded here: features are your model's, and
    values of different models, layers or weights can't be compared. With such a network, and
    the weights of the published code, which multiply squares as here, it comes to the same number.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair,
    the distance from the original.

    Args:
        forward_func (Callable or nn.Module): The model that has the layers; it need be no
            classifier. It runs in eval mode and is left as it was found.
        layers (Sequence[nn.Module or str]): Those to read, by module or dotted name. Outputs are
            N x channels x ..., of any number of places; N x channels count as one place.
        weights (Sequence[float or Tensor], optional): For each layer a number or one per channel,
            not negative. Default: None (1)
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: An argument of another kind.
        ValueError: No layer, one that is not in the model, weights that do not fit or are negative,
            or a ``batch_size`` below 2.

    Examples::

        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> metric = FeatureDistance(model, [model[1], model[3]])
        >>> images = torch.rand(2, 1, 8, 8)
        >>> metric.distance(images, images)
        tensor([0., 0.])
        >>> (metric.distance(images, images.flip(0)) > 0).all()
        tensor(True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layers: Sequence[nn.Module | str],
        weights: Sequence[float | Tensor] | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        checks.number("batch_size", batch_size, minimum=2, integer=True)
        if isinstance(layers, str | nn.Module) or not isinstance(layers, Sequence):
            raise TypeError(f"layers must be a list of layers, got {type(layers).__name__}")
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        self.forward_func = checks.callable_model("forward_func", forward_func)
        self.layers = layers_of(forward_func, layers)
        self.weights = _weights(weights, len(layers))
        self.batch_size = batch_size

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """Compare images, row by row.

        Args:
            images (Tensor): N x ...
            others (Tensor): Of the same shape.

        Returns:
            Tensor: N distances, at least float32, on the images' device.

        Raises:
            TypeError: Images of another dtype, or a layer that outputs no tensor.
            ValueError: Images of different shapes or that are not finite, outputs that are not
                finite or hold no row per image, or weights of another number of channels.
        """
        checks.images(images)
        checks.images(others)
        if images.shape != others.shape:
            raise ValueError(
                f"images and others must have the same shape, got {tuple(images.shape)} and "
                f"{tuple(others.shape)}"
            )
        half = self.batch_size // 2
        halves = (torch.split(rows, half) for rows in (images, others.to(images)))
        batches = (torch.cat(pair) for pair in zip(*halves, strict=True))
        found = read_layers(self.forward_func, self.layers, batches, self._between_halves)
        return found.to(images.device)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Measure how far counterfactuals are from their originals.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N distances, as of :meth:`distance`.
        """
        return self.distance(result.inputs, result.counterfactuals)

    def _between_halves(self, outputs: list[Tensor]) -> Tensor:
        """Distances between the first B / 2 images of a batch and the rest."""
        distances = []
        for place, (output, weight) in enumerate(zip(outputs, self.weights, strict=True)):
            wide = output if output.dtype == torch.float64 else output.float()
            maps = wide.reshape(len(wide), wide.shape[1] if wide.dim() > 1 else 1, -1)
            if weight.dim() and len(weight) != maps.shape[1]:
                raise ValueError(
                    f"weights[{place}] must hold one number per channel of its layer "
                    f"({maps.shape[1]}), got {len(weight)}"
                )
            unit = maps / (maps.norm(dim=1, keepdim=True) + EPSILON)
            first, second = unit.chunk(2)
            squares = (first - second).square() * weight.to(unit).reshape(-1, 1)
            distances.append(squares.sum(1).mean(1))
        return torch.stack(distances).sum(0)


def diversity(
    results: Sequence[Counterfactuals], distance: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    r"""How much several counterfactuals of the same pair differ.

    .. math::
        \frac{2}{K (K - 1)} \sum_{i < j} d(x'_i, x'_j)

    over the K results in which a pair has ``success``. From 0, in the distance's units; higher is
    more diverse. It doesn't say that they are good: noise is diverse. Values of different K can be
    compared, those of different distances can't.

    Sources: Mothilal et al., *Explaining Machine Learning Classifiers through Diverse
    Counterfactual Explanations* (2020); Jeanneret et al., *Diffusion Models for Counterfactual
    Explanations* (2022), with LPIPS as the distance.

    Args:
        results (Sequence[Counterfactuals]): Two or more, of the same inputs and targets in the same
            order: of several seeds, settings or methods.
        distance (Callable): From two batches of n images to n distances, such as
            :meth:`FeatureDistance.distance` or :func:`~captum_deduce.metrics.l1`.

    Returns:
        Tensor: N values, of the distance's dtype (at least float32), on the images' device. NaN
        where fewer than two results have success: of them there is nothing to compare.

    Raises:
        TypeError: Something else than results, or a distance that can't be called or returns no
            tensor.
        ValueError: Fewer than two results, results of different pairs, or a distance that does not
            return one value a pair.

    Examples::

        >>> from captum_deduce import Wachter
        >>> from captum_deduce.metrics import l1
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> results = [Wachter(model, confidence=c).generate(images, 3) for c in (0.5, 0.7, 0.9)]
        >>> diversity(results, l1).shape
        torch.Size([4])
    """
    several = _same_pairs(results)
    if not callable(distance):
        raise TypeError(
            f"distance must be a function of two tensors, got {type(distance).__name__}"
        )
    device = several[0].inputs.device
    total = count = torch.zeros(len(several[0]), device=device)
    for place, one in enumerate(several):
        for other in several[place + 1 :]:
            rows = (one.success & other.success).to(device).nonzero().flatten()
            if len(rows) == 0:
                continue
            found = distance(one.counterfactuals[rows], other.counterfactuals[rows])
            if not isinstance(found, Tensor):
                raise TypeError(f"distance must return a tensor, got {type(found).__name__}")
            if found.shape != rows.shape:
                raise ValueError(
                    f"distance must return one value a pair ({len(rows)}), got shape "
                    f"{tuple(found.shape)}"
                )
            values = found.to(device, torch.promote_types(total.dtype, found.dtype))
            total = total.to(values.dtype).index_add(0, rows, values)
            count = count.index_add(0, rows, torch.ones_like(rows, dtype=count.dtype))
    return torch.where(count > 0, total / count, torch.nan)


def _same_pairs(results: Sequence[Counterfactuals]) -> list[Counterfactuals]:
    if not isinstance(results, Sequence):
        raise TypeError(f"results must be a list of results, got {type(results).__name__}")
    for result in results:
        if not isinstance(result, Counterfactuals):
            raise TypeError(f"results must hold Counterfactuals, got {type(result).__name__}")
    if len(results) < 2:
        raise ValueError(f"results must hold two results at least, got {len(results)}")
    first = results[0]
    for place, other in enumerate(results[1:], 1):
        same = torch.equal(first.inputs, other.inputs.to(first.inputs.device)) and torch.equal(
            first.target, other.target.to(first.target.device)
        )
        if not same:
            raise ValueError(
                f"results must be of the same inputs and targets in the same order, but those of "
                f"results[{place}] are not those of results[0]"
            )
    return [*results]


def _weights(weights: Sequence[float | Tensor] | None, count: int) -> list[Tensor]:
    """A tensor for each layer: one number, or a row of them."""
    if weights is None:
        return [torch.tensor(1.0, dtype=torch.float64)] * count
    if not isinstance(weights, Sequence):
        raise TypeError(
            f"weights must be a list with one item per layer, got {type(weights).__name__}"
        )
    if len(weights) != count:
        raise ValueError(f"weights must hold one item per layer ({count}), got {len(weights)}")
    read = []
    for place, weight in enumerate(weights):
        name = f"weights[{place}]"
        if not isinstance(weight, Tensor):
            checks.number(name, weight, minimum=0)
            weight = torch.tensor(float(weight), dtype=torch.float64)
        if not (torch.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError(f"{name} must be finite and not negative")
        read.append(weight.detach().squeeze() if weight.numel() == 1 else weight.detach().flatten())
    return read
