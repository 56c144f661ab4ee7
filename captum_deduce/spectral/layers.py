"""The operators of a model's layers, on the sizes that a forward pass shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from captum_deduce.spectral.operators import Convolution, Matrix, Operator, Size

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""The kinds of layers that have an operator here."""

Skip = str | nn.Module | Iterable[str | nn.Module] | Callable[[str, nn.Module], bool] | None
"""Layers to leave out, as :func:`spectral_normalize` takes them."""


def chosen_layers(module: nn.Module, skip: Skip = None) -> dict[str, Any]:
    """Find the layers of a model that have an operator here, without those that are left out.

    Args:
        module (nn.Module): The model.
        skip (optional): What to leave out, as in :func:`spectral_normalize`. Default: None

    Returns:
        dict[str, nn.Module]: By dotted name; a layer with several names has its first.

    Raises:
        TypeError: ``module`` is no module, or ``skip`` of another kind.
        ValueError: Something in ``skip`` is not in ``module``; no layer is left; a parameter or
            buffer that has no values yet.
    """
    refuse_other_than_module(module)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"module: {name!r} has no values yet (a lazy layer, or the meta device); expected "
                "an initialised model: run it once on a batch first"
            )
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS)}
    if not layers:
        raise ValueError(
            f"module must hold a linear or convolutional layer, got none in {type(module).__name__}"
        )
    left_out = _left_out(module, layers, skip)
    chosen = {name: layer for name, layer in layers.items() if layer not in left_out}
    if not chosen:
        raise ValueError(f"skip leaves none of the {len(layers)} layers of the module to bound")
    return chosen


def _left_out(module: nn.Module, layers: Mapping[str, nn.Module], skip: Skip) -> set[nn.Module]:
    if skip is None:
        return set()
    if callable(skip) and not isinstance(skip, nn.Module | type):
        return {layer for name, layer in layers.items() if skip(name, layer)}
    entries = [skip] if isinstance(skip, str | nn.Module) else skip
    if not isinstance(entries, Iterable):
        raise _wrong_skip(skip)
    known = dict(module.named_modules(remove_duplicate=False))
    inside = set(known.values())
    left_out: set[nn.Module] = set()
    for entry in entries:
        if not isinstance(entry, str | nn.Module):
            raise _wrong_skip(entry)
        part = known.get(entry) if isinstance(entry, str) else entry
        if part is None or part not in inside:
            named = repr(entry) if isinstance(entry, str) else f"a {type(entry).__name__}"
            raise ValueError(
                f"skip: {named} is not in the module; expected parts of it, or their dotted names, "
                f"such as {next(iter(layers))!r}"
            )
        left_out.update(part.modules())
    return left_out


def _wrong_skip(given: object) -> TypeError:
    return TypeError(
        "skip must be a name or a submodule, several of them, or a function of a layer's name and "
        f"the layer; got {type(given).__name__}: {given!r}"
    )


