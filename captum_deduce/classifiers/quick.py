"""A private copy of a classifier that computes the same in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from captum_deduce.classifiers.layers import has_hooks
from captum_deduce.spectral import remove_spectral_normalization

_TOLERANCE = 1000.0
"""Roundings of the largest entry by which outputs that are the same may differ: 1.2e-4 of it in
float32, 2.2e-13 in float64."""


class QuickCopy(nn.Module):
    r"""A copy of a classifier with less to compute.

    What changes, each where it was measured to pay (docs: Cost and batch sizes):

    - spectrally normalised layers become plain ones, with the bounded weights;
    - batch norm in eval mode is an affine map of each channel,
      :math:`\gamma (z - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`, and goes into the convolution
      before it (:func:`torch.nn.utils.fusion.fuse_conv_bn_eval`), where that is safe;
    - on a CPU, weights of convolutions lie in memory with the channels last, and so do all maps.

    A batch norm is folded where it has running statistics, no other parametrization, and in a
    forward pass of ``inputs`` received all that one convolution returned, while nothing else that
    was computed took it; neither is the ``layer``. That a later pass follows the same path is seen
    to: one in which a folded convolution's output goes elsewhere, or another batch norm comes after
    it, raises.

    Args:
        model (nn.Module): Not changed. It has no hooks but those that
            :func:`~captum_deduce.classifiers.recorded_outputs` puts there; the copy has none.
        layer (nn.Module or None): The part of it that will be read.
        inputs (Tensor): N x ..., a few inputs.
        additional_forward_args (tuple, optional): Passed on after them. Default: ()

    Attributes:
        layer (nn.Module or None): The copy of ``layer``.
        folded (list[str]): Names of the batch norms that went into convolutions.

    Raises:
        Exception: Whatever a model may raise that can't be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | None,
        inputs: Tensor,
        additional_forward_args: tuple[Any, ...] = (),
    ) -> None:
        super().__init__()
        copies: dict[int, Any] = {}
        self.model = copy.deepcopy(model, copies)
        self.layer = None if layer is None else copies[id(layer)]
        del copies  # or the weights that are folded would stay
        for part in self.model.modules():
            part.training = False
            part._forward_hooks.clear()
        remove_spectral_normalization(self.model)
        self.folded: list[str] = []
        self._places: list[_FoldedNorm] = []
        with torch.no_grad():
            self._fold(lambda: self.model(inputs.clone(), *additional_forward_args))
        if inputs.device.type == "cpu":
            for part in self.model.modules():
                if isinstance(part, nn.Conv2d):
                    part.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor, *additional_forward_args: Any) -> Any:
        """Run the copy.

        Args:
            inputs (Tensor): N x ...
            *additional_forward_args: Passed on.

        Returns:
            What the model returns.

        Raises:
            RuntimeError: The pass took another path than the first, for which norms were folded.
        """
        for place in self._places:
            place.expected.clear()
        output = self.model(inputs, *additional_forward_args)
        if any(place.expected for place in self._places):
            raise RuntimeError("a convolution's output did not go to the norm folded into it")
        return output

    def _fold(self, run: Callable[[], Any]) -> None:
        names = {id(part): name for name, part in self.model.named_modules()}
        chains = _chains(self.model, run)
        for norm in list(chains):
            conv, seen = chains.pop(norm)
            if self.layer in (conv, norm) or not _is_plain(conv, norm):
                continue
            folded = fuse_conv_bn_eval(conv, norm)
            # A subclass may do something else with its weight than convolve.
            if same_outputs(folded(seen), norm(conv(seen))):
                self._places.append(_FoldedNorm(folded))
                self._replace(names[id(conv)], folded)
                self._replace(names[id(norm)], self._places[-1])
                self.folded.append(names[id(norm)])

    def _replace(self, name: str, part: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, part)


