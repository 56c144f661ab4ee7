"""Errors for what users pass: each names the argument, what was given and what was expected.

Nothing here touches a model; every function returns its argument in the one form that the rest of
the package works with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 1e-6
"""Share of the input range; a smaller move is none, a value this near a bound counts as on it."""


def number(
    name: str,
    value: object,
    *,
    minimum: float = -float("inf"),
    maximum: float = float("inf"),
    integer: bool = False,
    exclusive: bool = False,
) -> None:
    """Refuse a hyper-parameter that is no finite number of the expected kind and range.

    Args:
        name (str): The argument's name, for the message.
        value (object): What the user gave.
        minimum (float, optional): The smallest value allowed. Default: no limit
        maximum (float, optional): The largest value allowed. Default: no limit
        integer (bool, optional): Whether only whole numbers will do. Default: False
        exclusive (bool, optional): Whether the limits themselves are excluded. Default: False

    Raises:
        TypeError: Not a number, or not a whole one where that is needed.
        ValueError: Not finite, or outside the limits.
    """
    kind: type[Any] = Integral if integer else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        expected = "an int" if integer else "a number"
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}: {value!r}")
    try:
        size = float(value)  # type: ignore[arg-type]  # a Real, as just checked
    except OverflowError:  # whole numbers may be larger than any float
        size = math.inf
    inside = minimum < size < maximum if exclusive else minimum <= size <= maximum
    if not (math.isfinite(size) and inside):
        brackets = "()" if exclusive else "[]"
        interval = f"{brackets[0]}{minimum:g}, {maximum:g}{brackets[1]}"
        raise ValueError(f"{name} must be a finite number in {interval}, got {value!r:.80}")


def flag(name: str, value: object) -> None:
    """Refuse anything but True and False (1, "yes" and tensors are likely mistakes).

    Args:
        name (str): The argument's name, for the message.
        value (object): What the user gave.

    Raises:
        TypeError: Not a bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}: {value!r}")


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the choices.

    Args:
        name (str): The argument's name, for the message.
        value (object): What the user gave.
        allowed (tuple[str, ...]): The words to choose from.

    Raises:
        ValueError: Not among the choices.
    """
    if value not in allowed:
        words = ", ".join(repr(word) for word in allowed)
        raise ValueError(f"{name} must be one of {words}, got {value!r}")


def single_tensor(inputs: object) -> tuple[Tensor, bool]:
    """Take Captum's two forms of one input: a tensor, or a tuple that holds one.

    Args:
        inputs (object): What the user gave as ``inputs``.

    Returns:
        The tensor, and whether it came in a tuple (then results go back in one).

    Raises:
        TypeError: Not a tensor.
        ValueError: A tuple of several tensors.
    """
    in_tuple = isinstance(inputs, tuple)
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(
                f"inputs must be one tensor or a tuple of one, got a tuple of {len(inputs)}; "
                "counterfactuals change a single image tensor: pass what the model takes "
                "besides it as additional_forward_args"
            )
        inputs = inputs[0]
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a torch.Tensor, got {type(inputs).__name__}")
    return inputs, in_tuple


def images(inputs: Tensor) -> None:
    """Refuse what can't be a batch of images: wrong shape, dtype, or values that are not finite.

    Args:
        inputs (Tensor): N x ..., usually N x channels x height x width.

    Raises:
        TypeError: A dtype other than float32 or float64.
        ValueError: No batch dimension, no images, or NaN or infinite values.
    """
    if inputs.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"inputs must be float32 or float64, got {inputs.dtype}; convert them, for 8-bit "
            "images with images.float() / 255"
        )
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise ValueError(
            "inputs must have the shape N x channels x height x width with N at least 1, got "
            f"{tuple(inputs.shape)}"
        )
    finite = torch.isfinite(inputs.detach())
    if not finite.all():
        broken = (~finite.flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"inputs must be finite, got NaN or infinite values in image(s) {some(broken)}"
        )


def targets(target: object, num_images: int, num_classes: int, name: str = "target") -> Tensor:
    """Read any of Captum's forms of a target.

    Args:
        target (object): An int, a list or array of ints, or a tensor of integers with no or one
            dimension, or N x 1; one element stands for all images.
        num_images (int): N.
        num_classes (int): C.
        name (str, optional): The argument's name, for messages. Default: "target"

    Returns:
        Tensor: N target classes, int64, on the CPU.

    Raises:
        TypeError: Not integers.
        ValueError: Another number of targets than images, or classes that the model does not have.
    """
    try:
        values = torch.as_tensor(np.asarray(target) if isinstance(target, list) else target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be an int, a list of ints or an integer tensor, got "
            f"{type(target).__name__}: {target!r}"
        ) from error
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name} must hold integers (class indices), got {values.dtype}")
    if values.dim() == 2 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() > 1 or values.numel() not in (1, num_images):
        raise ValueError(
            f"{name} must be one class for all images or one per image ({num_images}), got shape "
            f"{tuple(values.shape)}"
        )
    values = values.detach().to("cpu", torch.int64).flatten()
    outside = sorted(set(values[(values < 0) | (values >= num_classes)].tolist()))
    if outside:
        raise ValueError(
            f"{name} must lie in 0 ... {num_classes - 1} (the model has {num_classes} classes), "
            f"got {some(outside)}"
        )
    return values.expand(num_images).clone()


def bounds(
    lower_bound: object, upper_bound: object, inputs: Tensor, *, copies: bool = False
) -> tuple[Tensor, Tensor]:
    """Spread the bounds over one input, or over all where these have their own.

    Args:
        lower_bound (object): A float; a tensor that broadcasts to one input (for example
            channels x 1 x 1 for inputs that were normalised per channel); or one with a row for
            each input, as :func:`per_image` reads it.
        upper_bound (object): Likewise; larger everywhere.
        inputs (Tensor): N x ..., for the shape, dtype and device.
        copies (bool, optional): As for :func:`per_image`. Default: False

    Returns:
        tuple[Tensor, Tensor]: Lower and upper bound, both of the shape of one input, or both of the
        inputs' shape.

    Raises:
        TypeError: Neither numbers nor tensors.
        ValueError: Not finite, a shape that does not fit or has two readings, or a lower bound that
            is not below the upper one.
    """
    lower, upper = (
        per_image(name, _values(name, value, inputs), inputs, copies=copies).clone()
        for name, value in (("lower_bound", lower_bound), ("upper_bound", upper_bound))
    )
    if lower.dim() != upper.dim():
        lower, upper = lower.expand(inputs.shape), upper.expand(inputs.shape)
    if not (lower < upper).all():
        raise ValueError(
            "lower_bound must be below upper_bound everywhere, got "
            f"{_short(lower_bound)} and {_short(upper_bound)}"
        )
    return lower, upper


def per_input(name: str, value: object, inputs: Tensor) -> Tensor:
    """Spread a number or a tensor over one input.

    Args:
        name (str): The argument's name, for the message.
        value (object): A float, or a tensor that broadcasts to one input.
        inputs (Tensor): N x ..., for the shape, dtype and device.

    Returns:
        Tensor: A copy, of the shape of one input.

    Raises:
        TypeError: Neither a number nor a tensor.
        ValueError: Not finite, or another shape.
    """
    values = _values(name, value, inputs)
    spread = _broadcast(values, (1, *inputs.shape[1:]))
    if spread is None:
        raise ValueError(
            f"{name} must broadcast to one input of shape {tuple(inputs.shape[1:])}, got shape "
            f"{tuple(values.shape)}; for one value per channel use the shape channels x 1 x 1"
        )
    return spread[0].clone()


def per_image(name: str, value: Tensor, inputs: Tensor, *, copies: bool = False) -> Tensor:
    """Spread a tensor over one input, or over all where it has a row for each.

    What broadcasts to one input is one for all, as channels x height x width. What begins with N
    has a row for each image: N x channels x height x width, N x 1 x height x width, and
    N x height x width, a plane for all channels of an image. A tensor that can be read in both
    ways, and would not mean the same, is refused, as is a row of as many numbers as there are
    images or channels; channels x 1 x 1 is always a number per channel.

    Args:
        name (str): The argument's name, for the message.
        value (Tensor): What the user gave.
        inputs (Tensor): N x ..., for the shape.
        copies (bool, optional): Whether several consecutive inputs may share a row, each row the
            same number, as where Captum's tools repeat every image. Default: False

    Returns:
        Tensor: A view of the shape of one input, or of the inputs' shape.

    Raises:
        ValueError: It does not fit, or could be one for each image or one for each channel.
    """
    # A line of pixels, or a number for each image or channel?
    unclear = value.dim() == 1 < inputs.dim() - 1 and 1 < len(value) in inputs.shape[:2]
    readings = [] if unclear else [value]
    if value.dim() == inputs.dim() - 1 > 1 and any(size > 1 for size in value.shape[1:]):
        readings.append(value.unsqueeze(1))
    spread = [_spread(reading, inputs.shape, copies) for reading in readings]
    fitting = [reading for reading in spread if reading is not None]
    if not fitting:
        raise ValueError(
            f"{name} must broadcast to one input of shape {tuple(inputs.shape[1:])}, or to the "
            f"inputs' shape {tuple(inputs.shape)}, got shape {tuple(value.shape)}; for one value "
            "per channel use the shape channels x 1 x 1"
        )
    whole = [reading.expand(inputs.shape) for reading in fitting]
    if not torch.equal(whole[0], whole[-1]):
        rest = " x ".join(str(size) for size in value.shape[1:])
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} may be one for each of {len(value)} images or "
            f"one for each of {len(value)} channels; pass {name}.unsqueeze(1), {len(value)} x 1 x "
            f"{rest}, for images, or {name}.unsqueeze(0), 1 x {len(value)} x {rest}, for channels"
        )
    return fitting[0]


def outside_bounds(inputs: Tensor, lower: Tensor, upper: Tensor) -> str | None:
    """Describe the entries of the inputs that lie outside the bounds, if there are any.

    Args:
        inputs (Tensor): N x ...
        lower (Tensor): The lower bound, of one input's shape or of the inputs'.
        upper (Tensor): The upper bound, likewise.

    Returns:
        str or None: A message that names images and values, or None where all lie inside (but for
        rounding: :data:`TOLERANCE` of the range).
    """
    slack = TOLERANCE * (upper - lower)
    outside = (inputs < lower - slack) | (inputs > upper + slack)
    if not outside.any():
        return None
    rows = outside.flatten(1).any(1).nonzero().flatten().tolist()
    return (
        f"inputs must lie within lower_bound and upper_bound ({lower.min().item():g} to "
        f"{upper.max().item():g}), got values from {inputs.min().item():g} to "
        f"{inputs.max().item():g} (outside in image(s) {some(rows)}); for normalised inputs pass "
        "the bounds in the inputs' own units"
    )


def masks(mask: object, inputs: Tensor, *, copies: bool = False) -> Tensor | None:
    """Read a mask: 1 where pixels may change.

    Args:
        mask (object): None (all may change), or a tensor of zeros and ones, for all images or with
            a row for each, as :func:`per_image` reads it.
        inputs (Tensor): N x ...
        copies (bool, optional): As for :func:`per_image`. Default: False

    Returns:
        Tensor or None: Bool, of the inputs' shape (a view where it was broadcast), on their device.

    Raises:
        TypeError: Not a tensor.
        ValueError: A shape that does not fit or has two readings, or values other than 0 and 1.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor or None, got {type(mask).__name__}")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must hold only 0 (keep) and 1 (may change), got other values")
    spread = per_image("mask", mask.detach(), inputs, copies=copies).expand(inputs.shape)
    return spread.to(inputs.device) != 0


