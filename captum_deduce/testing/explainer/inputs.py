"""Checks of what may be passed, in which form, and of what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.testing.contracts import (
    in_words,
    require,
    require_equal,
    require_raises,
)
from captum_deduce.testing.explainer.trial import (
    EXACT,
    ROUNDED,
    Trial,
    few_steps,
    is_reached,
    require_same,
)
from captum_deduce.testing.subjects import Subject


def _check_target_forms(trial: Trial) -> None:
    """A target may be a number, a list, a tuple, NumPy's or a tensor, for all or for each."""
    explainer, subject = trial.pair()
    images = subject.images[:3]
    classes = [3, 3, 3]
    forms: list[Any] = [3, np.int64(3), classes, [3], torch.tensor(3), torch.tensor([3]), (3, 3, 3)]
    forms += [np.array(classes), torch.tensor([classes]).T, torch.tensor(classes).to(torch.uint8)]
    settings = few_steps(explainer, 3)
    expected = explainer.generate(images, torch.tensor(classes), **settings)
    for form in forms:
        result = explainer.generate(images, form, **settings)
        require_equal(f"target of {form!r}", result.target, expected.target)
        require_equal(f"images for {form!r}", result.counterfactuals, expected.counterfactuals)


def _check_one_image(trial: Trial) -> None:
    """A batch of one image gives what the image gives in a batch."""
    explainer, subject = trial.pair()
    expected = explainer.generate(subject.images, subject.target)
    for i in (0, 3):
        alone = explainer.generate(subject.images[i : i + 1], int(subject.target[i]))
        require_same(alone, expected[i], EXACT)


def _check_no_image(trial: Trial) -> None:
    """A batch without images is refused by name, or gives a result without pairs."""
    explainer, subject = trial.pair()
    try:
        result = explainer.generate(subject.images[:0], 3)
    except ValueError as error:
        require("inputs" in str(error), in_words(error), "an error that names inputs")
    else:
        require_equal("shape of counterfactuals", result.counterfactuals.shape, (0, 1, 8, 8))


def _check_memory_layouts(trial: Trial) -> None:
    """Inputs that are transposed, strided, expanded or channels-last give what a copy gives."""
    explainer, subject = trial.pair(channels=3)
    images, target = subject.images, subject.target
    settings = few_steps(explainer, 5)
    expected = explainer.generate(images, target, **settings)
    wide = torch.stack([images, images], -1).flatten(3)[..., ::2]
    layouts = {
        "channels-last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": wide,
    }
    for name, laid_out in layouts.items():
        before = laid_out.stride()
        result = explainer.generate(laid_out, target, **settings)
        require_equal(f"{name} images", result.counterfactuals, expected.counterfactuals, ROUNDED)
        require_equal(f"strides of the caller's {name} inputs", laid_out.stride(), before)
    repeated = explainer.generate(images[:1].expand(3, -1, -1, -1), int(target[0]), **settings)
    for row in repeated.counterfactuals:
        require_equal("images of an expanded one", row, expected.counterfactuals[0], ROUNDED)


def _check_inputs_that_require_grad(trial: Trial) -> None:
    """Inputs that require a gradient, leaves or not, are searched and get none."""
    explainer, subject = trial.pair()
    leaf = subject.images[:3].requires_grad_()
    expected = explainer.generate(subject.images[:3], subject.target[:3])
    for inputs in (leaf, leaf * 1.0):
        result = explainer.generate(inputs, subject.target[:3])
        require_equal("counterfactuals", result.counterfactuals, expected.counterfactuals)
        require(not result.counterfactuals.requires_grad, "a result with a graph", "none")
        require(inputs.requires_grad, "inputs that no longer require a gradient", "as they were")
    require(leaf.grad is None, "a gradient of the caller's inputs", "none")


def _check_gradient_modes(trial: Trial) -> None:
    """Under torch.no_grad and torch.inference_mode the same is found, in ordinary tensors."""
    explainer, subject = trial.pair()
    images, target = subject.images[:3], subject.target[:3]
    expected = explainer.generate(images, target)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            mask, bound = torch.ones(8, 8), torch.zeros(1, 1, 1) + 1.0
            result = explainer.generate(images * 1.0, target * 1, mask=mask, upper_bound=bound)
        require_same(result, expected, 0.0)
        require(not result.counterfactuals.is_inference(), "inference tensors", "ordinary ones")


def _check_single_precision(trial: Trial) -> None:
    """In float32 true successes are found, in float32, about as near as in float64."""
    expected = trial.found()
    subject = Subject().float()
    explainer = trial.build(subject)
    result = explainer.generate(subject.images, subject.target)
    require_equal("dtype", result.counterfactuals.dtype, torch.float32)
    require_equal("number found", int(result.success.sum()), int(expected.success.sum()))
    ratio = (result.l1().mean() / expected.l1().mean()).item()
    require(0.9 < ratio < 1.1, f"{ratio:.2f} times the L1 of float64", "0.9 to 1.1 times")


