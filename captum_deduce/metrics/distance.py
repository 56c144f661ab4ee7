r"""How far counterfactuals are from their originals, and how many there are.

Every distance takes two batches of images, N x ..., and returns N values: sums (or a maximum) over
each image's entries, in the images' own units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_deduce import checks


def l0(inputs: Tensor, counterfactuals: Tensor, *, tolerance: float = 0.0) -> Tensor:
    r"""Count the entries that differ.

    Args:
        inputs (Tensor): Originals, N x ...
        counterfactuals (Tensor): Counterfactuals, of the same shape.
        tolerance (float, optional): Entries that differ by no more than this count as equal, in
            input units. Generative methods move every entry a little: at a tolerance of 1e-5 their
            :math:`L_0` can be half of the exact one, so say which you report.
            Default: 0.0 (exact inequality)

    Returns:
        Tensor: N counts, int64.

    Raises:
        TypeError: ``inputs`` or ``counterfactuals`` is no tensor, or ``tolerance`` no number.
        ValueError: Shapes that differ, or a negative tolerance.

    Examples::

        >>> import torch
        >>> l0(torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.5, 0.0]]]]))
        tensor([2])
    """
    checks.number("tolerance", tolerance, minimum=0)
    return (_differences(inputs, counterfactuals).abs() > tolerance).sum(1)


def sites(inputs: Tensor, counterfactuals: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Count the places at which something differs, in whatever channels.

    Args:
        inputs (Tensor): Originals, N x channels x height x width; without a second dimension of
            channels, N x length, every entry is a place.
        counterfactuals (Tensor): Counterfactuals, of the same shape.
        tolerance (float, optional): As in :func:`l0`. Default: 0.0

    Returns:
        Tensor: N counts, int64, of which each is at most :func:`l0` and at least that divided by
        the number of channels.

    Raises:
        TypeError: ``inputs`` or ``counterfactuals`` is no tensor, or ``tolerance`` no number.
        ValueError: Shapes that differ, or a negative tolerance.

    Examples::

        >>> import torch
        >>> grey = torch.zeros(1, 3, 2, 2)
        >>> red_and_green, blue = grey.clone(), grey.clone()
        >>> red_and_green[:, :2, 0, 0], blue[:, 2, 1, 1] = 1.0, 1.0
        >>> changed = torch.cat([red_and_green, red_and_green + blue])
        >>> l0(grey.expand(2, 3, 2, 2), changed), sites(grey.expand(2, 3, 2, 2), changed)
        (tensor([2, 3]), tensor([1, 2]))
    """
    checks.number("tolerance", tolerance, minimum=0)
    differs = (_differences(inputs, counterfactuals).abs() > tolerance).reshape(inputs.shape)
    places = differs.any(1) if inputs.dim() > 2 else differs
    return places.flatten(1).sum(1)


def l1(inputs: Tensor, counterfactuals: Tensor) -> Tensor:
    r"""Sum of absolute differences.

    Args:
        inputs (Tensor): Originals, N x ...
        counterfactuals (Tensor): Counterfactuals, of the same shape.

    Returns:
        Tensor: N distances, in input units.

    Raises:
        TypeError: ``inputs`` or ``counterfactuals`` is no tensor.
        ValueError: Shapes that differ.
    """
    return _differences(inputs, counterfactuals).abs().sum(1)


def l2(inputs: Tensor, counterfactuals: Tensor) -> Tensor:
    r"""Euclidean distance.

    Args:
        inputs (Tensor): Originals, N x ...
        counterfactuals (Tensor): Counterfactuals, of the same shape.

    Returns:
        Tensor: N distances, in input units.

    Raises:
        TypeError: ``inputs`` or ``counterfactuals`` is no tensor.
        ValueError: Shapes that differ.
    """
    distances: Tensor = _differences(inputs, counterfactuals).norm(dim=1)
    return distances


def linf(inputs: Tensor, counterfactuals: Tensor) -> Tensor:
    r"""Largest absolute difference.

    Args:
        inputs (Tensor): Originals, N x ...
        counterfactuals (Tensor): Counterfactuals, of the same shape.

    Returns:
        Tensor: N distances, in input units.

    Raises:
        TypeError: ``inputs`` or ``counterfactuals`` is no tensor.
        ValueError: Shapes that differ.
    """
    return _differences(inputs, counterfactuals).abs().amax(1)


def failure_rate(success: Tensor) -> float:
    """Find the share of pairs without a counterfactual.

    Args:
        success (Tensor): Whether each of N searches reached its goal, bool, as
            ``Counterfactuals.success``.

    Returns:
        float: From 0 to 1.

    Raises:
        TypeError: Not a bool tensor.
        ValueError: No pairs.

    Examples::

        >>> import torch
        >>> failure_rate(torch.tensor([True, True, False, True]))
        0.25
    """
    if not isinstance(success, Tensor) or success.dtype != torch.bool:
        kind = success.dtype if isinstance(success, Tensor) else type(success).__name__
        raise TypeError(f"success must be a bool tensor, got {kind}")
    if success.dim() != 1 or len(success) == 0:
        raise ValueError(f"success must hold one value per pair, got shape {tuple(success.shape)}")
    return (~success).double().mean().item()


def _differences(inputs: Tensor, counterfactuals: Tensor) -> Tensor:
    for name, value in (("inputs", inputs), ("counterfactuals", counterfactuals)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if inputs.shape != counterfactuals.shape or inputs.dim() < 2:
        raise ValueError(
            "inputs and counterfactuals must have the same shape N x ..., got "
            f"{tuple(inputs.shape)} and {tuple(counterfactuals.shape)}"
        )
    return (counterfactuals - inputs).flatten(1)