def rows(name: str, index: object, count: int) -> Tensor:
    """Read what chooses some of N rows, as in ``result[index]``.

    Args:
        name (str): The argument's name, for the message.
        index (object): An integer, a slice, or a list, array or tensor of one dimension: integers,
            negative ones from the end, or a bool for each row.
        count (int): N.

    Returns:
        Tensor: The rows from 0 to N - 1, int64, on the CPU.

    Raises:
        IndexError: A row that is not there, a mask of another length, or several dimensions.
        TypeError: Another kind of index.
    """
    if isinstance(index, slice):
        return torch.tensor(range(count)[index], dtype=torch.int64)
    values = _index_values(index)
    # To PyTorch uint8 is a mask, to NumPy it is a number.
    if values is None or values.dtype == np.uint8 or (values.dtype == bool and not values.ndim):
        kind = getattr(index, "dtype", "")
        raise TypeError(
            f"{name} must be an integer, a slice, a bool for each of {count}, or integers other "
            f"than uint8, got {type(index).__name__} {kind}".rstrip()
        )
    if values.dtype == bool and values.shape != (count,):
        raise IndexError(f"{name} must hold a bool for each of {count}, got shape {values.shape}")
    if values.ndim > 1:
        raise IndexError(f"{name} must have one dimension, got shape {values.shape}")
    if values.dtype == bool:
        return torch.from_numpy(values.nonzero()[0])
    numbers = np.atleast_1d(values.astype(np.int64))
    outside = numbers[(numbers < -count) | (numbers >= count)]
    if outside.size:
        allowed = f"lie in {-count} ... {count - 1}" if count else "choose none of 0"
        raise IndexError(f"{name} must {allowed}, got {some(outside.tolist())}")
    return torch.from_numpy(np.where(numbers < 0, numbers + count, numbers))


