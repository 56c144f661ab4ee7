"""The largest singular value of every layer, measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import progress
from captum_deduce.spectral.bound import at_least_float32, bounded_layers
from captum_deduce.spectral.layers import Skip, as_found, chosen_layers, layer_operators
from captum_deduce.spectral.operators import Operator, leading_vectors, lengths


def spectral_norms(
    module: nn.Module,
    *,
    example_input: Tensor | tuple[Any, ...] | None = None,
    skip: Skip = None,
    show_progress: bool | None = None,
) -> dict[str, float]:
    """Measure the largest singular value of every convolution and linear layer as it is used now.

    It is estimated afresh, by a Lanczos iteration from a random start, to about 0.1%, on the weight
    that eval mode uses. Works on plain models too, to see which layers a bound would touch.

    Args:
        module (nn.Module): A model, spectrally normalised or not. Left as it was.
        example_input (Tensor or tuple, optional): What ``module`` takes, for the sizes on which
            convolutions are measured. Default: None (the sizes at which each layer was normalised;
            plain convolutions with a kernel of more than one entry then raise)
        skip (optional): Layers to leave out, as in :func:`spectral_normalize`. Default: None
        show_progress (bool, optional): Draw a progress bar, likewise. Default: None

    Returns:
        dict[str, float]: By the layer's dotted name.

    Raises:
        TypeError: An argument of another kind.
        ValueError: As for :func:`spectral_normalize`, where a layer's operator can't be known.

    Examples::

        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> {name: round(norm, 3) for name, norm in spectral_norms(layer).items()}
        {'': 3.0}
    """
    layers = chosen_layers(module, skip)
    operators: dict[str, Operator] = {}
    if example_input is None:
        operators = {name: bound.operator for name, (_, bound) in bounded_layers(module).items()}
    unknown = {name: layer for name, layer in layers.items() if name not in operators}
    progress.shown(show_progress)  # refuses other values before any work is done
    generator = torch.Generator().manual_seed(0)
    norms = {}
    with as_found(module):
        operators |= layer_operators(module, unknown, example_input)
        bar = progress.bar(
            layers.items(), desc="spectral norms", unit="layer", show_progress=show_progress
        )
        for name, layer in bar:
            operator, weight = operators[name], at_least_float32(layer.weight)
            start = torch.randn(operator.domain, generator=generator).to(weight)
            v = leading_vectors(operator, weight, start)
            norms[name] = float(lengths(operator(weight, v)).amax())
    return norms
