r"""What a step descends on.

Each function takes tensors of N pairs and returns N losses, one for each pair; a search sums them
before it differentiates, as no pair's loss depends on another's image.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

LOSS_FLOOR = 1e-6
"""Equation 5 divides by losses; none counts as smaller than this."""


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


def weighted_sum(cross_entropy: Tensor, log_density: Tensor, weight: float) -> Tensor:
    r"""Equation 4 of the DeDUCE paper: :math:`\lambda \ell_c - \log p_t`.

    Args:
        cross_entropy (Tensor): :math:`\ell_c(f(\mathbf x), t)`, N.
        log_density (Tensor): :math:`\log p_t(f_Z(\mathbf x))`, N.
        weight (float): :math:`\lambda`.

    Returns:
        Tensor: N losses.
    """
    return weight * cross_entropy - log_density


def relative_sum(cross_entropy: Tensor, log_density: Tensor, weight: float) -> Tensor:
    r"""The loss whose gradient is equation 5 of the DeDUCE paper.

    .. math:: \mu\, \frac{\ell_c}{|\ell_c|} - \frac{\log p_t}{|\log p_t|}

    with the denominators held constant, so that each term counts by its *relative* change.
    Deviation from the paper: denominators are floored at :data:`LOSS_FLOOR`, and a cross-entropy
    that has underflowed to 0 contributes nothing.

    Args:
        cross_entropy (Tensor): :math:`\ell_c(f(\mathbf x), t)`, N.
        log_density (Tensor): :math:`\log p_t(f_Z(\mathbf x))`, N.
        weight (float): :math:`\mu`.

    Returns:
        Tensor: N losses.
    """
    size = cross_entropy.detach()
    classification = cross_entropy / size.clamp_min(LOSS_FLOOR) * (size > 0)
    density = log_density / log_density.detach().abs().clamp_min(LOSS_FLOOR)
    return weight * classification - density
