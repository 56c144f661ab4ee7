r"""What a step descends on.

Each function takes tensors of N pairs and returns N losses, one for each pair; a search sums them
before it differentiates, as no pair's loss depends on another's image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

LOSS_FLOOR = 1e-6
"""Equation 5 divides by losses; none counts as smaller than this."""


ROUNDING = 0.03
"""Up to about which differences the total variation is flat, in units of the range."""


def target_log_probability(scores: Tensor, target: Tensor) -> Tensor:
    r"""Log-probability of the target class.

    Args:
        scores (Tensor): Logits or log-probabilities (both give the same), N x C.
        target (Tensor): Target classes, N, on the scores' device.

    Returns:
        Tensor: :math:`\log f(\mathbf x)_t`, N, in nats; its negative is the cross-entropy
        :math:`\ell_c` of the paper.
    """
    return log_softmax(scores, dim=1).gather(1, target.unsqueeze(1)).squeeze(1)


def weighted_sum(cross_entropy: Tensor, log_density: Tensor, weight: float | Tensor) -> Tensor:
    r"""Equation 4 of the DeDUCE paper: :math:`\lambda \ell_c - \log p_t`.

    Args:
        cross_entropy (Tensor): :math:`\ell_c(f(\mathbf x), t)`, N.
        log_density (Tensor): :math:`\log p_t(f_Z(\mathbf x))`, N.
        weight (float or Tensor): :math:`\lambda`; N where each pair has its own.

    Returns:
        Tensor: N losses.
    """
    return weight * cross_entropy - log_density


def relative_sum(
    cross_entropy: Tensor, log_density: Tensor | None, weight: float | Tensor
) -> Tensor:
    r"""The loss whose gradient is equation 5 of the DeDUCE paper.

    .. math:: \mu\, \log \ell_c - \mathrm{sign}(\log p_t) \log |\log p_t|

    Its gradient counts each term by its *relative* change,
    :math:`\mu \nabla \ell_c / \ell_c - \nabla \log p_t / |\log p_t|`.
    Deviation from the paper: sizes are floored at :data:`LOSS_FLOOR`, and a cross-entropy that has
    underflowed to 0 contributes no gradient.

    Args:
        cross_entropy (Tensor): :math:`\ell_c(f(\mathbf x), t)`, N.
        log_density (Tensor or None): :math:`\log p_t(f_Z(\mathbf x))`, N; None for the first term
            alone.
        weight (float or Tensor): :math:`\mu`; N where each pair has its own.

    Returns:
        Tensor: N losses.
    """
    size = cross_entropy.detach()
    floored = size.clamp_min(LOSS_FLOOR)
    # The gradients are those of quotients with constant denominators; only the values are logs'.
    slope = weight * (cross_entropy / floored * (size > 0))
    value = weight * floored.log()
    if log_density is not None:
        size = log_density.detach()
        floored = size.abs().clamp_min(LOSS_FLOOR)
        slope = slope - log_density / floored
        value = value - size.sign() * floored.log()
    return slope + (value - slope.detach())


def l1_norm(difference: Tensor) -> Tensor:
    r"""Sum of absolute values :math:`\|\delta\|_1`, over all entries of a row.

    Args:
        difference (Tensor): :math:`\delta`, N x ...

    Returns:
        Tensor: N norms.
    """
    return difference.abs().flatten(1).sum(1)


def squared_norm(difference: Tensor) -> Tensor:
    r"""Squared Euclidean norm :math:`\|\delta\|_2^2`, over all entries of a row.

    Args:
        difference (Tensor): :math:`\delta`, N x ...

    Returns:
        Tensor: N squared norms.
    """
    return difference.square().flatten(1).sum(1)


def total_variation(images: Tensor) -> Tensor:
    r"""Anisotropic total variation: how much neighbours in height and width differ.

    .. math:: \sum_{ij} |x_{i+1,j} - x_{ij}|_\epsilon + |x_{i,j+1} - x_{ij}|_\epsilon,
        \quad |d|_\epsilon = \sqrt{d^2 + \epsilon^2} - \epsilon

    with :math:`\epsilon` = :data:`ROUNDING`, so that it is smooth at 0. Channels add up.

    Args:
        images (Tensor): N x ... x height x width, in units of the range.

    Returns:
        Tensor: N sums.
    """
    across, along = (images.diff(dim=dimension).flatten(1) for dimension in (-2, -1))
    steps = torch.cat([across, along], 1)
    return ((steps.square() + ROUNDING**2).sqrt() - ROUNDING).sum(1)


def elastic_net(difference: Tensor, weight: float) -> Tensor:
    r"""The distance :math:`\|\delta\|_2^2 + \beta \|\delta\|_1` of VLK, over all entries of a row.

    Args:
        difference (Tensor): :math:`\delta`, N x ...
        weight (float): :math:`\beta`.

    Returns:
        Tensor: N distances.
    """
    return squared_norm(difference) + weight * l1_norm(difference)


def untargeted_hinge(probabilities: Tensor, original_class: Tensor, margin: float) -> Tensor:
    r"""The prediction loss of VLK, which any class but the original's can bring to 0.

    .. math:: \max(0,\; p_o - \max_{j \neq o} p_j + \kappa)

    Where several classes share the maximum, each gets an equal part of the gradient; where the loss
    is 0 there is none.

    Args:
        probabilities (Tensor): N x C.
        original_class (Tensor): :math:`o`, N, int64.
        margin (float): :math:`\kappa`.

    Returns:
        Tensor: N losses.
    """
    place = original_class.unsqueeze(1)
    original = probabilities.gather(1, place).squeeze(1)
    others = probabilities.scatter(1, place, -1.0).amax(1)
    return (original - others + margin).relu()


def margin(scores: Tensor, target: Tensor) -> Tensor:
    r"""How far a class is ahead of all others: :math:`s_t - \max_{j \neq t} s_j`.

    Logits and log-probabilities give the same, as they differ by the same number in all classes.
    Where several other classes share the maximum, each gets an equal part of the gradient.

    Args:
        scores (Tensor): N x C.
        target (Tensor): :math:`t`, N, int64.

    Returns:
        Tensor: N margins; above 0 where the class is the most likely one.
    """
    place = target.unsqueeze(1)
    others = scores.scatter(1, place, -torch.inf).amax(1)
    return scores.gather(1, place).squeeze(1) - others
