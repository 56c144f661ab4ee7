"""Run a model as a search does: in eval mode, a layer's output read, the model left as found."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.spectral import frozen_spectral_weights


class FrozenModel:
    r"""A ``forward_func`` prepared for many calls, as a context manager.

    Inside the ``with`` block every module that ``forward_func`` runs is in eval mode (batch norm in
    train mode would couple the images of a batch), spectrally normalised weights are computed once,
    and a hook reads ``layer``'s output during the same forward pass. On leaving it, by an error or
    Ctrl-C too, each module's own mode is restored and the hook is gone. Parameters, their
    ``requires_grad`` and ``.grad`` are never touched.

    Several threads may hold the same model at once: each reads the outputs of its own calls only.

    Args:
        forward_func (Callable or nn.Module): The model, or a function of the inputs that calls it.
            For a function, modules are found in what it closes over, its globals and attributes.
        layer (nn.Module or str, optional): The layer whose output is read, or its dotted name
            as in ``model.named_modules()``. Default: None (no layer is read)
        companions (Sequence[Callable or nn.Module], optional): Other models that are called beside
            this one, such as an autoencoder: their modules are held in eval mode and left as they
            were found in the same way. Default: ()

    Raises:
        TypeError: ``forward_func`` or ``layer`` of another kind.
        ValueError: A layer that is not part of the model, or a model spread over several devices.

    Examples::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> with torch.no_grad(), FrozenModel(model, layer=model[0]) as frozen:
        ...     logits, features = frozen(torch.zeros(2, 1, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str | None = None,
        companions: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.forward_func = checks.callable_model("forward_func", forward_func)
        self.modules = modules_of(forward_func)
        beside = [module for companion in companions for module in modules_of(companion)]
        self._held = list(dict.fromkeys([*self.modules, *beside]))
        for part in (part for module in self._held for part in module.modules()):
            checks.one_device("a module that forward_func runs", part)
        self.layer = None if layer is None else find_layer(forward_func, layer)
        self._outputs: list[Any] = []
        self._exit = ExitStack()

    def __enter__(self) -> FrozenModel:
        with ExitStack() as stack:
            for module in self._held:
                stack.enter_context(_eval_mode(module))
                stack.enter_context(frozen_spectral_weights(module))
            if self.layer is not None:
                (self._outputs,) = stack.enter_context(recorded_outputs([self.layer]))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outputs = []
        self._exit.close()

    def __call__(
        self, inputs: Tensor, additional_forward_args: tuple[Any, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Run one forward pass.

        Args:
            inputs (Tensor): N x ...
            additional_forward_args (tuple, optional): Passed on after the inputs. Default: ()

        Returns:
            The class scores (N x C, at least float32) and the layer's output (N x D; N x 0 where
            no layer is read).

        Raises:
            TypeError: The model or the layer returned something other than a tensor.
            ValueError: Class scores that are not N x C, or a layer that did not run exactly once
                or whose output does not hold one row per image.
        """
        self._outputs.clear()
        scores = class_scores(self.forward_func(inputs, *additional_forward_args), len(inputs))
        if self.layer is None:
            return scores, scores.new_zeros(len(inputs), 0)
        features = feature_rows(self._outputs, len(inputs))
        self._outputs.clear()
        return scores, features


def modules_of(forward_func: Callable[..., Any]) -> list[nn.Module]:
    """Find the modules that a model function runs.

    Args:
        forward_func (Callable or nn.Module): A module, a method of one, a ``functools.partial``, a
            function (what it closes over and its globals are searched) or an object with modules,
            or lists of them, as attributes.

    Returns:
        list[nn.Module]: The outermost modules, each once.
    """
    if isinstance(forward_func, nn.Module):
        return [forward_func]
    if isinstance(forward_func, functools.partial):
        return _modules_in(
            [forward_func.func, *forward_func.args, *forward_func.keywords.values()], nested=True
        )
    if inspect.ismethod(forward_func):
        owner: Any = forward_func.__self__
        return modules_of(owner)
    if inspect.isfunction(forward_func):
        variables = inspect.getclosurevars(forward_func)
        values = [*variables.nonlocals.values(), *variables.globals.values()]
    else:
        values = list(getattr(forward_func, "__dict__", {}).values())
    return _modules_in(values)


def _modules_in(values: list[Any], *, nested: bool = False) -> list[nn.Module]:
    """Collect modules, those in lists too; with ``nested`` also what functions among them run."""
    found: list[nn.Module] = []
    for value in values:
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _modules_in(list(value), nested=True)
        elif nested and callable(value):
            found += modules_of(value)
    return list(dict.fromkeys(found))


def check_placement(name: str, forward_func: Callable[..., Any], inputs: Tensor) -> None:
    """Refuse a model whose parameters are of another dtype or on another device than the inputs.

    Args:
        name (str): What the model is, for the message.
        forward_func (Callable or nn.Module): The model.
        inputs (Tensor): What it will be called with.

    Raises:
        ValueError: Another dtype or device.
    """
    for module in modules_of(forward_func):
        parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
        if parameter is None:
            continue
        if (parameter.dtype, parameter.device) != (inputs.dtype, inputs.device):
            raise ValueError(
                f"inputs are {inputs.dtype} on {inputs.device}, but the {name}'s parameters are "
                f"{parameter.dtype} on {parameter.device}; convert one to the other"
            )


def find_layer(forward_func: Callable[..., Any], layer: nn.Module | str) -> nn.Module:
    """Find a layer by its dotted name, or make sure that a given one belongs to the model.

    Args:
        forward_func (Callable or nn.Module): The model.
        layer (nn.Module or str): The layer, or its dotted name as in ``model.named_modules()``.

    Returns:
        nn.Module: The layer.

    Raises:
        TypeError: Neither a module nor a name.
        ValueError: Not part of the model, or a name where ``forward_func`` is a function over none
            or several modules.
    """
    modules = modules_of(forward_func)
    if isinstance(layer, str):
        if len(modules) != 1:
            raise ValueError(
                f"layer was given by name ({layer!r}), but forward_func is a function over "
                f"{len(modules)} modules; pass the module itself"
            )
        names: dict[str, nn.Module] = dict(modules[0].named_modules())
        if layer not in names or not layer:
            known = ", ".join(name for name, _ in modules[0].named_children())
            raise ValueError(
                f"layer {layer!r} is not in the model; its outermost layers are: {known}"
            )
        return names[layer]
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be an nn.Module or its name, got {type(layer).__name__}")
    if isinstance(forward_func, nn.Module) and all(layer is not m for m in forward_func.modules()):
        raise ValueError(
            f"layer ({type(layer).__name__}) is not part of forward_func "
            f"({type(forward_func).__name__}); after copying a model take the copy's own layer"
        )
    return layer


_modes_lock = threading.Lock()
_modes: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()
"""Of each part that a search holds: by how many it is held, and its mode before the first."""


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Set eval mode; the last search that holds a part, itself or in a wrapper, restores it."""
    parts = list(model.modules())
    with _modes_lock:
        for part in parts:
            holders, mode = _modes.get(part, (0, part.training))
            _modes[part] = (holders + 1, mode)
        model.eval()
    try:
        yield
    finally:
        with _modes_lock:
            for part in parts:
                holders, mode = _modes.pop(part)
                if holders > 1:
                    _modes[part] = (holders - 1, mode)
                else:
                    part.training = mode


def class_scores(output: Any, count: int) -> Tensor:
    """Make sure that a classifier returned what every explainer needs.

    Args:
        output (Any): What it returned.
        count (int): The number of images it was given, N.

    Returns:
        Tensor: N x C, at least float32.

    Raises:
        TypeError: Not a tensor.
        ValueError: Not N x C with C at least 2, or integers.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            "forward_func must return a tensor of N x C class scores, got "
            f"{type(output).__name__}; wrap it so that it picks them, for example "
            "lambda x: model(x)[0] or lambda x: model(x).logits"
        )
    if output.dim() == 0 or output.shape[0] != count or output[:1].numel() == 1:
        raise ValueError(
            f"forward_func must return N x C class scores with C at least 2, got shape "
            f"{tuple(output.shape)} for {count} image(s); a model with one logit z per image has "
            "the scores lambda x: torch.stack([torch.zeros_like(z), z], 1) with z = "
            "model(x).flatten()"
        )
    if output.dim() != 2:
        raise ValueError(
            f"forward_func must return N x C class scores, got shape {tuple(output.shape)} for "
            f"{count} image(s)"
        )
    if not output.is_floating_point():
        raise ValueError(f"forward_func must return floating-point scores, got {output.dtype}")
    return output if output.dtype == torch.float64 else output.float()


def refuse_probabilities(scores: Tensor) -> None:
    """Refuse class scores that are probabilities, of which a softmax would make others.

    Args:
        scores (Tensor): N x C.

    Raises:
        ValueError: All rows are non-negative and sum to one.
    """
    if ((scores >= 0).all() & ((scores.sum(1) - 1).abs() < 1e-4).all()).item():
        raise ValueError(
            "forward_func must return logits or log-probabilities, got rows that are "
            "non-negative and sum to one: probabilities; leave out the softmax, or wrap the "
            "model: lambda x: model(x).log()"
        )


@contextmanager
def recorded_outputs(layers: Sequence[nn.Module]) -> Iterator[list[list[Any]]]:
    """Record what layers output while the block runs, in this thread only.

    Args:
        layers (Sequence[nn.Module]): Hooks are on them for as long as the block runs.

    Yields:
        list[list]: For each layer its outputs, one for each time that it ran. A 1-tuple stands for
        its element; tensors are clones, as the next layer may overwrite its input in place.
    """
    caller = threading.get_ident()

    def record(seen: list[Any], module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() != caller:
            return
        if isinstance(output, tuple) and len(output) == 1:
            output = output[0]
        seen.append(output.clone() if isinstance(output, Tensor) else output)

    outputs: list[list[Any]] = [[] for _ in layers]
    with ExitStack() as stack:
        for layer, seen in zip(layers, outputs, strict=True):
            hook = layer.register_forward_hook(functools.partial(record, seen))
            stack.callback(hook.remove)
        yield outputs


def feature_rows(outputs: list[Any], count: int) -> Tensor:
    """Read a layer's output as features.

    Args:
        outputs (list): As for :func:`single_output`.
        count (int): Likewise.

    Returns:
        Tensor: N x D.

    Raises:
        TypeError: As for :func:`single_output`.
        ValueError: Likewise.
    """
    return as_rows(single_output(outputs, count))


def as_rows(output: Tensor) -> Tensor:
    """Flatten a layer's output.

    Args:
        output (Tensor): N x ..., or N.

    Returns:
        Tensor: N x D; N x 1 of N numbers.
    """
    return output.flatten(1) if output.dim() > 1 else output.unsqueeze(1)


def single_output(outputs: list[Any], count: int, name: str = "layer") -> Tensor:
    """Make sure that a layer described each image, once.

    Args:
        outputs (list): What it output in one forward pass, an item for each time that it ran.
        count (int): The number of images, N.
        name (str, optional): What the layer is called, for the message. Default: "layer"

    Returns:
        Tensor: N x ...

    Raises:
        TypeError: Not a tensor.
        ValueError: Not one output, or one that does not hold a row of floating-point numbers per
            image.
    """
    if len(outputs) != 1:
        raise ValueError(
            f"{name} ran {len(outputs)} times in one forward pass of forward_func, expected once; "
            "choose a layer that runs once (a module used in several places has no single output)"
        )
    output = outputs[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"{name} must output a tensor, got {type(output).__name__}")
    if output.dim() == 0 or output.shape[0] != count or not output.is_floating_point():
        raise ValueError(
            f"{name} must output floating-point rows, one per image, got shape "
            f"{tuple(output.shape)} and {output.dtype} for {count} image(s)"
        )
    return output
