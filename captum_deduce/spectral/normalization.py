r"""Soft spectral normalisation of convolutions and linear layers, as operators on real inputs.

Sources: Gouk et al., *Regularisation of Neural Networks by Enforcing Lipschitz Continuity* (2021)
for the soft bound and for convolutions as operators; Miyato et al., *Spectral Normalization for
Generative Adversarial Networks* (2018) for a power iteration that runs along with training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from captum_deduce import checks, progress
from captum_deduce.spectral.bound import SpectralBound, bounded_layers
from captum_deduce.spectral.layers import Skip, chosen_layers, label, layer_operators
from captum_deduce.spectral.plain_state import accept_plain_weight, stop_accepting_plain_weight


def spectral_normalize(
    module: nn.Module,
    coeff: float = 4.0,
    *,
    example_input: Tensor | tuple[Any, ...] | None = None,
    n_power_iterations: int = 1,
    skip: Skip = None,
    show_progress: bool | None = None,
) -> nn.Module:
    r"""Bound the largest singular value of every convolution and linear layer, in place.

    Each weight :math:`W` becomes :math:`W / \max(1, \sigma(W) / c)` through a torch
    parametrization: a soft bound, which leaves a layer with :math:`\sigma \le c` as it is.
    :math:`\sigma` is the operator norm of what the layer does to its input, the bias aside:

    - a convolution (one to three dimensions, plain or transposed, any stride, padding, dilation and
      groups) as a map of a whole signal with its padding, of the size that it has in a forward pass
      of ``example_input``. A layer that is called at several sizes is bounded at the largest, which
      bounds it at the others if it is padded with zeros, and nearly so if it is not;
    - a linear layer, or a convolution with a kernel of one entry, as a matrix per group.

    Normalise first, then train as usual. In training mode each use of a weight is preceded by power
    iterations (each a convolution and its adjoint on one image), and the gradient goes through
    :math:`\sigma`. In eval mode :math:`\sigma` comes from the singular vectors as training left
    them. :func:`frozen_spectral_weights` and :func:`remove_spectral_normalization` take away what
    that still costs. Under activation checkpointing the repeated forward pass makes no power
    iterations, so that gradients are those without it. (Two exceptions: where a layer is used
    several times before one backward pass, all repetitions take the singular vectors of its last
    use; and what ``torch.compile`` has compiled iterates again.)

    **What the bound means.** It is a bound per layer, for inputs no larger than those of
    ``example_input``. Power iterations approach :math:`\sigma` from below and lag while weights
    change quickly; at the end of a training whose learning rate has fallen the excess is well below
    1% (:func:`spectral_norms` measures it). Where a weight has exact symmetries, as that of a
    convolution of a single channel without padding, they may stay with a vector that no longer
    leads, which the same measurement shows. Nothing else in the network is bounded: ordinary batch
    norm between the layers may scale by any factor, and so may recurrent layers, embeddings and
    attention's input projections. So there is no guarantee of smoothness for the whole network by
    this alone. A residual block :math:`x + g(x)` keeps at least :math:`1 - L` of every distance
    (features stay sensitive to the input) only where its branch :math:`g` has a Lipschitz constant
    :math:`L < 1`. With the published coefficient of 4, most 3x3 convolutions never reach the bound.

    Singular vectors are buffers: ``state_dict`` holds them, ``.to()`` moves them, and deep copies
    work. As with every torch parametrization the module can't be pickled: save its ``state_dict``,
    or remove the normalisation first. To load a ``state_dict``, normalise a model in the same way.
    That of a plain model fits, too: the result is what normalising the loaded plain model would
    give. :func:`unbounded_weights` is for initialisers and other writes in place;
    ``layer.weight = tensor`` sets a single weight. ``parameters()`` keeps its order, so that the
    state of an optimiser fits the model before and after.

    Args:
        module (nn.Module): Any model, or a single layer. Changed in place.
        coeff (float, optional): The bound c, above 0. Default: 4.0
        example_input (Tensor or tuple, optional): What ``module`` takes: a batch, or a tuple of
            positional arguments; one image is enough. Run once, in eval mode without gradients;
            modes, buffers, hooks and random state stay as they were. Not needed where no
            convolution has a kernel of more than one entry. Default: None
        n_power_iterations (int, optional): Power iterations before each use of a weight in training
            mode. Default: 1
        skip (optional): Layers to leave unbounded:
            dotted names or submodules, one or several, each of which stands for all that is in it
            (``skip="AuxLogits"`` for the training-only head of torchvision's Inception); or a
            function that is called with a layer's name and the layer, and returns whether to leave
            it out. Default: None
        show_progress (bool, optional): Draw a progress bar over the layers; the larger the images,
            the longer it takes. Default: None (where a person looks on, in a terminal or notebook,
            once it has taken two seconds)

    Returns:
        nn.Module: ``module``.

    Raises:
        TypeError: An argument of another kind.
        ValueError: A number out of range, ``example_input`` missing or failing, something in
            ``skip`` that is not in ``module``, or a layer that can't be bounded (the message names
            it, and ``skip`` leaves it out): bounded already; with a weight that is shared, computed
            by something else, not initialised or not finite; with a forward of its own; or a
            convolution that the forward pass never calls. The module is then as it was.

    **Deviations.** Gouk et al. project the weights after each step; as in Miyato et al., the bound
    is here part of the forward pass. A matrix with a side of at most 128 entries makes 1024 power
    iterations for each one asked for: a classifier's last layer would lag by up to 20% otherwise.

    Examples::

        >>> from captum_deduce.spectral import spectral_norms
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 10))
        >>> model = spectral_normalize(model, coeff=0.5, example_input=torch.rand(1, 1, 8, 8))
        >>> {name: round(norm, 2) for name, norm in spectral_norms(model).items()}
        {'0': 0.5, '2': 0.5}
    """
    layers = chosen_layers(module, skip)
    checks.number("coeff", coeff, minimum=0, exclusive=True)
    checks.number("n_power_iterations", n_power_iterations, minimum=1, integer=True)
    _refuse_unboundable(module, layers)
    progress.shown(show_progress)  # refuses other values before any work is done
    operators = layer_operators(module, layers, example_input)
    bar = progress.bar(
        layers.items(), desc="spectral norms", unit="layer", show_progress=show_progress
    )
    bounds = {
        name: SpectralBound(operators[name], layer.weight, float(coeff), int(n_power_iterations))
        for name, layer in bar
    }
    for name, layer in layers.items():
        _put(bounds[name], layer)
    return module


def _put(bound: SpectralBound, layer: Any) -> None:
    weight_first = next(iter(layer._parameters)) == "weight"
    _give_a_class_of_its_own(layer)
    bound.put_on(layer)
    accept_plain_weight(layer)
    if weight_first:
        own_class: Any = type(layer)
        own_class.named_modules = _weight_first


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
    bounded = bounded_layers(module)
    for name, (layer, _) in bounded.items():
        if len(layer.parametrizations["weight"]) > 1:
            raise ValueError(
                f"module: {label(name, layer)} has another parametrization on its weight after "
                "spectral normalisation; remove that first"
            )
    for layer, bound in bounded.values():
        _take_off(bound, layer)
    return module


def _take_off(bound: SpectralBound, layer: Any) -> None:
    original = layer.parametrizations["weight"].original
    with torch.no_grad():
        original.copy_(bound.bounded(original))
    stop_accepting_plain_weight(layer)
    _give_a_class_of_its_own(layer)
    weight_first = vars(type(layer)).get("named_modules") is _weight_first
    if weight_first:
        delattr(type(layer), "named_modules")
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    if weight_first:
        others = [name for name in layer._parameters if name != "weight"]
        for name in others:
            layer._parameters[name] = layer._parameters.pop(name)


def _give_a_class_of_its_own(layer: Any) -> None:
    """Part a parametrized layer from its deep copies.

    They share the class that torch made for the layer, in which the weight's property stands.
    """
    if parametrize.is_parametrized(layer):
        shared = type(layer)
        layer.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))


def _weight_first(
    self: nn.Module,
    memo: set[nn.Module] | None = None,
    prefix: str = "",
    remove_duplicate: bool = True,
) -> Iterator[tuple[str, nn.Module]]:
    """``named_modules`` of a normalised layer: the modules below its weight, then all others.

    ``parameters()`` goes through modules in this order. Without it the weight, which has moved to a
    module below the layer, would come after the bias, and the state of an optimiser, which numbers
    parameters, would go to the wrong one.
    """
    plain: Any = parametrize.type_before_parametrizations(self)
    found = list(plain.named_modules(self, memo, prefix, remove_duplicate))
    weight = ".".join(filter(None, [prefix, "parametrizations", "weight"]))
    return iter(sorted(found, key=lambda entry: not f"{entry[0]}.".startswith(f"{weight}.")))


def _refuse_unboundable(module: nn.Module, layers: Mapping[str, Any]) -> None:
    places: dict[int, list[str]] = {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner._parameters.items():
            places.setdefault(id(parameter), []).append(f"{prefix}.{name}".lstrip("."))
    bounded = bounded_layers(module)
    for name, layer in layers.items():
        described = f"module: {label(name, layer)}"
        if name in bounded:
            raise ValueError(
                f"{described} is spectrally normalised already; call "
                f"remove_spectral_normalization first, or leave it as it is with skip=[{name!r}]"
            )
        if "weight" not in layer._parameters:
            raise ValueError(
                f"{described} has a weight that something else computes (a parametrization, weight "
                f"norm, pruning); remove that first, or leave the layer out with skip=[{name!r}]"
            )
        weight = layer.weight
        if weight.numel() == 0 or not weight.is_floating_point() or not weight.isfinite().all():
            raise ValueError(
                f"{described} must have a weight of finite real numbers, got shape "
                f"{tuple(weight.shape)}, {weight.dtype}, with "
                f"{int((~weight.isfinite()).sum())} entries that are NaN or infinite; "
                f"skip=[{name!r}] leaves the layer out"
            )
        if len(places[id(weight)]) > 1:
            raise ValueError(
                f"{described} shares its weight between {' and '.join(places[id(weight)])}, but a "
                "bound belongs to one layer; give each a parameter of its own, or leave out all "
                "that share it with skip"
            )
