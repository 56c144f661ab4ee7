"""A classifier described by several of its layers at once, for densities that see more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from captum_deduce import checks
from captum_deduce.classifiers.layers import as_rows, recorded_outputs, single_output
from captum_deduce.classifiers.scores import class_scores
from captum_deduce.classifiers.wrapped import WrappedClassifier


class MultiLayerClassifier(WrappedClassifier):
    r"""A classifier whose features are those of several layers, side by side.

    The last features of a classifier tell what an image shows, and little about how it is drawn.
    Specks that no person would see as a digit can have likely last features. Earlier layers tell
    how and where strokes are drawn. Under a density of both, an image with unlikely details is
    unlikely, and the search avoids them. Scores are the model's own.

    The features are many: a density has a covariance of their square for each class, and needs more
    training images of a class than features, or ``regularization="oas"``. Maps are therefore
    averaged over the cells of a coarse grid, as by :class:`torch.nn.AdaptiveAvgPool2d`.

    Not in the paper, whose density is that of one layer. Class-conditional Gaussians of several
    layers' averaged maps are those of Lee et al., "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples and Adversarial Attacks", 2018. Deviation: one density of all
    layers, in place of one for each with weights between them, and a grid in place of one mean.

    Args:
        model (nn.Module): Returns scores, N x C. Not copied.
        layers (Mapping[nn.Module or str, int or None]): Each layer or its dotted name, and the
            grid of its features: the number of rows and columns that its maps, N x channels x
            height x width in this order, are averaged to, at most their own; None: the output as
            it is, flattened.

    Attributes:
        features (nn.Module): Outputs the features, N x D, in the order of ``layers``: the ``layer``
            for explainers and :meth:`ClassGaussianMixture.fit_loader`.
        grids (dict[str, int or None]): ``layers``, by name.

    Raises:
        TypeError: A model that is no module, ``layers`` that are no mapping, a layer that is
            neither a module nor a name, or a grid of the wrong kind.
        ValueError: No layers, a layer that is not in the model or is named twice, or a grid below
            1.

    Examples::

        >>> from captum_deduce import ClassGaussianMixture, DeDUCE
        >>> from captum_deduce.models import sn_resnet18
        >>> model = sn_resnet18(width=2, image_size=8)
        >>> seen = MultiLayerClassifier(model, {"stages.1": 2, "avgpool": None})
        >>> images, labels = torch.rand(500, 1, 8, 8), torch.arange(500) % 10
        >>> density = ClassGaussianMixture.fit_loader(
        ...     seen, seen.features, [(images, labels)], regularization="oas")
        >>> density.num_features  # 4 channels x 2 x 2, and 16
        32
        >>> explainer = DeDUCE.realistic(seen, seen.features, density)
    """

    def __init__(self, model: nn.Module, layers: Mapping[Any, int | None]) -> None:
        super().__init__(model)
        if not isinstance(layers, Mapping):
            raise TypeError(
                'layers must be a mapping of layers to grids, such as {"layer2": 4, "avgpool": '
                f"None}}, got {type(layers).__name__}"
            )
        if not layers:
            raise ValueError("layers must name at least one layer, got none")
        self.grids: dict[str, int | None] = {}
        for layer, grid in layers.items():
            name = self.name_of(layer)
            if name in self.grids:
                raise ValueError(f"layers must name each layer once, got {name!r} twice")
            if grid is not None:
                checks.number(f"the grid of layer {name!r}", grid, minimum=1, integer=True)
            self.grids[name] = None if grid is None else int(grid)

    def forward(self, inputs: Tensor, *additional_forward_args: Any) -> Tensor:
        """Compute the model's scores, and the features of all layers on the way.

        Args:
            inputs (Tensor): N x ...
            *additional_forward_args: Passed on to the model.

        Returns:
            Tensor: N x C.

        Raises:
            TypeError: A model or a layer that does not return a tensor.
            ValueError: A model that does not return N x C scores, a layer that did not run exactly
                once, or maps that can't be averaged to the grid asked for.
        """
        layers = [self.model.get_submodule(name) for name in self.grids]
        with recorded_outputs(layers) as outputs:
            scores = class_scores(self.model(inputs, *additional_forward_args), len(inputs))
        rows = []
        for (name, grid), seen in zip(self.grids.items(), outputs, strict=True):
            output = single_output(seen, len(inputs), f"layer {name!r}")
            rows.append(as_rows(output if grid is None else _on_grid(name, output, grid)))
        self.features(torch.cat(rows, 1))
        return scores

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"layers={self.grids!r}"


def _on_grid(name: str, output: Tensor, grid: int) -> Tensor:
    if output.dim() != 4:
        raise ValueError(
            f"layer {name!r} must output maps, N x channels x height x width, to be averaged to a "
            f"grid, got shape {tuple(output.shape)}; give it None to take its output as it is, or "
            "choose another layer"
        )
    if min(output.shape[2:]) < grid:
        raise ValueError(
            f"layer {name!r} must output maps of at least {grid} x {grid} to be averaged to that "
            f"grid, got shape {tuple(output.shape)}; give it a smaller one"
        )
    return adaptive_avg_pool2d(output, grid)
