r"""FID: whether a set of counterfactuals has the features that a set of images has."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.metrics.features import check_features, first_rows


def fid(features: Tensor, other: Tensor) -> float:
    r"""Fréchet distance between Gaussians fitted to two sets of features.

    .. math::
        \|\mu_1 - \mu_2\|_2^2
        + \mathrm{tr}\big(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\big)

    with the sets' means and unbiased covariances. From 0, in the features' squared units; lower is
    better, 0 for sets of the same moments.

    Source: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium* (2017). There the features are Inception's; here they are those that you extract
    (:class:`FeatureExtractor`), and values of different features can't be compared. Nor can those
    of different numbers of images: few make it larger.

    **Report oracle agreement beside it** (:class:`Oracle`). FID tells whether the images as a whole
    look like the data, not whether they show their targets' classes. Images that have hardly
    changed, adversarial examples among them, have nearly the FID of the originals, which is the
    best there is. Against the originals themselves no change at all has the lowest FID; use
    :func:`split_fid` there.

    The trace of the root is the sum of the singular values of :math:`A_1 A_2^\top`, with
    :math:`\Sigma_j = A_j^\top A_j` for centred and scaled features :math:`A_j`: no matrix is
    squared, and covariances of less than full rank are no special case.

    Args:
        features (Tensor): Of the counterfactuals, N x D.
        other (Tensor): Of the images to compare them with, M x D.

    Returns:
        float: The distance, computed in float64.

    Raises:
        TypeError: Not floating-point tensors.
        ValueError: Fewer than two rows, different numbers of features, or values not finite.

    Warns:
        UserWarning: A set has no more images than features: its covariance is singular.

    Examples::

        >>> features = torch.randn(500, 4, dtype=torch.float64)
        >>> shift = torch.tensor([2.0, 0.0, 1.0, 0.0])
        >>> round(fid(features, features + shift), 6)
        5.0
    """
    check_features("features", features, least=2)
    check_features("other", other, least=2)
    _check_same_width("other", other, "features", features)
    _warn_of_few(min(len(features), len(other)), features.shape[1])
    return _distance(_double(features), _double(other))


def split_fid(
    features: Tensor,
    originals: Tensor,
    *,
    groups: Tensor | None = None,
    splits: int = 10,
    seed: int = 0,
) -> float:
    r"""The FID of counterfactuals, from originals that are not theirs (sFID).

    A counterfactual shares most of its pixels with its original, so that the FID between the two
    sets is low for that reason alone. Here the originals are cut into halves at random; the
    counterfactuals of one half are compared with the originals of the other, and the other way
    round. The value is the mean of both, over several cuts. Range, direction and limits are those
    of :func:`fid`. It also rewards images that have hardly changed, so report oracle agreement
    beside it.

    Source: Jeanneret et al., *Adversarial Counterfactual Visual Explanations* (2023), section 4.1.
    Deviation: an original of several counterfactuals stands in its half once, with all of them.

    Args:
        features (Tensor): Of the counterfactuals, N x D.
        originals (Tensor): Of the original of each, N x D, row by row, as
            :meth:`FeatureExtractor.of_pairs` gives both.
        groups (Tensor, optional): Which original each row is of, N integers. Default: None (rows of
            ``originals`` that are equal are one)
        splits (int, optional): Cuts. Default: 10
        seed (int, optional): Of the cuts. Default: 0

    Returns:
        float: The distance, computed in float64.

    Raises:
        TypeError: Features or groups of the wrong kind.
        ValueError: Fewer than four originals, different shapes, values that are not finite, or a
            number out of its range.

    Warns:
        UserWarning: A half has no more images than features: its covariance is singular.

    Examples::

        >>> originals = torch.randn(400, 4)
        >>> split_fid(originals, originals) < 0.2 < split_fid(originals + 1, originals)
        True
    """
    check_features("features", features, least=2)
    check_features("originals", originals, least=2)
    _check_same_width("originals", originals, "features", features)
    if len(features) != len(originals):
        raise ValueError(
            "features and originals must have a row for each pair, got "
            f"{len(features)} and {len(originals)} rows"
        )
    checks.number("splits", splits, minimum=1, integer=True)
    checks.number("seed", seed, integer=True)
    which = _group_numbers(originals, groups)
    count = int(which.max()) + 1
    if count < 4:
        raise ValueError(
            f"originals must hold four different ones at least, two for each half, got {count}"
        )
    _warn_of_few(count // 2, features.shape[1])
    changed, unchanged = _double(features), _double(originals)
    # The first row of each original stands for it.
    first = first_rows(which)
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(splits):
        in_half = torch.zeros(count, dtype=torch.bool)
        in_half[torch.randperm(count, generator=generator)[: count // 2]] = True
        for half in (in_half, ~in_half):
            distances.append(_distance(changed[half[which]], unchanged[first[~half]]))
    return sum(distances) / len(distances)


def _distance(features: Tensor, other: Tensor) -> float:
    means, factors, total = [], [], 0.0
    for rows in (features, other):
        mean = rows.mean(0)
        centred = (rows - mean) / (len(rows) - 1) ** 0.5
        total += float(centred.square().sum())
        means.append(mean)
        # R has the covariance of all rows, and no more rows than there are features.
        factors.append(
            torch.linalg.qr(centred, mode="r").R if len(rows) > rows.shape[1] else centred
        )
    root = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return max(0.0, float((means[0] - means[1]).square().sum() + total - 2 * root))


def _double(features: Tensor) -> Tensor:
    # There is no float64 on MPS.
    on_cpu = features.device.type == "mps"
    return (features.detach().cpu() if on_cpu else features.detach()).double()


def _group_numbers(originals: Tensor, groups: Tensor | None) -> Tensor:
    """Which original each row is of, from 0, on the CPU."""
    if groups is None:
        which: Tensor = torch.unique(originals.cpu(), dim=0, return_inverse=True)[1]
        return which
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.dtype == torch.bool:
        kind = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"groups must be a tensor of integers, got {kind}")
    if groups.shape != (len(originals),):
        raise ValueError(
            f"groups must hold one integer per row ({len(originals)}), got shape "
            f"{tuple(groups.shape)}"
        )
    numbered: Tensor = torch.unique(groups.cpu(), return_inverse=True)[1]
    return numbered


def _check_same_width(name: str, rows: Tensor, like: str, others: Tensor) -> None:
    if rows.shape[1] != others.shape[1] or rows.device != others.device:
        raise ValueError(
            f"{name} must have as many features as {like} and be on its device "
            f"({others.shape[1]} on {others.device}), got {rows.shape[1]} on {rows.device}"
        )


def _warn_of_few(count: int, width: int) -> None:
    if count <= width:
        warnings.warn(
            f"the smaller set has {count} rows of {width} features: its covariance is singular "
            "and FID too large; compare only values of the same numbers of images, or take fewer "
            "features",
            stacklevel=3,
        )
