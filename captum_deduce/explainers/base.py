"""The Captum face that every explainer shares."""

from __future__ import annotations

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from captum.attr._utils.attribution import Attribution
from captum.log import log_usage
from captum.robust import Perturbation
from torch import Tensor

from captum_deduce import checks, feature_masks, progress, search
from captum_deduce.classifiers import (
    FrozenModel,
    check_behaviour,
    fixed_size_error,
    no_gradient,
    refuse_probabilities,
    taken_sizes,
)
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.search import (
    ANY_CLASS,
    Problem,
    argument_rows,
    runner_up,
    warn_of_broken_scores,
)

_SIZES = (4, 8, 16, 32)
"""Numbers of images that a model is tried with that failed for two: it may take no others."""

_Inputs = TypeVar("_Inputs", bound="Tensor | tuple[Tensor, ...]")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _logged(method: _Method) -> _Method:
    """Captum's decorator, which is without types, with the method's own."""
    logged: _Method = log_usage()(method)
    return logged


class CounterfactualExplainer(Attribution, Perturbation, ABC):  # type: ignore[misc]
    r"""Base class of all explainers: three faces of one search.

    * :meth:`generate` returns :class:`~captum_deduce.Counterfactuals`, with all that is known;
    * :meth:`attribute` returns ``counterfactuals - inputs``, for tools that want attributions;
    * :meth:`perturb` (also the call itself) returns the counterfactual images, for the tools of
      ``captum.robust``, which want an attack.

    A subclass stores its keyword-only constructor arguments under their own names, checks them in
    :meth:`_check_settings` and builds its :class:`~captum_deduce.search.Procedure` in
    :meth:`_procedure`. Any of these arguments may be overridden for one call by keyword.

    Args:
        forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
            log-probabilities.

    Attributes:
        optimize_model (bool): Whether a call searches a private copy of a module that computes the
            same, but for rounding, in less time (see
            :class:`~captum_deduce.classifiers.QuickCopy`), where that is safe. The module itself is
            never changed; the copy takes the memory of its weights once more until the call ends.
            Functions, and modules with hooks, are searched as they are. Set it to False to have any
            module searched as it is. Default: True
    """

    confidence: float
    lower_bound: float | Tensor
    upper_bound: float | Tensor

    optimize_model: bool = True

    _any_class_without_target = False
    """Whether ``target=None`` asks for any class but the predicted one, not for the runner-up."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        checks.callable_model("forward_func", forward_func)
        super().__init__(forward_func)

    def __repr__(self) -> str:
        """Name the method, and the settings that are not its defaults."""
        changed = [
            f"{name}={_in_words(value)}"
            for name, default in self._settings().items()
            if (value := getattr(self, name, default)) is not default
            and not (_is_plain(value) and value == default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def get_name(cls) -> str:
        """The method's name as its paper writes it (Captum would split it at capitals)."""
        return cls.__name__

    def generate(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int | list[int] | Tensor | None = None,
        *,
        additional_forward_args: Any = None,
        mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        return_trajectory: bool = False,
        **settings: Any,
    ) -> Counterfactuals:
        r"""Search for a counterfactual of every (image, target) pair.

        The model is left as it was found, also after an error or Ctrl-C: each module's train/eval
        mode, hooks, ``requires_grad``, ``.grad`` and weights. A module is searched in eval mode, by
        way of a private copy that is quicker (``optimize_model``).

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width, float32 or float64, in
                the units that the model takes, within the bounds. A 1-tuple is accepted.
            target (int, list, Tensor or None, optional): The class to reach: one for all images, or
                N. None takes for each image the class that the model thinks second most likely
                (VLK: any class but the predicted one will do). Default: None
            additional_forward_args (Any, optional): What ``forward_func`` takes after the inputs,
                as in Captum: a tensor or any other value, or a tuple of them. Tensors with N
                rows belong to the images row by row. Default: None
            mask (Tensor, optional): 1 where pixels may change, 0 elsewhere. One for all images:
                height x width, channels x 1 x 1, channels x height x width; or one for each: N x
                channels x height x width, N x 1 x height x width, or N x height x width where N is
                not the number of channels. Default: None (all may change)
            feature_mask (Tensor, optional): As in Captum's ``FeatureAblation``: entries of an image
                with the same integer are a group, and move as one, each by its own sign; they are
                the "pixels" of every setting, in place of ``pixel``. Of the shapes that masks may
                have; the mask stays law: only those of a group move that it lets move. DeDUCE,
                JSMA (``saliency="gradient"``) and Schut. Default: None (what ``pixel`` says)
            internal_batch_size (int, optional): Most images that the model sees at once; pairs wait
                in a queue for the place of one that has ended. Where they are too many for the
                memory, the search goes on with half of them, with a warning. Default: None (N)
            show_progress (bool, optional): Draw a progress bar over the pairs that have ended, with
                the steps made, the pairs found, and the mean over the pairs at work of the best
                confidence so far. None, also of :meth:`attribute` and :meth:`perturb`: where a
                person looks on (standard error is a terminal, or the code runs in a notebook), once
                the call has taken two seconds. Default: None
            return_trajectory (bool, optional): Also return every image evaluated on the way, on the
                CPU. Default: False
            **settings (Any): Constructor arguments to override for this call.

        Returns:
            Counterfactuals: In the order of the inputs. A pair that fails has ``success=False`` and
            holds its best attempt.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Shapes, values, targets, bounds, the masks, the model's output or its device
                do not fit, a mask or a bound may be read as one for each image and as one for each
                channel, or a ``feature_mask`` for a method that moves all entries at once; the
                message names the argument, what came and what was expected.
        """
        return self._with(settings)._search(
            inputs,
            target,
            additional_forward_args,
            mask,
            feature_mask,
            internal_batch_size,
            show_progress=show_progress,
            return_trajectory=return_trajectory,
        )

    @_logged  # Captum's NoiseTunnel calls attribute.__wrapped__
    def attribute(
        self,
        inputs: _Inputs,
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        **settings: Any,
    ) -> _Inputs:
        r"""Attribute the distance to the target class: ``counterfactuals - inputs``.

        Positive where a pixel has to rise for the model to see the target. The attribution of a
        pair that fails is that of its best attempt; :meth:`generate` tells which ones failed.

        Arguments are those of :meth:`generate`. Inputs outside the bounds, as Captum's tools make
        when they add noise, are accepted with one warning: such entries stay as they are until the
        search moves them, and are then clipped. With ``target=None`` under ``NoiseTunnel`` every
        noisy copy has its own runner-up class. These tools also repeat every image, so that a
        mask, a feature mask or a bound with n rows for N inputs, n a divisor of N, is accepted: the
        first N / n inputs are copies of the first image, and share its row.

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width.
            target (int, list, Tensor or None, optional): See :meth:`generate`. Default: None
            additional_forward_args (Any, optional): See :meth:`generate`. Default: None
            mask (Tensor, optional): See :meth:`generate`. Default: None
            feature_mask (Tensor, optional): See :meth:`generate`. Default: None
            internal_batch_size (int, optional): See :meth:`generate`. Default: None
            show_progress (bool, optional): See :meth:`generate`. Default: None
            **settings (Any): Constructor arguments to override for this call.

        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **attributions**:
            - **attributions** (*Tensor* or *tuple[Tensor, ...]*): Of the inputs' shape; a tuple
              where the inputs came in one.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An argument that does not fit; see :meth:`generate`.
        """
        result = self._with(settings)._search(
            inputs,
            target,
            additional_forward_args,
            mask,
            feature_mask,
            internal_batch_size,
            show_progress=show_progress,
            inside_bounds=False,
        )
        return _in_the_form_of(inputs, result.attributions)

    def perturb(
        self,
        inputs: _Inputs,
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        mask: Tensor | None = None,
        feature_mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        **settings: Any,
    ) -> _Inputs:
        r"""Return the counterfactual images themselves, as the attacks of ``captum.robust`` do.

        Arguments are those of :meth:`generate`.

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width.
            target (int, list, Tensor or None, optional): See :meth:`generate`. Default: None
            additional_forward_args (Any, optional): See :meth:`generate`. Default: None
            mask (Tensor, optional): See :meth:`generate`. Default: None
            feature_mask (Tensor, optional): See :meth:`generate`. Default: None
            internal_batch_size (int, optional): See :meth:`generate`. Default: None
            show_progress (bool, optional): See :meth:`generate`. Default: None
            **settings (Any): Constructor arguments to override for this call; Captum's
                ``MinParamPerturbation`` varies one of them.

        Returns:
            *Tensor* or *tuple[Tensor, ...]* of **perturbed inputs**:
            - **perturbed inputs** (*Tensor* or *tuple[Tensor, ...]*): Of the inputs' shape; a tuple
              where the inputs came in one.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An argument that does not fit; see :meth:`generate`.
        """
        result = self.generate(
            inputs,
            target,
            additional_forward_args=additional_forward_args,
            mask=mask,
            feature_mask=feature_mask,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            **settings,
        )
        return _in_the_form_of(inputs, result.counterfactuals)

    def _check_settings(self) -> None:
        """Raise where a constructor argument has no sense; a subclass says which."""

    def _check_feature_mask(self) -> None:
        """Raise where the method's steps have no groups; those that have some override it."""
        raise ValueError(
            f"{self.get_name()} takes no feature_mask, as its steps move all entries at once; "
            'DeDUCE, Schut and JSMA (saliency="gradient") move groups'
        )

    @abstractmethod
    def _procedure(self, problem: Problem) -> search.Procedure:
        """Build the method for one call."""

    def _finish(
        self,
        problem: Problem,
        found: search.SearchResult,
        internal_batch_size: int | None,
        show_progress: bool | None,
    ) -> search.SearchResult:
        """Do what is left to do after the search, while the model is still prepared."""
        return found

    def _resolved(self, problem: Problem) -> str:
        """Say what settings that are rules came to for these images."""
        return ""

    def _frozen_model(self) -> FrozenModel:
        return FrozenModel(self.forward_func)

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        """Raise where the model's output does not fit what the explainer was built with."""

    def _targetable(self, num_classes: int) -> Tensor | None:
        """Which classes can be targets (C, bool, on the CPU); None for all of them."""
        return None

    @classmethod
    def _settings(cls) -> dict[str, Any]:
        """The keyword-only arguments, which a call may override, and their defaults."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def _with(self, settings: dict[str, Any]) -> CounterfactualExplainer:
        """Copy the explainer with some settings overridden; the copy shares model and density."""
        if not settings:
            return self
        known = self._settings()
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise TypeError(
                f"{self.get_name()} has no argument {', '.join(unknown)}; arguments that a call "
                f"may override: {', '.join(known)}"
            )
        changed = copy.copy(self)
        for name, value in settings.items():
            setattr(changed, name, value)
        changed._check_settings()
        return changed

    def _search(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int | list[int] | Tensor | None,
        additional_forward_args: Any,
        mask: Tensor | None,
        feature_mask: Tensor | None,
        internal_batch_size: int | None,
        *,
        show_progress: bool | None,
        return_trajectory: bool = False,
        inside_bounds: bool = True,
    ) -> Counterfactuals:
        images, _ = checks.single_tensor(inputs)
        checks.images(images)
        progress.shown(show_progress)
        checks.flag("return_trajectory", return_trajectory)
        checks.flag("optimize_model", self.optimize_model)
        if internal_batch_size is not None:
            checks.number("internal_batch_size", internal_batch_size, minimum=1, integer=True)
        if feature_mask is not None:
            self._check_feature_mask()
        # Captum's tools call under no_grad, and a user may in inference mode; a search needs
        # gradients, and copies, as tensors made in inference mode can take no part in them.
        with torch.inference_mode(False), torch.enable_grad():
            images = images.detach().clone()
            # Captum's tools call attribute, with every image repeated.
            copies = not inside_bounds
            lower, upper = checks.bounds(
                _normal(self.lower_bound), _normal(self.upper_bound), images, copies=copies
            )
            outside = checks.outside_bounds(images, lower, upper)
            if outside and inside_bounds:
                raise ValueError(outside)
            if outside:
                warnings.warn(
                    f"{outside}. They stay as they are until the search moves them, and are then "
                    "clipped.",
                    stacklevel=4,
                )
            allowed = checks.masks(_normal(mask), images, copies=copies)
            groups = None
            if feature_mask is not None:
                groups = feature_masks.numbered(_normal(feature_mask), images, copies=copies)
            arguments = _argument_tuple(additional_forward_args)
            with self._frozen_model() as model:
                classes = self._probe(model, images, arguments, (lower, upper), internal_batch_size)
                if self.optimize_model:
                    few = argument_rows(arguments, len(images), slice(2))
                    model.use_quick_copy(images[:2], few)
                runner_up_passes = 0
                if target is None and self._any_class_without_target:
                    targets = torch.full((len(images),), ANY_CLASS)
                elif target is None:
                    targets = runner_up(
                        model, images, arguments, internal_batch_size, self._targetable(classes)
                    )
                    runner_up_passes = 1
                else:
                    targets = checks.targets(target, len(images), classes)
                problem = Problem(
                    model=model,
                    inputs=images,
                    target=targets.to(images.device),
                    classes=targets.tolist(),
                    additional_forward_args=arguments,
                    mask=allowed,
                    lower=lower,
                    upper=upper,
                    groups=groups,
                )
                try:
                    found = search.run(
                        self._procedure(problem),
                        len(images),
                        batch_size=internal_batch_size,
                        show_progress=show_progress,
                        return_trajectory=return_trajectory,
                    )
                except RuntimeError as error:
                    why = no_gradient(error)
                    if why is None:
                        raise
                    # The classifier's was computed by the probe.
                    raise ValueError(
                        "the gradient of a model beside forward_func (VAE, autoencoder or encoder) "
                        f"can't be computed: {why}"
                    ) from error
                found = self._finish(problem, found, internal_batch_size, show_progress)
                warn_of_broken_scores(problem, found, internal_batch_size, stacklevel=4)
        return self._result(problem, found, runner_up_passes)

    def _result(
        self, problem: Problem, found: search.SearchResult, forward_passes: int = 0
    ) -> Counterfactuals:
        """Say of pairs what is known of them after so many forward passes before the search."""
        forward_only = torch.full_like(found.iterations, forward_passes)
        if found.forward_evaluations is not None:
            forward_only += found.forward_evaluations
        return Counterfactuals(
            inputs=problem.inputs,
            counterfactuals=found.images,
            target=problem.target if found.target is None else found.target,
            success=found.success,
            confidence=found.confidence,
            iterations=found.iterations,
            evaluations=found.iterations + 1 if found.evaluations is None else found.evaluations,
            forward_evaluations=forward_only,
            prediction=found.prediction,
            log_density=found.log_density,
            trajectory=found.trajectory,
            settings=": ".join(filter(None, [repr(self), self._resolved(problem)])),
        )

    def _probe(
        self,
        model: FrozenModel,
        images: Tensor,
        arguments: tuple[Any, ...],
        bounds: tuple[Tensor, Tensor],
        internal_batch_size: int | None,
    ) -> int:
        """Run the model on two images, so that what does not fit is said before the search."""
        most = min(internal_batch_size or len(images), len(images))
        few = images[: min(most, 2)].requires_grad_()

        def beside(rows: Sequence[int]) -> tuple[Any, ...]:
            return argument_rows(arguments, len(images), list(rows))

        try:
            scores, features = model(few.clone(), beside(range(len(few))))
        except Exception as error:  # whatever a user's model raises
            if _is_one_image(model, images, arguments):
                raise ValueError(
                    "inputs must have the shape N x channels x height x width, got what "
                    f"forward_func takes as one image, {tuple(images.shape)}; pass "
                    "image.unsqueeze(0)"
                ) from error
            sizes = [size for size in (1, most, *_SIZES) if len(few) != size <= max(_SIZES)]
            for size in taken_sizes(model, images, beside, sizes):
                raise fixed_size_error(size, len(few), error, arguments) from error
            raise
        if not torch.isfinite(scores).all():
            raise ValueError("forward_func returned NaN or infinite scores for inputs[:2]")
        refuse_probabilities(scores)
        check_behaviour(model, few, beside, scores, bounds, stacklevel=5)
        self._check_model(scores, features)
        return scores.shape[1]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _in_words(value: Any) -> str:
    """Write a setting in a line: arrays by their shape, what can be called by its type."""
    if _is_plain(value):
        return repr(value)
    if is_dataclass(value):
        own = [f for f in fields(value) if getattr(value, f.name) is not f.default]
        settings = (f"{f.name}={_in_words(getattr(value, f.name))}" for f in own)
        return f"{type(value).__name__}({', '.join(settings)})"
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"<{type(value).__name__}{shape}>"


def _is_one_image(model: FrozenModel, images: Tensor, arguments: tuple[Any, ...]) -> bool:
    """Tell whether the model takes the images if a batch of one is made of them."""
    if images.dim() not in (2, 3):
        return False
    try:
        model(images.reshape(1, *[1] * (3 - images.dim()), *images.shape).clone(), arguments)
    except Exception:  # whatever a user's model raises
        return False
    return True


def _normal(value: Any) -> Any:
    """Copy a tensor that was made in inference mode, so that autograd accepts it."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _argument_tuple(arguments: Any) -> tuple[Any, ...]:
    if arguments is None:
        return ()
    return tuple(_normal(a) for a in (arguments if isinstance(arguments, tuple) else (arguments,)))


def _in_the_form_of(inputs: _Inputs, tensor: Tensor) -> _Inputs:
    """A tuple where the inputs came in one."""
    found: Any = (tensor,) if isinstance(inputs, tuple) else tensor
    kept: _Inputs = found
    return kept
