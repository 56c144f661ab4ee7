"""The parametrization that bounds a layer's weight, and the weights that blocks hold instead."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from captum_deduce.spectral.layers import refuse_other_than_module
from captum_deduce.spectral.operators import Operator, directions, leading_vectors, power_iteration


class SpectralBound(nn.Module):
    r"""The parametrization that :func:`spectral_normalize` puts on a layer's ``weight``.

    It gives :math:`W / \max(1, \sigma / c)`, where :math:`\sigma` is the largest
    :math:`\langle u_g, A_W v_g \rangle` of the layer's groups, differentiable in :math:`W` with
    :math:`u` and :math:`v` held fixed. In training mode each access of the weight first advances
    them by power iterations, except within a backward pass: there activation checkpointing repeats
    a forward pass, and has to find what that has used. In eval mode they stand still.
    :math:`\sigma` is computed in float32 at least, also for half-precision weights and under
    autocast.

    Args:
        operator (Matrix or Convolution): What the layer does to its input, without the bias.
        weight (Tensor): The layer's weight, from which the first singular vectors come; their
            random start is drawn from torch's global generator.
        coeff (float): The bound c.
        n_power_iterations (int): Power iterations per access of the weight in training mode.

    Attributes:
        u (Tensor): Left singular vectors, groups x outputs per group; a buffer in the weight's
            dtype.
        v (Tensor): Right singular vectors, groups x inputs per group; likewise.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self, operator: Operator, weight: Tensor, coeff: float, n_power_iterations: int
    ) -> None:
        super().__init__()
        self.operator = operator
        self.weight_shape = weight.shape
        self.coeff = coeff
        self.n_power_iterations = n_power_iterations
        self._assignable = False
        u, v = _singular_vectors(operator, weight)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def put_on(self, layer: nn.Module) -> None:
        """Compute the weight of a layer from now on.

        Args:
            layer (nn.Module): The layer whose weight was given to the constructor.
        """
        # The checks that `unsafe` leaves out would make a power iteration.
        parametrize.register_parametrization(layer, "weight", self, unsafe=True)
        self._assignable = True

    def forward(self, weight: Tensor) -> Tensor:
        """Bound a weight, or hand out the one that a block in this thread holds.

        Args:
            weight (Tensor): The layer's own weight.

        Returns:
            Tensor: The bounded weight, of the same shape and dtype.
        """
        held = held_weight(self, weight)
        if held is not None:
            return held
        return self.bounded(weight, advance=self.training and not _in_backward_pass())

    def bounded(self, weight: Tensor, *, advance: bool = False) -> Tensor:
        r"""Compute :math:`W / \max(1, \sigma / c)`.

        Args:
            weight (Tensor): The layer's own weight.
            advance (bool, optional): Whether to make power iterations first. Default: False

        Returns:
            Tensor: The bounded weight; bit for bit the given one where sigma is at most c.
        """
        with torch.autocast(weight.device.type, enabled=False):
            wide = at_least_float32(weight)
            # Scaled anew because half-precision buffers are rounded, and so that the graph holds
            # tensors of its own: the next access changes the buffers in place.
            u, v = (directions(s, s) for s in (self.u.to(wide), self.v.to(wide)))
            if advance:
                u, v = self._power_iterations(wide, u, v)
            sigma = (u * self.operator(wide, v)).sum(1).amax()
            return weight / (sigma / self.coeff).clamp(min=1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Make a weight the layer's own: what torch calls on ``layer.weight = weight``.

        Args:
            weight (Tensor): Of the shape of the layer's weight; dtype and device may be others, as
                for ``copy_``.

        Returns:
            Tensor: A copy, in the dtype and on the device of the layer.

        Raises:
            TypeError: No tensor.
            ValueError: Another shape, or an entry that is NaN or infinite. The layer is left as it
                was.
        """
        if not self._assignable:
            raise NotImplementedError("torch then registers the layer's weight as it is")
        if not isinstance(weight, Tensor):
            raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
        if weight.shape != self.weight_shape:
            raise ValueError(
                f"weight must have the shape of the layer's, {tuple(self.weight_shape)}, got "
                f"{tuple(weight.shape)}"
            )
        own = weight.detach().to(self.v, copy=True)
        if not own.isfinite().all():
            raise ValueError(
                "weight must be finite, got "
                f"{int((~own.isfinite()).sum())} entries that are NaN or infinite"
            )
        self.aim(own)
        return own

    def aim(self, weight: Tensor) -> None:
        """Take the singular vectors anew, after the weight has changed otherwise than by training.

        Args:
            weight (Tensor): The layer's own weight.
        """
        u, v = self.vectors(weight)
        self.u.copy_(u)
        self.v.copy_(v)

    def vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Find the leading singular vectors of a weight, from a start that is always the same.

        Args:
            weight (Tensor): Of the shape of the layer's.

        Returns:
            tuple[Tensor, Tensor]: What ``u`` and ``v`` should be for it.
        """
        return _singular_vectors(self.operator, weight, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def _power_iterations(self, weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(self.n_power_iterations):
            u, v = power_iteration(self.operator, weight, u, v)
        # In place, so that replicas that share the buffers' memory follow.
        self.u.copy_(u)
        self.v.copy_(v)
        return u, v

    def extra_repr(self) -> str:
        """Settings for the printed form of a model.

        Returns:
            str: The coefficient and the number of power iterations.
        """
        return f"coeff={self.coeff}, n_power_iterations={self.n_power_iterations}"


def bounded_layers(module: nn.Module) -> dict[str, tuple[Any, SpectralBound]]:
    """Find the spectrally normalised layers of a model.

    Args:
        module (nn.Module): Any model.

    Returns:
        dict[str, tuple[nn.Module, SpectralBound]]: Each layer with its bound, by dotted name.

    Raises:
        TypeError: ``module`` is no module.
    """
    refuse_other_than_module(module)
    return {
        name: (layer, bound)
        for name, layer in module.named_modules()
        if parametrize.is_parametrized(layer, "weight")
        for bound in layer.parametrizations["weight"]
        if isinstance(bound, SpectralBound)
    }


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision.

    Args:
        tensor (Tensor): Real numbers.

    Returns:
        Tensor: In float32, or in float64 where it was that.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Held(NamedTuple):
    """A weight that a block hands out, and the one that it stands for.

    Attributes:
        original (Tensor): The layer's own weight when the block was entered.
        bounded (Tensor): What is handed out in its place.
    """

    original: Tensor
    bounded: Tensor


class _Blocks(threading.local):
    """The weights that the blocks open in this thread hold, the innermost last."""

    def __init__(self) -> None:
        self.held: list[Mapping[SpectralBound, Held]] = []


_blocks = _Blocks()


def held_weight(bound: SpectralBound, weight: Tensor) -> Tensor | None:
    """Look for a weight that a block in this thread holds.

    Args:
        bound (SpectralBound): Whose weight.
        weight (Tensor): The layer's own weight. Others in its place, as those of
            ``torch.func.functional_call``, are not what a block holds.

    Returns:
        Tensor or None: What the innermost block that knows the bound holds.
    """
    for weights in reversed(_blocks.held):
        if bound in weights:
            held = weights[bound]
            return held.bounded if held.original is weight else None
    return None


@contextmanager
def hold(weights: Mapping[SpectralBound, Held]) -> Iterator[None]:
    """Within the block, in this thread, bounds hand out given weights.

    Args:
        weights (dict[SpectralBound, Held]): The weights.
    """
    held = _blocks.held
    try:
        held.append(weights)
        yield
    finally:
        # By identity and in the list of the thread that entered: blocks that generators hold may
        # end in any order and in another thread.
        held[:] = [others for others in held if others is not weights]


def _singular_vectors(
    operator: Operator, weight: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Each group's leading left and right singular vectors, in the weight's dtype."""
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        wide = at_least_float32(weight)
        shapes = (operator.range, operator.domain)
        start = [torch.randn(shape, generator=generator).to(wide) for shape in shapes]
        u, v = (directions(vectors, vectors) for vectors in start)
        v = leading_vectors(operator, wide, v)
        return directions(operator(wide, v), u).to(weight), v.to(weight)


def _in_backward_pass() -> bool:
    # Dynamo can not trace the question, and a break of the graph at every layer costs too much.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