def _check_half_precision(trial: Trial) -> None:
    """Inputs or models in float16 and bfloat16 are explained rightly, or refused by their dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        explainer, subject = trial.pair()
        images, target = subject.images[:3], subject.target[:3]
        _refused_or_right(explainer, images.to(dtype), target)
        # The model alone, as a user would: what an explainer holds beside it stays as it is.
        subject.to(dtype)
        _refused_or_right(explainer, images.float(), target)
        _refused_or_right(explainer, images.to(dtype), target)


def _refused_or_right(explainer: CounterfactualExplainer, images: Tensor, target: Tensor) -> None:
    try:
        result = explainer.generate(images, target)
    except (TypeError, ValueError) as error:
        require("float" in str(error), in_words(error), "an error that names the dtype")
        return
    found = result.counterfactuals
    require(torch.isfinite(found).all(), f"NaN or infinity of {found.dtype}", "finite images")
    reached = is_reached(explainer, found.double(), target)
    require((reached | ~result.success).all(), f"untrue success in {found.dtype}", "true ones")


def _check_one_tuple(trial: Trial) -> None:
    """Inputs in a tuple of one are taken, and attributions and images come back in one."""
    explainer, subject = trial.pair()
    images, target = subject.images[:3], subject.target[:3]
    for face in (explainer.attribute, explainer.perturb, explainer):
        (only,) = face((images,), target)
        require_equal("what came in the tuple", only, face(images, target))


_REFUSED: list[tuple[dict[str, Any], type[Exception], tuple[str, ...]]] = [
    ({"inputs": np.zeros((1, 1, 8, 8))}, TypeError, ("inputs must be a torch.Tensor",)),
    ({"inputs": torch.zeros(2, 1, 8, 8).long()}, TypeError, ("inputs must be float32 or float64",)),
    ({"inputs": torch.zeros(8)}, ValueError, ("inputs must have the shape N x", "(8,)")),
    ({"inputs": torch.full((1, 1, 8, 8), torch.nan)}, ValueError, ("inputs must be finite",)),
    ({"inputs": (torch.zeros(1), torch.zeros(1))}, ValueError, ("a tuple of 2",)),
    (
        {"inputs": torch.zeros(1, 1, 8, 8)},
        ValueError,
        ("inputs are torch.float32 on cpu, but the model's parameters are torch.float64",),
    ),
    (
        {"inputs": torch.full((1, 1, 8, 8), 2.0)},
        ValueError,
        ("inputs must lie within lower_bound",),
    ),
    ({"target": 10}, ValueError, ("target must lie in 0 ... 9", "got 10")),
    ({"target": [1, 2]}, ValueError, ("target", "one per image (3)", "got shape (2,)")),
    ({"target": 1.5}, TypeError, ("target must hold integers",)),
    ({"mask": torch.ones(3, 3)}, ValueError, ("mask must broadcast", "(3, 1, 8, 8)", "(3, 3)")),
    ({"mask": [1]}, TypeError, ("mask must be a torch.Tensor",)),
    ({"lower_bound": 1.0}, ValueError, ("lower_bound must be below upper_bound",)),
    (
        {"upper_bound": torch.ones(5)},
        ValueError,
        ("upper_bound must broadcast to one input", "(5,)"),
    ),
    ({"internal_batch_size": 0}, ValueError, ("internal_batch_size", "0")),
    ({"internal_batch_size": 1.5}, TypeError, ("internal_batch_size must be an int",)),
    ({"show_progress": "yes"}, TypeError, ("show_progress must be True, False or None",)),
    ({"return_trajectory": 2}, TypeError, ("return_trajectory must be True or False",)),
]


def _check_refused_arguments(trial: Trial) -> None:
    """What can't be right is refused before any work, by the argument's name and what came."""
    explainer, subject = trial.pair()
    for wrong, kind, words in _REFUSED:
        call: dict[str, Any] = {"inputs": subject.images[:3], "target": 3} | wrong
        with require_raises(", ".join(wrong), kind, *words):
            explainer.generate(call.pop("inputs"), call.pop("target"), **call)


CHECKS = (
    _check_target_forms,
    _check_one_image,
    _check_no_image,
    _check_memory_layouts,
    _check_inputs_that_require_grad,
    _check_gradient_modes,
    _check_single_precision,
    _check_half_precision,
    _check_one_tuple,
    _check_refused_arguments,
)
