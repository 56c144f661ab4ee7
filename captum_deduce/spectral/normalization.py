r"""Soft spectral normalisation of convolutions and linear layers, as operators on real inputs.

Sources: Gouk et al., *Regularisation of Neural Networks by Enforcing Lipschitz Continuity* (2021)
for the soft bound and for convolutions as operators; Miyato et al., *Spectral Normalization for
Generative Adversarial Networks* (2018) for a power iteration that runs along with training.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from captum_deduce import checks
from captum_deduce.spectral.layers import LAYERS, as_found, label, layer_operators
from captum_deduce.spectral.operators import Operator, directions, leading_vectors, power_iteration


class SpectralBound(nn.Module):
    r"""The parametrization that :func:`spectral_normalize` puts on a layer's ``weight``.

    It gives :math:`W / \max(1, \sigma / c)`, where :math:`\sigma` is the largest
    :math:`\langle u_g, A_W v_g \rangle` of the layer's groups, differentiable in :math:`W` with
    :math:`u` and :math:`v` held fixed. In training mode each access of the weight first advances
    them by power iterations; in eval mode they stand still. :math:`\sigma` is computed in float32
    at least, also for half-precision weights and under autocast.

    Args:
        operator (Matrix or Convolution): What the layer does to its input, without the bias.
        weight (Tensor): The layer's weight, from which the first singular vectors come; their
            random start is drawn from torch's global generator.
        coeff (float): The bound c.
        n_power_iterations (int): Power iterations per access of the weight in training mode.

    Attributes:
        u (Tensor): Left singular vectors, groups x outputs per group; a buffer.
        v (Tensor): Right singular vectors, groups x inputs per group; a buffer.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self, operator: Operator, weight: Tensor, coeff: float, n_power_iterations: int
    ) -> None:
        super().__init__()
        self.operator = operator
        self.coeff = coeff
        self.n_power_iterations = n_power_iterations
        with torch.no_grad():
            wide = _at_least_float32(weight)
            start = [torch.randn(shape).to(wide) for shape in (operator.range, operator.domain)]
            u, v = (directions(vectors, vectors) for vectors in start)
            v = leading_vectors(operator, wide, v)
            self.register_buffer("u", directions(operator(wide, v), u))
            self.register_buffer("v", v)

    def forward(self, weight: Tensor) -> Tensor:
        """Bound a weight, or hand out the one that a search in this thread holds.

        Args:
            weight (Tensor): The layer's own weight.

        Returns:
            Tensor: The bounded weight, of the same shape and dtype.
        """
        frozen = _frozen_weight(self)
        return self.bounded(weight, advance=self.training) if frozen is None else frozen

    def bounded(self, weight: Tensor, *, advance: bool = False) -> Tensor:
        r"""Compute :math:`W / \max(1, \sigma / c)`.

        Args:
            weight (Tensor): The layer's own weight.
            advance (bool, optional): Whether to make power iterations first. Default: False

        Returns:
            Tensor: The bounded weight; bit for bit the given one where sigma is at most c.
        """
        with torch.autocast(weight.device.type, enabled=False):
            wide = _at_least_float32(weight)
            # Scaled anew because half-precision buffers are rounded, and so that the graph holds
            # tensors of its own: the next access changes the buffers in place.
            u, v = (directions(s, s) for s in (self.u.to(wide), self.v.to(wide)))
            if advance:
                u, v = self._power_iterations(wide, u, v)
            sigma = (u * self.operator(wide, v)).sum(1).amax()
            return weight / (sigma / self.coeff).clamp(min=1)

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


