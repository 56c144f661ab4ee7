"""Which covariance a density has: the paper's where samples and memory allow, or a leaner one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from captum_deduce.density import memory
from captum_deduce.density.low_rank import rank_of
from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import SAMPLES_PER_FEATURE
from captum_deduce.density.samples import Samples

CHOICES = ("auto", "full", "low_rank", "tied", "diag", "spherical")
"""What covariances may be asked for; "auto" becomes one of the next three."""

MOST_MATRICES = 2**32
"""Bytes of matrices of classes, and of what they are factored into, that "auto" makes at most."""

MOST_KEPT = 2**27
"""Bytes of samples and matrices that are kept at most for classes that can't all have their own."""


_SAMPLES_FOR_DIRECTIONS = 2.0


class Choice(NamedTuple):
    """What "auto" became.

    Attributes:
        covariance_type (str): "full", "low_rank" or "tied".
        reason (str): Why it is not the paper's; empty where it is.
    """

    covariance_type: str
    reason: str


def keeps_classes(covariance_type: str) -> bool:
    """Tell whether moments of all classes' own are kept while there is room.

    Args:
        covariance_type (str): One of :data:`CHOICES`.

    Returns:
        bool: Also where the choice comes later.
    """
    return covariance_type in ("auto", "full", "low_rank")


def outgrown(moments: Moments, covariance_type: str, samples: Samples | None = None) -> bool:
    """Tell whether samples and matrices of all classes take too much.

    Args:
        moments (Moments): ``"full"`` ones.
        covariance_type (str): ``"auto"`` or ``"low_rank"``.
        samples (Samples, optional): What is to be added. Default: None

    Returns:
        bool: More than :data:`MOST_KEPT`, and no use for ``"full"``.
    """
    size = moments.size_with(samples) if samples else moments.classes_nbytes
    if size <= MOST_KEPT or covariance_type == "low_rank":
        return size > MOST_KEPT
    seen = {*(moments.weight > 0).nonzero().flatten().tolist()}
    if samples:
        seen |= {*samples.counts().nonzero().flatten().tolist()}
    num_features = samples.features.shape[1] if samples else moments.num_features
    return not matrices_fit(len(seen), num_features, moments.mean.device)


def matrices_fit(num_present: int, num_features: int, device: torch.device) -> bool:
    """Tell whether each class may have a matrix.

    Args:
        num_present (int): Classes that have samples.
        num_features (int): D.
        device (torch.device): Where.

    Returns:
        bool: Matrices and factors take :data:`MOST_MATRICES` and half of what is free at most.
    """
    needed = matrices_size(num_present, num_features)
    if needed < MOST_KEPT:
        return True
    return needed <= MOST_MATRICES and needed <= memory.free_bytes(device) / 2


def matrices_size(num_present: int, num_features: int) -> int:
    """Tell what each class's scatter, its factors and, if it is shrunk, its eigenvectors take.

    Args:
        num_present (int): Classes that have samples.
        num_features (int): D.

    Returns:
        int: Bytes.
    """
    return 3 * 8 * num_present * num_features**2


def choose(moments: Moments) -> Choice:
    """Choose by samples, features, classes and memory.

    - ``"full"`` where every class has 1.25 samples for each feature, besides one for the mean, and
      its matrices fit;
    - else ``"low_rank"`` where classes have half as many samples as directions on average, and all
      together twice as many as features, besides one for each mean: with fewer the directions would
      be those of these very samples;
    - else ``"tied"``.

    Args:
        moments (Moments): ``"full"``, or ``"low_rank"`` ones where those grew too large.

    Returns:
        Choice: With the reason.
    """
    seen = (moments.weight > 0).nonzero().flatten()
    size, rank = moments.num_features, rank_of(moments.num_features)
    free = moments.effective_count()[seen] - 1
    reasons = []
    needed = SAMPLES_PER_FEATURE * size
    few = seen[free < needed * (1 - 1e-9)].tolist()
    if few:
        scarce = int(free.argmin())
        reasons.append(
            f"{len(few):,} of {len(seen):,} classes have fewer than the "
            f"{math.ceil(needed + 1):,} samples that a 'full' covariance of {size:,} features "
            f"needs (class {int(seen[scarce])}: {free[scarce] + 1:.6g})"
        )
    fits = matrices_fit(len(seen), size, moments.mean.device)
    if not fits or moments.covariance_type == "low_rank":
        needed_bytes = matrices_size(len(seen), size)
        reasons.append(
            f"'full' covariances of {len(seen):,} classes of {size:,} features would take "
            f"{memory.in_words(needed_bytes)}"
        )
    if not reasons:
        return Choice("full", "")
    least = max(rank / 2, _SAMPLES_FOR_DIRECTIONS * size / len(seen))
    if float(free.mean()) >= least * (1 - 1e-9):
        return Choice("low_rank", " and ".join(reasons))
    reasons.append(
        f"own covariances in {rank} directions need {math.ceil(least + 1):,} samples a class on "
        "average"
    )
    return Choice("tied", " and ".join(reasons))
