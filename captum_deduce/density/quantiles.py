"""Quantiles of the log-densities of training samples, each under a fit without it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from captum_deduce.density import memory
from captum_deduce.density.fitted_module import FittedModule
from captum_deduce.density.gaussians import Gaussians
from captum_deduce.density.low_rank import shrinkage
from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import SHRINKABLE, oas_shrinkage

_WITHOUT = "pass quantiles=False, or choose a layer with fewer features"
_ROUNDING = torch.finfo(torch.float64).eps
# Entries of features that are evaluated at once.
_BLOCK = 2**19
_SINGLE_ROUNDING = 8 * torch.finfo(torch.float32).eps


class ClassQuantiles(FittedModule):
    """Values of samples, with their classes, for exact quantiles: 16 bytes a sample.

    Args:
        device (torch.device, optional): Where the buffers live. Default: None (the CPU)
    """

    values: Tensor
    classes: Tensor

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(0, dtype=torch.float64, device=device))
        self.register_buffer("classes", torch.zeros(0, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.values)

    def add(self, values: Tensor, classes: Tensor) -> None:
        """Add values of some classes.

        Args:
            values (Tensor): N, float64, on the buffers' device.
            classes (Tensor): N, int64, likewise.
        """
        self.values = torch.cat([self.values, values])
        self.classes = torch.cat([self.classes, classes])

    def quantile(self, q: float, num_classes: int) -> Tensor:
        """Interpolate linearly between the two nearest values, as ``numpy.quantile`` does.

        Args:
            q (float): From 0 (the smallest) to 1 (the largest).
            num_classes (int): C.

        Returns:
            Tensor: C, float64; NaN for classes without values.
        """
        counts = self.classes.bincount(minlength=num_classes)
        order = self.values.argsort()
        ordered = self.values[order[self.classes[order].argsort(stable=True)]]
        position = q * (counts - 1).clamp_min(0).double()
        lower = position.floor().long()
        first = counts.cumsum(0) - counts
        # Classes without values point past a neighbour's, perhaps past the end.
        last = max(len(ordered) - 1, 0)
        below = ordered[(first + lower).clamp(max=last)]
        above = ordered[(first + torch.minimum(lower + 1, counts - 1)).clamp(0, last)]
        quantiles = torch.lerp(below, above, position - lower)
        return torch.where(counts > 0, quantiles, torch.nan)

    def rank(self, values: Tensor, classes: Tensor) -> Tensor:
        """Find where values would stand among those of their classes: the distribution function.

        Args:
            values (Tensor): N, float64, on the buffers' device.
            classes (Tensor): N, int64, on any device.

        Returns:
            Tensor: N, float64, the share of the class's values that are no larger, from 0 to 1; NaN
            for classes without values.
        """
        classes = classes.to(self.values.device)
        ranks = torch.full_like(values, torch.nan)
        for index in sorted(set(classes.tolist())):
            own = self.values[self.classes == index].sort().values
            if len(own):
                rows = classes == index
                below = torch.searchsorted(own, values[rows], right=True)
                ranks[rows] = below.double() / len(own)
        return ranks


class _Basis(NamedTuple):
    """Coordinates in which a scatter matrix is diagonal."""

    vectors: Tensor
    spectrum: Tensor
    log_volume: Tensor


class _Rest(NamedTuple):
    r"""What is left of a class without each of N samples.

    Its scatter is that with the sample less ``downdate`` times the outer product of the sample's
    deviation; the deviation from the mean without the sample is ``stretch`` times as long; the
    scatter is divided by ``divisor`` for a covariance, which ``num_samples`` enter. Where classes
    share a covariance that is the one of all; ``own_divisor`` and ``own_samples`` are the class's.
    """

    downdate: Tensor
    stretch: Tensor
    divisor: Tensor
    num_samples: Tensor
    own_divisor: Tensor
    own_samples: Tensor


class LeaveOneOut:
    r"""Log-densities of samples under the Gaussian of their class fitted to all others.

    Exact, without refitting: a sample of weight w and deviation :math:`d = z - \mu` takes
    :math:`a\,d d^\top` with :math:`a = w V_1 / (V_1 - w)` out of the scatter, and its deviation
    from the mean of the others is :math:`d V_1 / (V_1 - w)`. A covariance without it is therefore
    :math:`A - a \alpha\,d d^\top` with :math:`A = \alpha S + \beta I`, and with the matrix
    determinant lemma and Sherman and Morrison's formula

    .. math::
        \log\det \Sigma' = \log\det A + \log(1 - h), \qquad
        d^\top \Sigma'^{-1} d = \frac{d^\top A^{-1} d}{1 - h}, \qquad
        h = a \alpha\,d^\top A^{-1} d.

    For n samples of weight 1 and no regularisation, with m the squared Mahalanobis distance within
    the full sample, that is :math:`h = n m / (n-1)^2` and
    :math:`m' = \left(\frac{n}{n-1}\right)^2 \frac{n-2}{n-1} \frac{m}{1 - h}`. With regularisation
    :math:`\beta` depends on the sample, and A is inverted in the eigenbasis of S; the rung of the
    jitter ladder is that of the fit to all samples, the OAS coefficient is computed anew.
    ``"diag"`` and ``"spherical"`` take variances one by one. ``"low_rank"`` takes a sample out of
    the tied covariance and out of its class's own in the directions; the directions themselves
    stay. Where the covariance without a sample is singular, :math:`1 - h` (or the share of a
    variance that is left) is floored at D times the machine epsilon: such a sample has a very low
    log-density.

    Args:
        moments (Moments): Of all samples; one component per class.
        gaussians (Gaussians): Estimated from them.
    """

    def __init__(self, moments: Moments, gaussians: Gaussians) -> None:
        self.moments = moments
        self.gaussians = gaussians
        self.floor = _ROUNDING * moments.num_features
        self._bases: dict[int, _Basis] = {}
        self._blocks: dict[int, tuple[Tensor, Tensor]] = {}
        self._traces = moments.trace()
        self._normalizer = moments.normalizer()

    def log_prob(
        self, features: Tensor, weight: Tensor | None, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluate samples, each under its class; work memory is that of a few of them.

        Args:
            features (Tensor): N x D, float64; all were part of the fit.
            weight (Tensor or None): N, float64, their weights in it; None for 1 each.
            classes (Tensor): N, int64, on the same device.

        Returns:
            tuple[Tensor, Tensor]: Log-densities in nats, and the classes, of those samples whose
            class can be fitted without them, in their order: at least two effective samples must
            be left (one where classes share a covariance).
        """
        if weight is None:
            weight = features.new_ones(len(features))
        needed = 1.0 if self.gaussians.pooled else 2.0
        left = self.moments.weight[classes] - weight
        left_squared = self.moments.squared_weight[classes] - weight.square()
        fitted = (left > 1e-9 * weight) & (left.square() >= needed * (1 - 1e-9) * left_squared)
        rows = fitted.nonzero().flatten()
        values = features.new_empty(len(rows))
        for part in self._parts(classes[rows]):
            own = rows[part]
            values[part] = self._log_prob(features[own], weight[own], classes[own])
        return values, classes[rows]

    def _parts(self, classes: Tensor) -> Iterator[Tensor]:
        """Cut samples into parts that are evaluated at once: of one class where it has its own."""
        size = max(_BLOCK // self.moments.num_features, 1)
        order, sizes = classes.argsort(stable=True), [len(classes)]
        if self.gaussians.covariance_type == "full":
            sizes = classes.bincount().tolist()
        for own in torch.split(order, sizes):
            yield from (part for part in torch.split(own, size) if len(part))

    def _log_prob(self, features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
        rest = self._rest(weight, classes)
        deviations = features - self.moments.mean[classes]
        if self.gaussians.covariance_type in SHRINKABLE:
            distance, log_determinant = self._dense(deviations, rest, classes)
        else:
            distance, log_determinant = self._axis_aligned(deviations, rest, classes)
        constant = self.moments.num_features * math.log(2 * math.pi)
        return -0.5 * (constant + log_determinant + rest.stretch.square() * distance)

    def _check_leverage(self, leverage: Tensor, classes: Tensor) -> None:
        """Look at the shares of samples in the scatter of their class: at most 1."""

    def _rest(self, weight: Tensor, classes: Tensor) -> _Rest:
        moments = self.moments
        own, own_squared = moments.weight[classes], moments.squared_weight[classes]
        left, left_squared = own - weight, own_squared - weight.square()
        total, total_squared = left, left_squared
        divisor = own_divisor = left - left_squared / left
        if self.gaussians.pooled:
            total = moments.weight.sum() - weight
            total_squared = moments.squared_weight.sum() - weight.square()
            divisor = own_divisor + self._normalizer.sum() - self._normalizer[classes]
        if self.gaussians.regularization == "oas":
            divisor = total
        stretch = own / left
        return _Rest(
            weight * stretch,
            stretch,
            divisor,
            total.square() / total_squared,
            own_divisor,
            left.square() / left_squared,
        )

    def _dense(self, deviations: Tensor, rest: _Rest, classes: Tensor) -> tuple[Tensor, Tensor]:
        """For matrices: samples of one class, or of several that share theirs."""
        index = int(classes[0])
        vectors, spectrum, log_volume = self._basis(index)
        squares = (deviations @ vectors).square_()
        kept, added = self._coefficients(deviations, squares, spectrum, rest, index)
        variances = torch.addcmul(added.unsqueeze(1), kept.unsqueeze(1), spectrum)
        taken = rest.downdate * kept
        distance, log_determinant = self._without(squares, variances, taken, classes)
        if self.gaussians.covariance_type == "low_rank":
            more, volume = self._in_directions(deviations, kept, rest, classes)
            distance, log_determinant = distance + more, log_determinant + volume
        return distance, log_determinant + log_volume

    def _without(
        self, squares: Tensor, variances: Tensor, taken: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared distances and log-determinants where so much of a diagonal matrix is taken."""
        distance = (squares / variances).sum(1)
        leverage = taken * distance
        self._check_leverage(leverage, classes)
        remaining = (1 - leverage).clamp_min(self.floor)
        return distance / remaining, variances.log().sum(1) + remaining.log()

    def _in_directions(
        self, deviations: Tensor, kept: Tensor, rest: _Rest, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What classes' own covariances in the directions add to the tied one's.

        Without a sample the tied covariance in these coordinates is no longer the identity but a
        multiple less the sample; how far its shrinkage differs there is left out.
        """
        gaussians = self.gaussians
        inside = deviations @ self._directions
        spectrum, squares = torch.empty_like(inside), torch.empty_like(inside)
        for own in torch.split(classes.argsort(), classes.bincount().tolist()):
            if len(own):
                vectors, spectrum[own] = self._block(int(classes[own[0]]))
                squares[own] = (inside[own] @ vectors).square()
        whole = torch.ones_like(kept)
        if gaussians.kept[0] > 0:
            whole = kept * gaussians.divisor[0] / gaussians.kept[0]
        taken = rest.downdate * kept
        tied = whole.unsqueeze(1).expand_as(squares)
        pooled_distance, pooled_volume = self._without(squares, tied, taken, classes)
        drawn = shrinkage(rest.own_samples, squares.shape[1])
        own_share = torch.where(drawn < 1 - 1e-9, (1 - drawn) / rest.own_divisor, 0.0)
        variances = own_share.unsqueeze(1) * spectrum + drawn.unsqueeze(1) * tied
        taken = rest.downdate * own_share + drawn * taken
        distance, volume = self._without(squares, variances, taken, classes)
        return distance - pooled_distance, volume - pooled_volume

    @property
    def _directions(self) -> Tensor:
        return self.gaussians.whitening[:, self.moments.num_features :]

    @cached_property
    def _within(self) -> Tensor:
        """The directions of the Gaussians in those of the moments (r x r); both span the same."""
        basis, directions = self.moments.basis, self._directions
        within: Tensor = torch.linalg.solve(basis.T @ basis, basis.T @ directions)
        return within

    def _block(self, index: int) -> tuple[Tensor, Tensor]:
        """Eigenvectors and spectrum of a class's scatter in these directions."""
        if index not in self._blocks:
            scatter = self._within.T @ self.moments.class_scatter(index) @ self._within
            spectrum, vectors = torch.linalg.eigh((scatter + scatter.T) / 2)
            self._blocks[index] = vectors, spectrum.clamp_min(0)
        return self._blocks[index]

    def _coefficients(
        self, deviations: Tensor, squares: Tensor, spectrum: Tensor, rest: _Rest, index: int
    ) -> tuple[Tensor, Tensor]:
        r""":math:`\alpha` and :math:`\beta` for each sample."""
        gaussians = self.gaussians
        kept = gaussians.kept[index] / rest.divisor
        if torch.isinf(gaussians.amount[index]):
            return kept, gaussians.added[index].expand_as(kept)
        num_features = self.moments.num_features
        length = deviations.square().sum(1)
        whole = self._traces[index]
        trace = torch.maximum(whole - rest.downdate * length, self.floor * whole)
        scale = trace / (num_features * rest.divisor)
        amount = gaussians.amount[index]
        if gaussians.regularization == "jitter":
            return kept, amount * scale
        # The squared Frobenius norm of S - a d d'.
        norm = (
            spectrum.square().sum()
            - 2 * rest.downdate * (squares @ spectrum)
            + (rest.downdate * length).square()
        )
        amount = oas_shrinkage(norm, trace, rest.num_samples, num_features)
        return (1 - amount) / rest.divisor, amount * scale

    def _basis(self, index: int) -> _Basis:
        gaussians = self.gaussians
        pooled = gaussians.pooled
        if gaussians.amount[index] == 0:
            # The whitening is at hand: in its coordinates S is its divisor times the identity.
            size = self.moments.num_features
            place = gaussians.places[index]
            whitening = gaussians.whitening[:, :size] if pooled else gaussians.whitening[place]
            spectrum = gaussians.divisor[index].expand(size)
            # Of its triangular inverse; a class's own determinant may be another.
            log_volume = -2 * whitening.diagonal().log().sum()
            return _Basis(whitening, spectrum, log_volume)
        key = 0 if pooled else index
        if key not in self._bases:
            size = self.moments.num_features
            what = f"eigenvectors of {size:,} features"
            memory.require(4 * 8 * size**2, self.moments.mean.device, what, _WITHOUT)
            scatter = self.moments.scatter if pooled else self.moments.class_scatter(index)
            spectrum, vectors = torch.linalg.eigh(scatter)
            none = torch.zeros_like(spectrum[0])
            self._bases[key] = _Basis(vectors, spectrum.clamp_min(0), none)
        return self._bases[key]

    def _axis_aligned(
        self, deviations: Tensor, rest: _Rest, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For diagonal covariances; a spherical one is the same variance in all directions."""
        gaussians, num_features = self.gaussians, self.moments.num_features
        scatter, squares = self.moments.scatter[classes], deviations.square()
        if gaussians.covariance_type == "spherical":
            scatter = (scatter / num_features).unsqueeze(1).expand_as(squares)
            squares = squares.mean(1, keepdim=True).expand_as(squares)
        amount, replaced = gaussians.amount[classes], torch.isinf(gaussians.amount[classes])
        taken = rest.downdate.unsqueeze(1) * squares
        # What deviates by rounding alone is no stranger.
        rounding = _SINGLE_ROUNDING * self.moments.mean[classes].abs().amax(1, keepdim=True)
        known = scatter + rounding.square()
        leverage = (taken / known).nan_to_num(0.0).amax(1)
        self._check_leverage(leverage.masked_fill(replaced, 0.0), classes)
        left = scatter - taken
        left = torch.maximum(left, self.floor * scatter) / rest.divisor.unsqueeze(1)
        variances = left + amount.unsqueeze(1) * left.mean(1, keepdim=True)
        variances[replaced] = gaussians.added[classes][replaced].unsqueeze(1)
        return (deviations.square() / variances).sum(1), variances.log().sum(1)
