"""The modules that a model function runs, and what a layer among them outputs."""

from __future__ import annotations

import dis
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers.compiled import run_eagerly


def modules_of(forward_func: Callable[..., Any]) -> list[nn.Module]:
    """Find the modules that a model function names, without running it.

    A function that finds its model in another way, in a learner's attribute or by calling another
    function, names none: what it runs shows when it runs, see
    :class:`~captum_deduce.classifiers.FrozenModel`.

    Args:
        forward_func (Callable or nn.Module): A module, a method of one, a ``functools.partial``, a
            function (what it closes over and the globals that it loads) or an object with modules,
            or lists of them, as attributes.

    Returns:
        list[nn.Module]: The outermost modules, each once.
    """
    return _modules_run_by(forward_func, set())


def _modules_run_by(forward_func: Any, seen: set[int]) -> list[nn.Module]:
    if isinstance(forward_func, nn.Module):
        return [forward_func]
    if inspect.ismethod(forward_func):
        return _modules_run_by(forward_func.__self__, seen)
    if id(forward_func) in seen:
        return []
    seen.add(id(forward_func))
    if isinstance(forward_func, functools.partial):
        parts = [forward_func.func, *forward_func.args, *forward_func.keywords.values()]
        return _modules_in(parts, seen, nested=True)
    if inspect.isfunction(forward_func):
        return _modules_in(_variables(forward_func), seen)
    return _modules_in(list(getattr(forward_func, "__dict__", {}).values()), seen)


def _variables(function: Any) -> list[Any]:
    """What a function closes over, and the globals that it loads.

    Not ``inspect.getclosurevars``, which takes the names of attributes for globals, too: in
    ``learn.model(x)`` an unrelated ``model``.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    loaded = {
        instruction.argval
        for instruction in dis.get_instructions(function.__code__)
        if instruction.opname == "LOAD_GLOBAL"
    }
    return [*cells, *(value for n in loaded if (value := function.__globals__.get(n)) is not None)]


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _modules_in(values: list[Any], seen: set[int], *, nested: bool = False) -> list[nn.Module]:
    """Collect modules, those in lists too; with ``nested`` also what functions among them run."""
    found: list[nn.Module] = []
    for value in values:
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, list | tuple):
            if id(value) not in seen:
                seen.add(id(value))
                found += _modules_in(list(value), seen, nested=True)
        elif nested and callable(value):
            found += _modules_run_by(value, seen)
    return list(dict.fromkeys(found))


def find_layer(forward_func: Callable[..., Any], layer: nn.Module | str) -> nn.Module | None:
    """Find a layer by its dotted name, or make sure that a given one belongs to the model.

    Args:
        forward_func (Callable or nn.Module): The model.
        layer (nn.Module or str): The layer, or its dotted name as in ``model.named_modules()``.

    Returns:
        nn.Module or None: The layer; None for a name in a function that does not say which modules
        it runs: it is found when they run.

    Raises:
        TypeError: Neither a module nor a name.
        ValueError: Not part of the model, or scripted or traced, whose output nobody can read.
    """
    if isinstance(layer, str):
        found = _named(forward_func, layer)
    elif isinstance(layer, nn.Module):
        found = layer
    else:
        raise TypeError(f"layer must be an nn.Module or its name, got {type(layer).__name__}")
    if isinstance(found, torch.jit.ScriptModule):
        raise ValueError(
            "layer is part of a scripted or traced model, which does not let others read what its "
            "layers output; pass the model as it was before torch.jit"
        )
    if isinstance(forward_func, nn.Module) and all(found is not m for m in forward_func.modules()):
        raise ValueError(
            f"layer ({type(layer).__name__}) is not part of forward_func "
            f"({type(forward_func).__name__}); after copying a model take the copy's own layer"
        )
    return found


def _named(forward_func: Callable[..., Any], name: str) -> nn.Module | None:
    known = modules_of(forward_func)
    if isinstance(forward_func, nn.Module):
        return layer_named(name, known)
    if len(known) != 1 or not name:
        return None
    return dict(known[0].named_modules()).get(name)


def layer_named(name: str, roots: Sequence[nn.Module]) -> nn.Module:
    """Find the one layer of a name in the modules that a model runs.

    Args:
        name (str): Its dotted name.
        roots (Sequence[nn.Module]): The outermost modules.

    Returns:
        nn.Module: The layer.

    Raises:
        ValueError: None of them has it, or several have.
    """
    every: list[dict[str, nn.Module]] = [dict(root.named_modules()) for root in roots]
    found = [names[name] for names in every if name in names]
    if len(found) == 1 and name:
        return found[0]
    if found and name:
        raise ValueError(
            f"layer was given by name ({name!r}), but forward_func runs {len(found)} modules that "
            "have one of this name; pass the module itself"
        )
    known = ", ".join(name for root in roots for name, _ in root.named_children())
    raise ValueError(
        f"layer {name!r} is not in the model; its outermost layers are: {known or 'none'}"
    )


@contextmanager
def recorded_outputs(layers: Sequence[nn.Module]) -> Iterator[list[list[Any]]]:
    """Record what layers output while the block runs, in this thread only.

    Compiled parts run as they were written meanwhile: else they show nothing of their layers.

    Args:
        layers (Sequence[nn.Module]): Hooks are on them for as long as the block runs.

    Yields:
        list[list]: For each layer its outputs, one for each time that it ran. A 1-tuple stands for
        its element; tensors are clones, as the next layer may overwrite its input in place.
    """
    recorders = [_Recorder() for _ in layers]
    with run_eagerly(), ExitStack() as stack:
        for layer, recorder in zip(layers, recorders, strict=True):
            stack.callback(layer.register_forward_hook(recorder).remove)
        yield [recorder.outputs for recorder in recorders]


@contextmanager
def replaced_output(layer: nn.Module, output: Tensor) -> Iterator[None]:
    """Have a layer output something else while the block runs, in this thread only.

    Args:
        layer (nn.Module): A hook is on it for as long as the block runs.
        output (Tensor): What it outputs; the layers behind it may overwrite it.
    """
    caller = threading.get_ident()

    def replace(module: nn.Module, inputs: Any, found: Any) -> Any:
        if threading.get_ident() != caller:
            return None
        return (output,) if isinstance(found, tuple) else output

    with layer.register_forward_hook(replace):
        yield


class _Recorder:
    """A forward hook that keeps what its module outputs in the thread that made it."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self._caller = threading.get_ident()

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if threading.get_ident() != self._caller:
            return
        if isinstance(output, tuple) and len(output) == 1:
            output = output[0]
        self.outputs.append(output.clone() if isinstance(output, Tensor) else output)

    def __deepcopy__(self, memo: Any) -> _Recorder:
        return _Recorder()  # what is recorded belongs to the original


def has_hooks(module: nn.Module) -> bool:
    """Whether a module, its parts aside, has hooks other than those of :func:`recorded_outputs`.

    Args:
        module (nn.Module): Any.

    Returns:
        bool: Whether something runs beside its forward or backward pass.
    """
    kinds = (module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds) or any(
        not isinstance(hook, _Recorder) for hook in tuple(module._forward_hooks.values())
    )


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
            "choose a layer that runs once (a module used in several places has no single output, "
            "and those inside a scripted, traced, exported or compiled model can't be read: pass "
            "the model as it was before)"
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