def callable_model(name: str, forward_func: object) -> Callable[..., Any]:
    """Refuse a model that can't be called, or that is spread over several devices.

    Args:
        name (str): The argument's name, for the message.
        forward_func (object): What the user gave.

    Returns:
        Callable: ``forward_func``.

    Raises:
        TypeError: Not callable.
        ValueError: An ``nn.DataParallel`` or ``DistributedDataParallel`` wrapper.
    """
    if not callable(forward_func):
        raise TypeError(
            f"{name} must be an nn.Module or a function of the inputs, got "
            f"{type(forward_func).__name__}"
        )
    one_device(name, forward_func)
    return forward_func


def one_device(name: str, model: object) -> None:
    """Refuse what spreads a batch over several devices: a search couldn't read its layers.

    Args:
        name (str): What the model is, for the message.
        model (object): The model, or a module of it.

    Raises:
        ValueError: An ``nn.DataParallel`` or ``DistributedDataParallel`` wrapper.
    """
    if type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        raise ValueError(
            f"{name} is wrapped in {type(model).__name__}, which spreads a batch over several "
            "devices; pass the model inside it (its .module)"
        )


def some(values: list[int], most: int = 5) -> str:
    """Write the first of many numbers.

    Args:
        values (list[int]): All of them.
        most (int, optional): How many to write. Default: 5

    Returns:
        str: For a message.
    """
    listed = ", ".join(str(value) for value in values[:most])
    return listed if len(values) <= most else f"{listed}, ... ({len(values)} in all)"


