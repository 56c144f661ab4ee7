"""The operators of a model's layers, on the sizes that a forward pass shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
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
            it does not reach; a layer with a forward of its own, or padded with anything but zeros.
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
                f"not tell what it does; expected that of nn.{base.__name__}"
            )
    mode = getattr(layer, "padding_mode", "zeros")
    if mode != "zeros":
        raise ValueError(
            f"module: {label(name, layer)} has padding_mode={mode!r}; expected 'zeros'"
        )


def _is_matrix(layer: Any) -> bool:
    return all(extent == 1 for extent in getattr(layer, "kernel_size", ()))


def _matrix(layer: Any) -> Matrix:
    groups = getattr(layer, "groups", 1)
    rows, columns = layer.weight.shape[:2]
    return Matrix(groups, rows // groups, columns)


def _convolution(layer: Any, input_size: Size, output_size: Size) -> Convolution:
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    zeros = (0,) * len(reach)
    padding, end_padding, output_padding = layer.padding, zeros, zeros
    if padding == "valid":
        padding = zeros
    elif padding == "same":
        padding = tuple(total // 2 for total in reach)
        end_padding = tuple(total % 2 for total in reversed(reach))
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
        end_padding=end_padding,
    )


def _call_sizes(
    module: nn.Module, layers: Mapping[str, Any], example_input: object
) -> dict[str, tuple[Size, Size]]:
    """Each convolution's spatial input and output size, along each dimension the largest seen.

    The operator on a smaller signal is a part of that on a larger one (zeros follow the smaller),
    so that the largest singular value of the larger bounds them all.
    """
    if example_input is None:
        name, layer = next(iter(layers.items()))
        raise ValueError(
            f"example_input is needed for the input size of {label(name, layer)}; pass a batch as "
            "the module takes it, for example images[:1]"
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
            "remove what it does not use, or pass an input that reaches it"
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
