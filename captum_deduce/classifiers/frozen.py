"""Run a model as a search does: in eval mode, a layer's output read, the model left as found."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from captum_deduce import checks
from captum_deduce.classifiers.compiled import run_eagerly
from captum_deduce.classifiers.layers import (
    as_rows,
    find_layer,
    layer_named,
    modules_of,
    recorded_outputs,
    replaced_output,
    single_output,
)
from captum_deduce.classifiers.memory import ran_out_of_memory
from captum_deduce.classifiers.modes import eval_mode
from captum_deduce.classifiers.placement import check_placement
from captum_deduce.classifiers.quick import quick_copy, same_outputs
from captum_deduce.classifiers.scores import class_scores
from captum_deduce.spectral import frozen_spectral_weights

_ELSEWHERE = re.compile(r"d?type\b|\bdevice|Half|BFloat16|Double")
"""In the message of an error that a model's dtype or device may be the cause of."""


class FrozenModel:
    r"""A model held ready for a search, as a context manager.

    Inside the ``with`` block all modules are in eval mode (batch norm in train mode would couple
    the images of a batch), spectrally normalised weights are computed once, and a hook reads
    ``layer``'s output during the same forward pass. On leaving it, by an error or Ctrl-C too, each
    module's own mode is restored and the hooks are gone. Parameters, their ``requires_grad`` and
    ``.grad`` are never touched.

    What a function runs is observed, not guessed: a module that was not known, in a learner object,
    a dict or a function that the function calls, is put into eval mode as soon as it is called for
    the first time, before it computes anything, in the first forward pass or a later one. The first
    runs compiled parts as they were written, to see what is in them; all do where a layer is read,
    or a companion is a function.

    Several threads may hold the same model at once: each reads the outputs of its own calls only,
    and observes no other's.

    Args:
        forward_func (Callable or nn.Module): The model, or a function of the inputs that calls it.
        layer (nn.Module or str, optional): The layer whose output is read, or its dotted name
            as in ``model.named_modules()``. A name is looked up in the modules that the first
            forward pass runs where a function does not say which they are. Default: None (no
            layer is read)
        companions (Sequence[Callable or nn.Module], optional): Other models that are called beside
            this one, such as an autoencoder: their modules are held in eval mode and left as they
            were found in the same way. Default: ()

    Attributes:
        modules (list[nn.Module]): The outermost modules that are known to run, without those of
            companions; of a function that does not name them they are known after the first call.
        layer_shape (torch.Size): Of what the layer outputs for an image, after the first call.

    Raises:
        TypeError: ``forward_func`` or ``layer`` of another kind.
        ValueError: A layer that is not part of the model, or a model spread over several devices.

    Examples::

        >>> import torch
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
        self._known = list(dict.fromkeys([*self.modules, *beside]))
        for module in self._known:
            _check_devices(module)
        self._observes = not all(isinstance(f, nn.Module) for f in (forward_func, *companions))
        # Companions run outside of calls of this one.
        self._beside = not all(isinstance(f, nn.Module) for f in companions)
        self._hidden, self._first = False, True
        self._searched = -1
        self._name = layer if isinstance(layer, str) else None
        self.layer = None if layer is None else find_layer(forward_func, layer)
        self._held: set[nn.Module] = set()
        self.layer_shape = torch.Size()
        self._outputs: list[Any] = []
        self._running = False
        self._watch: RemovableHandle | None = None
        self._quick: FrozenModel | None = None
        self._exit = ExitStack()

    def __enter__(self) -> FrozenModel:
        self._thread = threading.get_ident()
        self.modules = modules_of(self.forward_func)
        self._searched = -1
        self._hidden, self._first = False, True
        with ExitStack() as self._exit:
            for module in self._known:
                self._hold(module)
            if self._name is not None and self._observes:
                self.layer = None
                for module in self.modules:
                    self._find(module)
            elif self.layer is not None:
                self._read(self.layer)
            if self._beside:
                self._exit.enter_context(run_eagerly())
            self._watch = register_module_forward_pre_hook(self._meet)
            self._exit.callback(self._watch.remove)
            self._exit = self._exit.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outputs = []
        self._quick = None
        self._held.clear()
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
            ValueError: Class scores that are not N x C, a layer that did not run exactly once or
                whose output does not hold one row per image, a name that is no layer's, or that
                of several, or a model that failed as its parameters are elsewhere than the inputs.
        """
        if self._quick is not None:
            try:
                return self._quick(inputs, additional_forward_args)
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                self._quick = None  # whatever it was, the model itself decides
        self._outputs.clear()
        self._running = True
        try:
            with self._observed():
                output = self.forward_func(inputs, *additional_forward_args)
        except RuntimeError as error:
            if _ELSEWHERE.search(str(error)):
                check_placement("model", self.modules, inputs)
            raise
        finally:
            self._running = False
        if self._watch is not None and not self._observes and not self._hidden:
            # A module's parts are all known, but for those that it hides from PyTorch; it hides
            # none. Hooks for every module cost time.
            self._watch.remove()
        scores = class_scores(output, len(inputs))
        if self.layer is None and self._name is None:
            return scores, scores.new_zeros(len(inputs), 0)
        if self._name is not None and self._observes and self._searched != len(self.modules):
            # Once, and again where more modules have run: a walk through all their parts.
            self.layer, self._searched = layer_named(self._name, self.modules), len(self.modules)
        output = single_output(self._outputs, len(inputs))
        self._outputs.clear()
        self.layer_shape = output.shape[1:]
        return scores, as_rows(output)

    def from_layer(
        self, features: Tensor, inputs: Tensor, additional_forward_args: tuple[Any, ...] = ()
    ) -> Tensor:
        """Run the model with something else in the place of what the layer outputs.

        Only where :func:`~captum_deduce.classifiers.is_cut` says so are the scores those of the
        features alone.

        Args:
            features (Tensor): K x D, rows as a call returns them.
            inputs (Tensor): K x ..., what the layers before are run on; of most models one input
                will do, 1 x ...
            additional_forward_args (tuple, optional): Passed on after the inputs. Default: ()

        Returns:
            Tensor: The class scores of the features, K x C.

        Raises:
            TypeError: The model returned something other than a tensor.
            ValueError: Class scores that are not K x C.
        """
        if self._quick is not None:
            try:
                return self._quick.from_layer(features, inputs, additional_forward_args)
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                self._quick = None
        if self.layer is None:
            raise ValueError("layer must be given for a model to be run from it on")
        shape = self.layer_shape or features.shape[1:]
        self._running = True
        try:
            with replaced_output(self.layer, features.view(len(features), *shape)):
                output = self.forward_func(inputs, *additional_forward_args)
        finally:
            self._running = False
            self._outputs.clear()
        return class_scores(output, len(features))

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """At first run compiled parts as they were written: else they hide what they run."""
        if not self._first:
            yield
            return
        self._first = False
        with run_eagerly(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Using `torch\.compile\(module\)` when there are gl")
            yield

    def use_quick_copy(
        self, inputs: Tensor, additional_forward_args: tuple[Any, ...] = ()
    ) -> list[str] | None:
        """Run a :class:`~captum_deduce.classifiers.QuickCopy` of the model from now on.

        Only where it gives these inputs the same scores and features, but for rounding; and as soon
        as it fails, the model itself runs again.

        Args:
            inputs (Tensor): N x ..., a few inputs.
            additional_forward_args (tuple, optional): As for the call. Default: ()

        Returns:
            list[str] or None: Names of the batch norms that it has folded; None where the model
            itself goes on to run.
        """
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            made = quick_copy(self.forward_func, self.layer, inputs, additional_forward_args)
            if made is None:
                return None
            with ExitStack() as held:
                copied = held.enter_context(FrozenModel(made, made.layer))
                try:
                    outputs, expected = (
                        run(inputs.clone(), additional_forward_args) for run in (copied, self)
                    )
                except Exception:  # a model may raise anything
                    return None
                if not all(map(same_outputs, outputs, expected)):
                    return None
                self._exit.push(held.pop_all())
        self._quick = copied
        return made.folded

    def _meet(self, module: nn.Module, inputs: Any) -> None:
        """Freeze a module that is called for the first time, before it computes anything."""
        if torch.compiler.is_compiling():  # the compiler follows hooks, too
            return
        if threading.get_ident() != self._thread or module in self._held:
            return
        if not (self._running or self._beside):
            return  # a loader's own, for example, that augments images
        _check_devices(module)
        self._hold(module)
        self._hidden = True
        if self._running:
            self.modules.append(module)
            self._find(module)

    def _find(self, module: nn.Module) -> None:
        """Read the layer that was given by name, if this is the module that has it."""
        if self._name is None or self.layer is not None:
            return
        layer = dict(module.named_modules()).get(self._name)
        if layer is not None and self._name:
            self.layer = find_layer(module, layer)
            self._read(layer)

    def _hold(self, module: nn.Module) -> None:
        self._exit.enter_context(eval_mode(module))
        self._exit.enter_context(frozen_spectral_weights(module))
        self._held.update(module.modules())

    def _read(self, layer: nn.Module) -> None:
        (self._outputs,) = self._exit.enter_context(recorded_outputs([layer]))


def _check_devices(module: nn.Module) -> None:
    for part in module.modules():
        checks.one_device("a module that forward_func runs", part)