def _values(name: str, value: object, inputs: Tensor) -> Tensor:
    """A number or an array as a tensor like the inputs."""
    if isinstance(value, bool) or not isinstance(value, Real | Tensor | np.ndarray):
        raise TypeError(f"{name} must be a float or a tensor, got {type(value).__name__}")
    # A number is read in the inputs' precision, not in float32 and then widened.
    values = torch.as_tensor(value, dtype=inputs.dtype, device=inputs.device).detach()
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {_short(value)}")
    return values


def _index_values(index: object) -> NDArray[Any] | None:
    """Integers or bools as an array; None of anything else."""
    if isinstance(index, bool) or not isinstance(index, Tensor | np.ndarray | list | Integral):
        return None
    if isinstance(index, Tensor):
        index = index.detach().cpu()
    try:
        values = np.asarray(index)
    except (TypeError, ValueError, RuntimeError):
        return None
    if isinstance(index, list):
        if not index:
            return values.astype(np.int64)
        if values.dtype != bool and any(isinstance(value, bool | np.bool_) for value in index):
            return None
    return values if values.dtype.kind in "iub" else None


def _spread(value: Tensor, shape: torch.Size, copies: bool) -> Tensor | None:
    """A view of the shape of one input, or of all where the value has rows; None if neither."""
    if value.dim() < len(shape) or len(value) == 1:
        one = _broadcast(value, (1, *shape[1:]))
        return None if one is None else one[0]
    if copies and len(value) and shape[0] % len(value) == 0:
        value = value.repeat_interleave(shape[0] // len(value), dim=0)
    return _broadcast(value, shape)


def _broadcast(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    try:
        return value.expand(shape)
    except RuntimeError:
        return None


def _short(value: object) -> str:
    if isinstance(value, Tensor) and value.numel() > 8:
        return f"a tensor of shape {tuple(value.shape)} from {value.min():g} to {value.max():g}"
    return str(value)