def refuse_other_than_module(module: object) -> None:
    """Refuse what is no module.

    Args:
        module (nn.Module): What the user gave.

    Raises:
        TypeError: Something else.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")


def layer_operators(
    module: nn.Module, layers: Mapping[str, Any], example_input: object
) -> dict[str, Operator]:
    """Find what layers do to their inputs, with one forward pass where sizes matter.

    Args:
        module (nn.Module): The model that is run.
        layers (dict[str, nn.Module]): Layers in it by name, each one of :data:`LAYERS`.
        example_input (Tensor, tuple or None): What ``module`` takes; may be None where every layer
            is a matrix.

    Returns:
        dict[str, Matrix or Convolution]: By the same names.

    Raises:
        TypeError: ``example_input`` is neither a tensor nor a tuple.
        ValueError: ``example_input`` is missing or the forward pass fails on it; a convolution that
            it does not reach; a layer with a forward of its own. Where leaving a layer out helps,
            the message says so.
    """
    for name, layer in layers.items():
        _refuse_unknown(name, layer)
    spatial = {name: layer for name, layer in layers.items() if not _is_matrix(layer)}
    sizes = _call_sizes(module, spatial, example_input) if spatial else {}
    return {
        name: _convolution(layer, *sizes[name]) if name in sizes else _matrix(layer)
        for name, layer in layers.items()
    }


def label(name: str, layer: nn.Module) -> str:
    """Name a layer in a message.

    Args:
        name (str): Its dotted name.
        layer (nn.Module): The layer.

    Returns:
        str: The name and the layer's class before parametrizations.
    """
    return f"layer {name!r} ({parametrize.type_before_parametrizations(layer).__name__})"


def _refuse_unknown(name: str, layer: Any) -> None:
    base = next(base for base in LAYERS if isinstance(layer, base))
    for method in ("forward", "_conv_forward"):
        if getattr(getattr(layer, method, None), "__func__", None) is not getattr(
            base, method, None
        ):
            raise ValueError(
                f"module: {label(name, layer)} has a {method} of its own, so that its weight does "
                f"not tell what it does; expected that of nn.{base.__name__}, or "
                f"skip=[{name!r}]"
            )


def _is_matrix(layer: Any) -> bool:
    if any(extent > 1 for extent in getattr(layer, "kernel_size", ())):
        return False
    # Zeros around the signal add nothing, repeated entries do.
    return getattr(layer, "padding_mode", "zeros") == "zeros" or not any(layer.padding)


def _matrix(layer: Any) -> Matrix:
    groups = getattr(layer, "groups", 1)
    rows, columns = layer.weight.shape[:2]
    return Matrix(groups, rows // groups, columns)


def _convolution(layer: Any, input_size: Size, output_size: Size) -> Convolution:
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    zeros = (0,) * len(reach)
    padding, output_padding, margins = layer.padding, zeros, ((0, 0),) * len(reach)
    if padding == "valid":
        padding = zeros
    elif padding == "same":
        padding = tuple(total // 2 for total in reach)
        margins = tuple((0, total % 2) for total in reach)
    if layer.padding_mode != "zeros":
        ends = zip(padding, margins, strict=True)
        margins = tuple((p + before, p + after) for p, (before, after) in ends)
        padding = zeros
    if layer.transposed:
        # From the sizes, as a call may ask for its own with output_size.
        extents = zip(input_size, output_size, layer.stride, padding, reach, strict=True)
        output_padding = tuple(out - (n - 1) * s + 2 * p - r - 1 for n, out, s, p, r in extents)
    return Convolution(
        groups=layer.groups,
        input_shape=(layer.in_channels, *input_size),
        output_shape=(layer.out_channels, *output_size),
        stride=layer.stride,
        padding=padding,
        dilation=layer.dilation,
        transposed=layer.transposed,
        output_padding=output_padding,
        margins=margins,
        padding_mode=layer.padding_mode,
    )


def _call_sizes(
    module: nn.Module, layers: Mapping[str, Any], example_input: object
) -> dict[str, tuple[Size, Size]]:
    """Each convolution's spatial input and output size, along each dimension the largest seen.

    Of a zero-padded signal the operator on a smaller one is a part of that on a larger one (zeros
    follow the smaller), so that the largest singular value of the larger bounds them all.
    """
    if example_input is None:
        name, layer = next(iter(layers.items()))
        raise ValueError(
            f"example_input is needed for the input size of {label(name, layer)}; pass a batch as "
            "the module takes it, for example images[:1], or leave the layer out with "
            f"skip=[{name!r}]"
        )
    if not isinstance(example_input, Tensor | tuple):
        raise TypeError(
            "example_input must be a torch.Tensor or a tuple of the module's positional arguments, "
            f"got {type(example_input).__name__}"
        )
    sizes: dict[str, tuple[Size, Size]] = {}

    def read(name: str) -> Callable[..., None]:
        def hook(layer: Any, args: Any, kwargs: Any, output: Tensor) -> None:
            signal = args[0] if args else kwargs["input"]
            dims = len(layer.kernel_size)
            call = (tuple(signal.shape[-dims:]), tuple(output.shape[-dims:]))
            (inputs, outputs), known = call, sizes.get(name, call)
            sizes[name] = (tuple(map(max, inputs, known[0])), tuple(map(max, outputs, known[1])))

        return hook

    with as_found(module), ExitStack() as hooks:
        for name, layer in layers.items():
            # First among the hooks: a user's own may replace the output.
            handle = layer.register_forward_hook(read(name), prepend=True, with_kwargs=True)
            hooks.callback(handle.remove)
        try:
            module(*(example_input if isinstance(example_input, tuple) else (example_input,)))
        except Exception as error:
            raise ValueError(f"example_input: the forward pass on it failed: {error}") from error
    unreached = [label(name, layer) for name, layer in layers.items() if name not in sizes]
    if unreached:
        raise ValueError(
            f"example_input: the forward pass in eval mode never calls {', '.join(unreached)}; "
            "pass an input that reaches every layer, or leave layers out with "
            f"skip={[name for name in layers if name not in sizes]}"
        )
    return sizes


@contextmanager
def as_found(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes, buffers and random state are what they were.

    Args:
        module (nn.Module): The model, its lazy layers initialised.
    """
    modules = list(module.modules())
    modes = [each.training for each in modules]
    buffers = [dict(each._buffers) for each in modules]
    values = [(buffer, buffer.clone()) for buffer in module.buffers()]
    tensors = [*module.parameters(), *module.buffers()]
    cuda = {tensor.get_device() for tensor in tensors if tensor.is_cuda}
    with torch.no_grad(), torch.random.fork_rng(devices=cuda):
        try:
            for each in modules:
                each.training = False
            yield
        finally:
            for each, mode, found in zip(modules, modes, buffers, strict=True):
                each.training = mode
                each._buffers.clear()
                each._buffers.update(found)
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