def spectral_normalize(
    module: nn.Module,
    coeff: float = 4.0,
    *,
    example_input: Tensor | tuple[Any, ...] | None = None,
    n_power_iterations: int = 1,
) -> nn.Module:
    r"""Bound the largest singular value of every convolution and linear layer, in place.

    Each weight :math:`W` becomes :math:`W / \max(1, \sigma(W) / c)` through a torch
    parametrization: a soft bound, which leaves a layer with :math:`\sigma \le c` as it is.
    :math:`\sigma` is the operator norm of what the layer does to its input, the bias aside:

    - a convolution (one to three dimensions, plain or transposed, any stride, zero padding,
      dilation and groups) as a map of a whole zero-padded signal, of the size that it has in a
      forward pass of ``example_input``. A layer that is called at several sizes is bounded at the
      largest, which bounds it at the others;
    - a linear layer, or a convolution with a kernel of one entry, as a matrix per group.

    Normalise first, then train as usual. In training mode each use of a weight is preceded by power
    iterations (each a convolution and its adjoint on one image), and the gradient goes through
    :math:`\sigma`. In eval mode :math:`\sigma` comes from the singular vectors as training left
    them. :func:`frozen_spectral_weights` and :func:`remove_spectral_normalization` take away what
    that still costs.

    **What the bound means.** It is a bound per layer, for inputs no larger than those of
    ``example_input``. Power iterations approach :math:`\sigma` from below and lag while weights
    change quickly; at the end of a training whose learning rate has fallen the excess is well below
    1% (:func:`spectral_norms` measures it). Nothing else in the network is bounded: ordinary batch
    norm between the layers may scale by any factor, and so may recurrent layers, embeddings and
    attention's input projections. So there is no guarantee of smoothness for the whole network by
    this alone. A residual block :math:`x + g(x)` keeps at least :math:`1 - L` of every distance
    (features stay sensitive to the input) only where its branch :math:`g` has a Lipschitz constant
    :math:`L < 1`. With the published coefficient of 4, most 3x3 convolutions never reach the bound.

    Singular vectors are buffers: ``state_dict`` holds them, ``.to()`` moves them, and deep copies
    work. As with every torch parametrization the module can't be pickled: save its ``state_dict``,
    or remove the normalisation first. To load a ``state_dict``, normalise a model in the same way.

    Args:
        module (nn.Module): Any model, or a single layer. Changed in place.
        coeff (float, optional): The bound c, above 0. Default: 4.0
        example_input (Tensor or tuple, optional): What ``module`` takes: a batch, or a tuple of
            positional arguments; one image is enough. Run once, in eval mode without gradients;
            modes, buffers, hooks and random state stay as they were. Not needed where no
            convolution has a kernel of more than one entry. Default: None
        n_power_iterations (int, optional): Power iterations before each use of a weight in training
            mode. Default: 1

    Returns:
        nn.Module: ``module``.

    Raises:
        TypeError: An argument of another kind.
        ValueError: A number out of range, ``example_input`` missing or failing, or a layer that
            can't be bounded (the message names it): bounded already; with a weight that is shared,
            computed by something else, not initialised or not finite; padded with anything but
            zeros; with a forward of its own; or a convolution that the forward pass never calls.
            The module is then as it was.

    **Deviations.** Gouk et al. project the weights after each step; as in Miyato et al., the bound
    is here part of the forward pass. A matrix with a side of at most 128 entries makes 1024 power
    iterations for each one asked for: a classifier's last layer would lag by up to 20% otherwise.

    Examples::

        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 10))
        >>> model = spectral_normalize(model, coeff=0.5, example_input=torch.rand(1, 1, 8, 8))
        >>> {name: round(norm, 2) for name, norm in spectral_norms(model).items()}
        {'0': 0.5, '2': 0.5}
    """
    layers = _layers(module)
    checks.number("coeff", coeff, minimum=0, exclusive=True)
    checks.number("n_power_iterations", n_power_iterations, minimum=1, integer=True)
    _refuse_unboundable(module, layers)
    operators = layer_operators(module, layers, example_input)
    bounds = {
        name: SpectralBound(operators[name], layer.weight, float(coeff), int(n_power_iterations))
        for name, layer in layers.items()
    }
    for name, layer in layers.items():
        # The checks that this leaves out would make a power iteration.
        parametrize.register_parametrization(layer, "weight", bounds[name], unsafe=True)
    return module


def remove_spectral_normalization(module: nn.Module) -> nn.Module:
    """Leave plain layers whose weights are the bounded ones, as eval mode computes them.

    Parameters stay the same objects, so that an optimiser keeps them. The module pickles again;
    parametrizations that others put on other tensors stay. Copies of the module are not affected.

    Args:
        module (nn.Module): A model that :func:`spectral_normalize` changed (another is returned as
            it is). Changed in place.

    Returns:
        nn.Module: ``module``.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: A layer whose weight has another parametrization after this one; the module is
            left as it was.
    """
    bounded = _bounded_layers(module)
    for name, (layer, _) in bounded.items():
        if len(layer.parametrizations["weight"]) > 1:
            raise ValueError(
                f"module: {label(name, layer)} has another parametrization on its weight after "
                "spectral normalisation; remove that first"
            )
    for layer, bound in bounded.values():
        original = layer.parametrizations["weight"].original
        with torch.no_grad():
            original.copy_(bound.bounded(original))
        # A deep copy shares the class that torch made for the layer, and the removal takes the
        # weight's property out of the class.
        shared = type(layer)
        layer.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        if "bias" in layer._parameters:
            # After the weight again: optimisers number parameters in this order.
            layer._parameters["bias"] = layer._parameters.pop("bias")
    return module


class _Searches(threading.local):
    """The weights that the contexts open in this thread hold."""

    def __init__(self) -> None:
        self.held: list[dict[SpectralBound, Tensor]] = []


_searches = _Searches()


def _frozen_weight(bound: SpectralBound) -> Tensor | None:
    for weights in _searches.held:
        if bound in weights:
            return weights[bound]
    return None


