"""Gaussians with their factors: covariances and log-densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from captum_deduce.density import memory
from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import add_to_diagonal

# Samples whose classes' r x r matrices are gathered at once.
_GATHERED = 4096


@dataclass(frozen=True)
class Gaussians:
    r"""K Gaussians, ready to be evaluated.

    The covariance of component k is :math:`\Sigma_k = \kappa_k S_k / \nu_k + \beta_k I` with its
    scatter :math:`S_k` (the pooled one for ``"tied"``).

    ``"low_rank"`` has this tied covariance T, too, but for the r principal directions A (D x r) of
    the pooled scatter, in which each class has its own. In the coordinates
    :math:`x = R^{-\top} A^\top (z - \mu)` with :math:`R^\top R = A^\top T A` the tied covariance
    is the identity, and class c has :math:`B_c` instead. Given x, all else is as T says:

    .. math::
        p(z \mid c) = \mathcal N(z; \mu_c, T)\,
        \frac{\mathcal N(x; 0, B_c)}{\mathcal N(x; 0, I)}, \qquad
        \Sigma_c = T + K (B_c - I) K^\top, \quad K = T A R^{-1}.

    The class's unbiased covariance in x, :math:`C_c`, is drawn towards the identity, which is the
    tied covariance, as though that were worth r samples beside its
    :math:`n_c = V_1^2 / V_2` own:

    .. math::
        B_c = (1 - \alpha_c) C_c + \alpha_c I, \qquad \alpha_c = \frac{r}{n_c - 1 + r}.

    This is one of the covariances of Friedman, "Regularized discriminant analysis" (1989), within
    the directions; a class of one sample has the tied covariance. Mixtures of probabilistic
    principal components (Tipping and Bishop, 1999) have a sphere for the rest. Here it is T, which
    costs a single D x D matrix and describes the other D - r directions, too.

    Attributes:
        covariance_type (str): As in :class:`~captum_deduce.density.Moments`.
        regularization (str): One of :data:`~captum_deduce.density.REGULARIZATIONS`.
        origin (Tensor): D, what :meth:`project` subtracts; 0 unless pooled.
        center (Tensor): K x D, the means as :meth:`project` maps them (``"low_rank"``:
            K x (D + r)).
        whitening (Tensor): Features times it have unit covariance: the transposed inverse of the
            covariances' Cholesky factors (M x D x D for M components with samples; ``"tied"``:
            D x D), inverse standard deviations for ``"diag"`` (K x D) and ``"spherical"`` (K).
            ``"low_rank"``: D x (D + r), the tied one and :math:`A R^{-1}` beside it.
        block_whitening (Tensor): The same of :math:`B_k` for ``"low_rank"``, M x r x r; else empty.
        places (tuple[int, ...]): K, where among the M each component is, -1 without samples.
        log_determinant (Tensor): K, of the covariances.
        log_weight (Tensor): K, the component's share of its class.
        divisor (Tensor): K, :math:`\nu_k`.
        kept (Tensor): K, :math:`\kappa_k`.
        added (Tensor): K, :math:`\beta_k`.
        amount (Tensor): K, :math:`\beta_k` in units of trace / D of :math:`S_k / \nu_k`: the rung
            of the jitter ladder, or the shrinkage coefficient; infinite where there was nothing to
            scale.
    """

    covariance_type: str
    regularization: str
    origin: Tensor
    center: Tensor
    whitening: Tensor
    block_whitening: Tensor
    places: tuple[int, ...]
    log_determinant: Tensor
    log_weight: Tensor
    divisor: Tensor
    kept: Tensor
    added: Tensor
    amount: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply a function to every tensor.

        Args:
            function (Callable): From tensor to tensor.

        Returns:
            Gaussians: Of the function's results.
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: function(value) for name, value in named.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @property
    def pooled(self) -> bool:
        """Whether one matrix whitens the features of all components."""
        return self.covariance_type in ("tied", "low_rank")

    def covariances(self, moments: Moments) -> Tensor:
        """Compute the regularised covariances; they are not kept.

        Args:
            moments (Moments): What the Gaussians were estimated from.

        Returns:
            Tensor: In scikit-learn's shapes: K x D x D (0 without samples), ``"tied"``: D x D,
            ``"diag"``: K x D, ``"spherical"``: K.

        Raises:
            ValueError: They don't fit into memory.
        """
        factor, added = (self.kept / self.divisor).nan_to_num(0.0), self.added
        if self.covariance_type in ("diag", "spherical"):
            scatter = moments.scatter
            if self.covariance_type == "spherical":
                return scatter / moments.num_features * factor + added
            return scatter * factor.unsqueeze(1) + added.unsqueeze(1)
        if self.covariance_type == "tied":
            return _dense(moments.scatter, factor[0], added[0])
        size = moments.num_features
        count = len(self.places)
        what = f"the {count:,} covariances of {size:,} features"
        remedy = "call covariance(index) for that of one component"
        memory.require(8 * count * size**2, moments.mean.device, what, remedy)
        result = moments.mean.new_zeros(count, size, size)
        for component, place in enumerate(self.places):
            if place >= 0:
                result[component] = self.covariance(moments, component)
        return result

    def covariance(self, moments: Moments, component: int) -> Tensor:
        """Compute one of the regularised covariances.

        Args:
            moments (Moments): What the Gaussians were estimated from.
            component (int): Which; one with samples.

        Returns:
            Tensor: D x D, ``"diag"``: D, ``"spherical"``: no dimension.
        """
        factor, added = (self.kept / self.divisor).nan_to_num(0.0)[component], self.added[component]
        if self.covariance_type in ("diag", "spherical"):
            return self.covariances(moments)[component]
        if self.covariance_type == "full":
            return _dense(moments.class_scatter(component), factor, added)
        tied = _dense(moments.scatter, factor, added)
        if self.covariance_type == "tied":
            return tied
        spread = tied @ self.whitening[:, len(tied) :]
        whitening = self.block_whitening[self.places[component]]
        # B = L L' where the whitening is the inverse of L'.
        factors = triangular_inverse(whitening.T)
        excess = add_to_diagonal(factors @ factors.T, -1.0)
        result: Tensor = tied + spread @ excess @ spread.T
        return (result + result.T) / 2

    def project(self, features: Tensor) -> Tensor:
        """Do once per sample what all components share.

        Args:
            features (Tensor): N x D, float64.

        Returns:
            Tensor: N x D, what :meth:`log_prob` takes (``"low_rank"``: N x (D + r)).
        """
        return (features - self.origin) @ self.whitening if self.pooled else features

    def log_prob(self, projected: Tensor, component: int) -> Tensor:
        """Evaluate one component, its weight included.

        Args:
            projected (Tensor): N x D, from :meth:`project`.
            component (int): Which.

        Returns:
            Tensor: N log-densities, in nats.
        """
        deviations = projected - self.center[component]
        if self.covariance_type == "low_rank":
            whitening = self.block_whitening[self.places[component]]
            return self._log_prob_of(self._squared_in_directions(deviations, whitening), component)
        if self.covariance_type == "full":
            deviations = deviations @ self.whitening[self.places[component]]
        elif self.covariance_type != "tied":
            deviations = deviations * self.whitening[component]
        return self._log_prob_of(deviations.square().sum(1), component)

    def log_prob_each(self, projected: Tensor, components: Tensor) -> Tensor:
        """Evaluate one component for each sample, all at once; not for ``"full"``.

        Args:
            projected (Tensor): N x D, from :meth:`project`.
            components (Tensor): N, int64, on the same device.

        Returns:
            Tensor: N log-densities, in nats.
        """
        if self.covariance_type != "low_rank":
            deviations = projected - self.center[components]
            if self.covariance_type == "diag":
                deviations = deviations * self.whitening[components]
            squared = deviations.square().sum(1)
            if self.covariance_type == "spherical":
                squared = squared * self.whitening[components].square()
            return self._log_prob_of(squared, components)
        places = torch.tensor(self.places, device=components.device)[components]
        blocks = torch.split(torch.arange(len(places), device=places.device), _GATHERED)
        squared_parts = [
            self._squared_in_directions(
                part - self.center[components[rows]], self.block_whitening[places[rows]]
            )
            for part, rows in zip(torch.split(projected, _GATHERED), blocks, strict=True)
        ]
        return self._log_prob_of(torch.cat(squared_parts), components)

    def _squared_in_directions(self, deviations: Tensor, whitening: Tensor) -> Tensor:
        """Squared Mahalanobis distances: tied, but for the directions of the classes' own."""
        size = self.whitening.shape[0]
        inside = deviations[:, size:].unsqueeze(1)
        own = (inside @ whitening).square().sum((1, 2))
        return deviations[:, :size].square().sum(1) - inside.square().sum((1, 2)) + own

    def _log_prob_of(self, squared: Tensor, component: Tensor | int) -> Tensor:
        constant = len(self.origin) * math.log(2 * math.pi) + self.log_determinant[component]
        return self.log_weight[component] - 0.5 * (constant + squared)


def _dense(scatter: Tensor, factor: Tensor, added: Tensor) -> Tensor:
    result = scatter * factor
    result.diagonal().add_(added)
    return (result + result.T) / 2


def triangular_inverse(cholesky: Tensor) -> Tensor:
    """Invert a lower triangular matrix.

    Args:
        cholesky (Tensor): D x D.

    Returns:
        Tensor: D x D.
    """
    identity = torch.eye(len(cholesky), dtype=cholesky.dtype, device=cholesky.device)
    inverse: Tensor = torch.linalg.solve_triangular(cholesky, identity, upper=False)
    return inverse
