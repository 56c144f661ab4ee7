"""One covariance for all classes, but for a few directions in which each class has its own.

``Gaussians`` says how they are defined.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from captum_deduce.density import memory
from captum_deduce.density.moments import Moments
from captum_deduce.density.samples import Samples

RANK = 64
"""The most directions in which each class has a covariance of its own."""

_FEWER = "pass covariance_type='diag', or choose a layer with fewer features"


def rank_of(num_features: int) -> int:
    """Tell how many directions there are.

    Args:
        num_features (int): D.

    Returns:
        int: :data:`RANK`, or half of D where that is less; at least one.
    """
    return max(min(RANK, num_features // 2), 1)


def shrinkage(effective_count: Tensor, rank: int) -> Tensor:
    r"""How far classes' covariances are drawn towards the tied one.

    Args:
        effective_count (Tensor): Kish's numbers of samples, of any shape, at least 1.
        rank (int): r.

    Returns:
        Tensor: :math:`\alpha`, of that shape.
    """
    free = (effective_count - 1).clamp_min(0)
    drawn: Tensor = rank / (free + rank)
    return drawn


def principal_directions(scatter: Tensor, rank: int) -> Tensor:
    """Find the directions in which a scatter is largest.

    Args:
        scatter (Tensor): D x D.
        rank (int): r.

    Returns:
        Tensor: D x r, orthonormal, the largest first.

    Raises:
        ValueError: The eigenvectors don't fit into memory.
    """
    what = f"eigenvectors of {len(scatter):,} features"
    memory.require(4 * scatter.nbytes, scatter.device, what, _FEWER)
    vectors: Tensor = torch.linalg.eigh(scatter).eigenvectors
    return vectors[:, -rank:].flip(1).contiguous()


def tied_moments(moments: Moments) -> Moments:
    """Sum the scatter of all classes.

    Args:
        moments (Moments): ``"full"`` or ``"low_rank"``; left as they are.

    Returns:
        Moments: ``"tied"`` ones of the same samples, which share memory with them.

    Raises:
        ValueError: The sum doesn't fit into memory.
    """
    size = moments.num_features
    tied = Moments("tied", 0, 0, moments.mean.device)
    if moments.covariance_type == "full" and moments.classes is not None:
        what = f"a 'tied' covariance of {size:,} features"
        memory.require(4 * 8 * size**2, moments.mean.device, what, _FEWER)
        tied.scatter = moments.classes.pooled(moments.mean)
    else:
        tied.scatter = moments.scatter
    for name in ("count", "weight", "squared_weight", "mean"):
        setattr(tied, name, getattr(moments, name))
    return tied


def low_rank_moments(
    moments: Moments, basis: Tensor | None = None, tied: Moments | None = None
) -> Moments:
    """Turn moments that hold what each class needs into the smaller ones.

    Args:
        moments (Moments): ``"full"``, or ``"low_rank"`` ones, which are returned.
        basis (Tensor, optional): The directions, D x r. Default: None (the principal ones)
        tied (Moments, optional): What :func:`tied_moments` makes of them. Default: None

    Returns:
        Moments: ``"low_rank"`` ones of the same samples.

    Raises:
        ValueError: They don't fit into memory.
    """
    classes = moments.classes
    if moments.covariance_type == "low_rank" or classes is None:
        return moments
    if tied is None:
        tied = tied_moments(moments)
    if basis is None:
        basis = principal_directions(tied.scatter, rank_of(moments.num_features))
    result = empty(moments, basis, len(classes))
    result.scatter = tied.scatter
    for name in ("count", "weight", "squared_weight", "mean"):
        getattr(result, name).copy_(getattr(moments, name))
    for index in classes.classes():
        if index not in classes.matrices:
            deviations = classes.deviations(index, moments.mean[index])
            result.add_in_directions(index, deviations @ basis)
        elif result.classes is not None:
            result.classes.matrices[index] = basis.T @ classes.matrices[index] @ basis
    return result


def in_directions(moments: Moments, basis: Tensor, parts: Iterable[Samples]) -> Moments:
    """Take the scatter of each class in other directions, from the samples.

    Args:
        moments (Moments): ``"low_rank"`` ones of all these samples.
        basis (Tensor): The directions, D x r.
        parts (Iterable[Samples]): With labels, each of weight 1.

    Returns:
        Moments: ``"low_rank"`` ones, which share all else with the others.
    """
    result = empty(moments, basis, int((moments.weight > 0).sum()))
    for name in ("count", "weight", "squared_weight", "mean", "scatter"):
        setattr(result, name, getattr(moments, name))
    for samples in parts:
        for block in samples.blocks(moments.mean.device):
            projected = (block.features - moments.mean[block.target]) @ basis
            for index, part, _ in block._replace(features=projected).by_class():
                result.add_in_directions(index, part)
    return result


def empty(moments: Moments, basis: Tensor, num_present: int) -> Moments:
    """Make moments of no samples.

    Args:
        moments (Moments): With the classes and features to come.
        basis (Tensor): The directions, D x r.
        num_present (int): Of how many classes there will be samples.

    Returns:
        Moments: ``"low_rank"`` ones.

    Raises:
        ValueError: They won't fit into memory.
    """
    needed = 2 * 8 * num_present * basis.shape[1] ** 2
    what = f"covariances of {num_present:,} classes in {basis.shape[1]} directions"
    memory.require(needed, basis.device, what, "pass covariance_type='tied'")
    shape = (moments.num_classes, moments.num_features)
    return Moments("low_rank", *shape, moments.mean.device, basis)