@contextmanager
def frozen_spectral_weights(module: nn.Module) -> Iterator[None]:
    """Compute bounded weights once, for a search that runs the model many times.

    Inside the ``with`` block every spectrally normalised layer below ``module`` uses one detached
    weight, computed on entry as eval mode computes it, so that a step costs what it costs with
    plain layers. Changes of the parameters meanwhile have no effect, and no gradient reaches them.
    This holds in the thread that entered the block and in no other, so that several may search the
    same model at a time. Blocks may be nested. Nothing stays after the block, whatever ends it.

    Args:
        module (nn.Module): A model, spectrally normalised or not.

    Raises:
        TypeError: ``module`` is no module.

    Examples::

        >>> model = spectral_normalize(nn.Linear(4, 2), coeff=.5).eval()
        >>> with frozen_spectral_weights(model):
        ...     model.weight.requires_grad, model.weight is model.weight
        (False, True)
    """
    weights = {}
    with torch.no_grad():
        for layer, bound in _bounded_layers(module).values():
            frozen = _frozen_weight(bound)
            if frozen is None:
                frozen = bound.bounded(layer.parametrizations["weight"].original)
            weights[bound] = frozen
    held = _searches.held
    try:
        held.append(weights)
        yield
    finally:
        # By identity and in the list of the thread that entered: blocks that generators hold may
        # end in any order and in another thread.
        held[:] = [others for others in held if others is not weights]


def spectral_norms(
    module: nn.Module, *, example_input: Tensor | tuple[Any, ...] | None = None
) -> dict[str, float]:
    """Measure the largest singular value of every convolution and linear layer as it is used now.

    It is estimated afresh, by a Lanczos iteration from a random start, to about 0.1%, on the weight
    that eval mode uses. Works on plain models too, to see which layers a bound would touch.

    Args:
        module (nn.Module): A model, spectrally normalised or not. Left as it was.
        example_input (Tensor or tuple, optional): What ``module`` takes, for the sizes on which
            convolutions are measured. Default: None (the sizes at which each layer was normalised;
            plain convolutions with a kernel of more than one entry then raise)

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
    layers = _layers(module)
    operators: dict[str, Operator] = {}
    if example_input is None:
        operators = {name: bound.operator for name, (_, bound) in _bounded_layers(module).items()}
    unknown = {name: layer for name, layer in layers.items() if name not in operators}
    generator = torch.Generator().manual_seed(0)
    norms = {}
    with as_found(module):
        operators |= layer_operators(module, unknown, example_input)
        for name, layer in layers.items():
            operator, weight = operators[name], _at_least_float32(layer.weight)
            start = torch.randn(operator.domain, generator=generator).to(weight)
            v = leading_vectors(operator, weight, start)
            norms[name] = float(torch.linalg.vector_norm(operator(weight, v), dim=1).amax())
    return norms


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _layers(module: nn.Module) -> dict[str, Any]:
    _refuse_other_than_module(module)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"module: {name!r} has no values yet (a lazy layer, or the meta device); expected "
                "an initialised model"
            )
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS)}
    if not layers:
        raise ValueError(
            f"module must hold a linear or convolutional layer, got none in {type(module).__name__}"
        )
    return layers


def _bounded_layers(module: nn.Module) -> dict[str, tuple[Any, SpectralBound]]:
    _refuse_other_than_module(module)
    return {
        name: (layer, bound)
        for name, layer in module.named_modules()
        if parametrize.is_parametrized(layer, "weight")
        for bound in layer.parametrizations["weight"]
        if isinstance(bound, SpectralBound)
    }


def _refuse_other_than_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")


def _refuse_unboundable(module: nn.Module, layers: dict[str, Any]) -> None:
    places: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner._parameters.items():
            places.setdefault(id(parameter), []).append(f"{prefix}.{name}".lstrip("."))
    bounded = _bounded_layers(module)
    for name, layer in layers.items():
        described = f"module: {label(name, layer)}"
        if name in bounded:
            raise ValueError(
                f"{described} is spectrally normalised already; call "
                "remove_spectral_normalization first"
            )
        if "weight" not in layer._parameters:
            raise ValueError(
                f"{described} has a weight that something else computes (a parametrization, weight "
                "norm, pruning); remove that first"
            )
        weight = layer.weight
        if weight.numel() == 0 or not weight.is_floating_point() or not weight.isfinite().all():
            raise ValueError(
                f"{described} must have a weight of finite real numbers, got shape "
                f"{tuple(weight.shape)}, {weight.dtype}, with "
                f"{int((~weight.isfinite()).sum())} entries that are NaN or infinite"
            )
        if len(places[id(weight)]) > 1:
            raise ValueError(
                f"{described} shares its weight between {' and '.join(places[id(weight)])}, but a "
                "bound belongs to one layer; give each a parameter of its own"
            )
