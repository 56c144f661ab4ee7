"""What a check of an explainer is given: how to build one, and settings that make a search long."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.testing.contracts import NotApplicable, require_equal
from captum_deduce.testing.subjects import Subject

MakeExplainer = Callable[[Any], CounterfactualExplainer]
"""From a :class:`~captum_deduce.testing.Subject` to an explainer of it."""

EXACT = 1e-12
"""What results may differ by in float64 that come of the same operations in other batches."""

ROUNDED = 1e-9
"""Likewise where the model's operations are others that compute the same."""


@dataclass(frozen=True)
class Trial:
    """An explainer class under test.

    Args:
        make_explainer (Callable): From a subject to an explainer.
        hopeless (Mapping[str, Any], optional): Settings with which no search of a few steps
            succeeds. Default: a confidence of nearly 1
    """

    make_explainer: MakeExplainer
    hopeless: Mapping[str, Any] = field(default_factory=dict)

    def build(self, subject: Any) -> CounterfactualExplainer:
        """Build an explainer.

        Args:
            subject (Subject or Callable): Of which model.

        Returns:
            CounterfactualExplainer: The explainer.

        Raises:
            TypeError: The factory returns something else.
        """
        explainer = self.make_explainer(subject)
        if not isinstance(explainer, CounterfactualExplainer):
            raise TypeError(
                "make_explainer must return a CounterfactualExplainer, got "
                f"{type(explainer).__name__}"
            )
        return explainer

    def pair(self, channels: int = 1) -> tuple[CounterfactualExplainer, Subject]:
        """Build a subject, and an explainer of it.

        Args:
            channels (int, optional): Of the images. Default: 1

        Returns:
            tuple[CounterfactualExplainer, Subject]: Both.
        """
        subject = Subject(channels)
        return self.build(subject), subject

    def found(self, subject: Any = None, **arguments: Any) -> Counterfactuals:
        """Find counterfactuals of a subject's images with a new explainer.

        Args:
            subject (Subject or Callable, optional): Of which model. Default: None (a new one)
            **arguments (Any): For the call.

        Returns:
            Counterfactuals: Of its images, for its targets.
        """
        subject = Subject() if subject is None else subject
        return self.build(subject).generate(subject.images, subject.target, **arguments)

    def long(self, explainer: CounterfactualExplainer, steps: int) -> dict[str, Any]:
        """Choose settings with which a search takes some steps, and finds nothing.

        Args:
            explainer (CounterfactualExplainer): The explainer.
            steps (int): How many at most.

        Returns:
            dict[str, Any]: Settings for one call.

        Raises:
            NotApplicable: There are none that are known.
        """
        settings = dict(self.hopeless)
        if not settings and takes(explainer, "confidence"):
            settings["confidence"] = 1 - 1e-9
        if not settings or not takes(explainer, "max_iterations"):
            raise NotApplicable("no settings are known with which a search is long (hopeless=)")
        return {**settings, "max_iterations": steps}


def takes(explainer: CounterfactualExplainer, setting: str) -> bool:
    """Tell whether a setting may be given for one call: a keyword-only constructor argument.

    Args:
        explainer (CounterfactualExplainer): The explainer.
        setting (str): The setting's name.

    Returns:
        bool: Whether it may.
    """
    parameter = inspect.signature(type(explainer).__init__).parameters.get(setting)
    return parameter is not None and parameter.kind is parameter.KEYWORD_ONLY


def few_steps(explainer: CounterfactualExplainer, steps: int) -> dict[str, Any]:
    """Choose settings that keep a search short, where that can be said.

    Args:
        explainer (CounterfactualExplainer): The explainer.
        steps (int): How many at most.

    Returns:
        dict[str, Any]: Settings for one call.
    """
    return {"max_iterations": steps} if takes(explainer, "max_iterations") else {}


def is_reached(explainer: CounterfactualExplainer, images: Tensor, target: Tensor) -> Tensor:
    """Tell by the model itself which images are what a success promises.

    Args:
        explainer (CounterfactualExplainer): With a ``confidence``, or of the most likely class.
        images (Tensor): N x ...
        target (Tensor): N classes.

    Returns:
        Tensor: N, bool.
    """
    subject = Subject(images.shape[1]).to(images)
    with torch.no_grad():
        most_likely: Tensor = subject(images).argmax(1) == target
    threshold = getattr(explainer, "confidence", 0.0)
    confident = subject.confidence(images, target) > threshold
    return confident & most_likely if threshold < 0.5 else confident


def require_same(found: Counterfactuals, expected: Counterfactuals, tolerance: float) -> None:
    """Fail where two results are not of the same images and successes.

    Args:
        found (Counterfactuals): One.
        expected (Counterfactuals): The other.
        tolerance (float): Between entries of images.

    Raises:
        ContractError: They differ.
    """
    require_equal("counterfactuals", found.counterfactuals, expected.counterfactuals, tolerance)
    require_equal("success", found.success, expected.success)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Note all of a model that a search has to leave as it is.

    Args:
        model (nn.Module): The model.

    Returns:
        dict[str, Any]: What was noted, by its name.
    """
    noted: dict[str, Any] = {}
    for name, part in model.named_modules():
        noted[f"the mode of {name or 'the model'}"] = part.training
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
        noted[f"the hooks of {name or 'the model'}"] = [list(each) for each in hooks]
    for name, parameter in model.named_parameters():
        noted[f"requires_grad of {name}"] = parameter.requires_grad
        gradient = parameter.grad
        noted[f"the gradient of {name}"] = None if gradient is None else gradient.clone()
    for name, value in model.state_dict().items():
        noted[name] = value.clone()
    return noted


def require_untouched(model: nn.Module, before: Mapping[str, Any]) -> None:
    """Fail where a model is not as it was.

    Args:
        model (nn.Module): The model.
        before (Mapping[str, Any]): Its :func:`snapshot`.

    Raises:
        ContractError: Something is different.
    """
    for name, value in snapshot(model).items():
        require_equal(f"{name} afterwards:", value, before.get(name))