class _FoldedNorm(nn.Module):
    """In the place of a batch norm that is part of a convolution now."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.expected: list[Any] = []
        conv.register_forward_hook(lambda _, __, output: self.expected.append(output))

    def forward(self, inputs: Any) -> Any:
        if not self.expected or self.expected.pop() is not inputs:
            raise RuntimeError("a batch norm received something else than its convolution's output")
        return inputs


def quick_copy(
    model: Callable[..., Any],
    layer: nn.Module | None,
    inputs: Tensor,
    additional_forward_args: tuple[Any, ...] = (),
) -> QuickCopy | None:
    """Copy a model for a search, where that pays and can be done safely.

    Args:
        model (Callable or nn.Module): The model, in eval mode.
        layer (nn.Module or None): The part of it that is read.
        inputs (Tensor): N x ..., a few inputs.
        additional_forward_args (tuple, optional): What the model takes besides. Default: ()

    Returns:
        QuickCopy or None: None of a function, a compiled, scripted or half-precision model, one
        with hooks, one that can't be copied, and one without a two-dimensional convolution.
    """
    if not isinstance(model, nn.Module) or not _is_suitable(model):
        return None
    try:
        copied = QuickCopy(model, layer, inputs, additional_forward_args)
    except Exception:  # what a user's model does when it is copied is its own
        return None
    return copied if copied.folded or inputs.device.type == "cpu" else None


def same_outputs(first: Tensor, second: Tensor) -> bool:
    """Whether two results of the same computation differ by rounding only.

    Args:
        first (Tensor): Any shape.
        second (Tensor): The same shape and dtype.

    Returns:
        bool: No entry differs by more than 1000 roundings of the largest; never with NaN.
    """
    if first.numel() == 0:
        return True
    tolerance = _TOLERANCE * torch.finfo(second.dtype).eps * second.abs().max()
    return bool((first - second).abs().max() <= tolerance)


def _is_suitable(model: nn.Module) -> bool:
    parts = list(model.modules())
    return (
        any(isinstance(part, nn.Conv2d) for part in parts)
        and not any(isinstance(p, torch.jit.ScriptModule) or hasattr(p, "_orig_mod") for p in parts)
        and not any(has_hooks(part) for part in parts)
        and all(
            tensor.dtype in (torch.float32, torch.float64)
            for tensor in model.parameters()
            if tensor.is_floating_point()
        )
    )


def _chains(
    model: nn.Module, run: Callable[[], Any]
) -> dict[nn.BatchNorm2d, tuple[nn.Conv2d, Tensor]]:
    """The norms that receive all that one convolution returns, with it and an input of it."""
    watch = _Watch(model)
    with watch:
        run()
    watch.remove()
    return {
        norm: (conv, inputs)
        for conv, inputs, _ in watch.returned.values()
        for norm, sources in watch.given.items()
        if watch.takers[conv] == {norm} and sources == {conv}
    }


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes in one forward pass what convolutions return, and which operations take it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.returned: dict[int, tuple[nn.Conv2d, Tensor, Tensor]] = {}
        self.takers: dict[nn.Conv2d, set[nn.Module | None]] = {}
        self.given: dict[nn.BatchNorm2d, set[nn.Module | None]] = {}
        self._norm: nn.BatchNorm2d | None = None
        self._hooks = ExitStack()
        for part in model.modules():
            if isinstance(part, nn.Conv2d):
                self._add(part.register_forward_hook(self._note))
            elif type(part) is nn.BatchNorm2d:
                self._add(part.register_forward_pre_hook(self._begin))
                self._add(part.register_forward_hook(self._end))

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for taken in tree_leaves((args, kwargs)):
            if id(taken) in self.returned:
                self.takers[self.returned[id(taken)][0]].add(self._norm)
        return operation(*args, **(kwargs or {}))

    def remove(self) -> None:
        self._hooks.close()

    def _add(self, hook: RemovableHandle) -> None:
        self._hooks.callback(hook.remove)

    def _note(self, conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # The output is kept, too: another tensor in its place in memory would have its id.
        self.returned[id(output)] = conv, inputs[0], output
        self.takers.setdefault(conv, set())

    def _begin(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        source = self.returned.get(id(inputs[0]))
        self.given.setdefault(norm, set()).add(source[0] if source else None)
        self._norm = norm

    def _end(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._norm = None


def _is_plain(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether both have weights of their own, and the norm does not depend on the batch."""
    return norm.running_mean is not None and not any(map(is_parametrized, (conv, norm)))
