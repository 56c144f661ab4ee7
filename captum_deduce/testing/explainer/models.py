"""Checks of the models that users have: what is taken, what is refused, how each is left."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from captum_deduce.testing.contracts import (
    ContractError,
    NotApplicable,
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
    require_untouched,
    snapshot,
)
from captum_deduce.testing.subjects import Subject, as_function


def _check_additional_arguments(trial: Trial) -> None:
    """What a model takes besides its inputs follows its images through the batches."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    shift = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).double()
    # With nothing added, for what runs the model on other images.
    subject.after = lambda scores, shift=0.0, scale=1.0: scores * scale + shift
    result = explainer.generate(
        images, target, additional_forward_args=(shift, 1.5), internal_batch_size=4
    )
    with torch.no_grad():
        probabilities = subject(result.counterfactuals, shift, 1.5).softmax(1)
    expected = probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
    require_equal("confidence", result.confidence, expected, ROUNDED)
    require(result.success.any(), "no success", "some")


def _check_log_probabilities(trial: Trial) -> None:
    """Logits and log-probabilities give the same."""
    explainer, subject = trial.pair()
    expected = explainer.generate(subject.images, subject.target)
    subject.after = lambda scores: scores.log_softmax(1)
    require_same(explainer.generate(subject.images, subject.target), expected, ROUNDED)


def _check_model_is_left_as_it_was(trial: Trial) -> None:
    """Dropout and batch norm in train mode are searched in eval mode, and all is left as it was."""
    expected = trial.found()
    subject = unsettled()
    explainer = trial.build(subject)
    before = snapshot(subject)
    result = explainer.generate(subject.images, subject.target)
    require_untouched(subject, before)
    require_same(result, expected, 0.0)


def unsettled() -> Subject:
    """A subject with mixed modes and a frozen parameter."""
    subject = Subject().train()
    subject.strided.eval()
    subject.fc.bias.requires_grad_(False)
    return subject


def _check_no_parameter_gradient(trial: Trial) -> None:
    """Gradients of inputs are computed and none of parameters, which need not require any."""
    explainer, subject = trial.pair()
    filled = AssertionError("backward was called, which fills the gradients of parameters")
    with mock.patch.object(Tensor, "backward", side_effect=filled):
        expected = explainer.generate(subject.images, subject.target)
    filled_ones = [name for name, p in subject.named_parameters() if p.grad is not None]
    require_equal("parameters with a gradient", filled_ones, [])
    subject.requires_grad_(False)
    require_same(explainer.generate(subject.images, subject.target), expected, EXACT)


def _check_in_place_operations(trial: Trial) -> None:
    """A model that overwrites what it is given finds the same, and the inputs stay."""
    explainer, subject = trial.pair()
    images = subject.images
    original, subject.relu.inplace = images.clone(), False
    subject.before = lambda x: x * 0.95 + 0.02
    expected = explainer.generate(images, subject.target)
    subject.relu.inplace = True
    subject.before = lambda x: x.mul_(0.95).add_(0.02)
    result = explainer.generate(images, subject.target)
    require_equal("the caller's own inputs", images, original)
    require_same(result, expected, ROUNDED)


def _check_functions(trial: Trial) -> None:
    """A function or a partial that calls the model finds what the model itself does."""
    expected = trial.found()
    subject = Subject().train()
    result = trial.found(as_function(subject))
    require_same(result, expected, EXACT)
    require(subject.training, "the module behind a function in eval mode", "its own mode")
    partial: Any = functools.partial(as_function(subject))
    vars(partial).update(vars(partial.func))
    require_same(trial.found(partial), expected, EXACT)


def _check_modules_used_twice(trial: Trial) -> None:
    """A model that runs a module twice is explained as one with two copies of it."""
    shared, apart = (trial.found(_relu_twice(shared=shared)) for shared in (True, False))
    require_same(shared, apart, ROUNDED)
    require(shared.success.any(), "no success", "some")


def _relu_twice(*, shared: bool) -> Subject:
    subject = Subject()
    subject.relu = nn.ReLU()
    again = subject.relu if shared else nn.ReLU()
    subject.pool = nn.Sequential(again, subject.pool)  # type: ignore[assignment]
    return subject


def _check_users_hooks(trial: Trial) -> None:
    """A user's own hooks run, what they change counts, and they are still there afterwards."""
    seen: list[int] = []
    subject = Subject()
    handles = [
        subject.strided.register_forward_hook(lambda _, __, output: seen.append(len(output))),
        subject.fc.register_forward_pre_hook(lambda _, args: (args[0] * 1.5,)),
        subject.register_full_backward_hook(lambda *_: seen.append(0)),
    ]
    explainer = trial.build(subject)
    seen.clear()
    before = snapshot(subject)
    result = explainer.generate(subject.images, subject.target)
    require(seen, "no call of the hook", "one for each pass")
    require_untouched(subject, before)
    found = subject.confidence(result.counterfactuals, subject.target)
    require_equal("confidence, with the hooks", result.confidence, found, ROUNDED)
    for handle in handles:
        handle.remove()


def _check_constant_models(trial: Trial) -> None:
    """A model whose scores never change is refused, or every pair fails with finite images."""
    explainer, subject = trial.pair()
    constant = torch.arange(10.0, dtype=torch.float64).flip(0)
    subject.after = lambda scores: scores * 0 + constant
    with _refusal_or_warnings():
        result = explainer.generate(subject.images, 3, **few_steps(explainer, 20))
        require(not result.success.any(), "success", "none where no image has the target")
        require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")
        require(torch.isfinite(result.confidence).all(), "NaN confidence", "finite confidences")


def _check_saturated_softmax(trial: Trial) -> None:
    """Where probabilities underflow to 0 and 1, results are finite and true."""
    explainer, subject = trial.pair()
    subject.after = lambda scores: scores * 1e4
    with _refusal_or_warnings():
        result = explainer.generate(subject.images, subject.target, **few_steps(explainer, 20))
        images = result.counterfactuals
        require(torch.isfinite(images).all(), "NaN or infinity", "finite images")
        found = subject.confidence(images, subject.target)
        require_equal("confidence", result.confidence, found, 1e-6)
        reached = is_reached(explainer, images, subject.target)
        # Of scores so steep a probability is 0 or 1: of the least advantage the target has 1.
        require((reached | (found > 0.5) | ~result.success).all(), "untrue success", "true ones")


def _check_log_density_near_zero(trial: Trial) -> None:
    """Features whose log-density is 0 to begin with divide nothing by zero."""
    explainer, subject = trial.pair()
    images, target = subject.images[:1], subject.target[:1]
    nowhere = torch.zeros(8, 8)
    measured = explainer.generate(images, target, mask=nowhere).log_density
    if measured is None:
        raise NotApplicable("its results have no log_density")
    expected = explainer.generate(images, target)
    # A log-density of D features that are all s times as large is lower by D log s.
    scale = float((measured / subject.fc.in_features).exp())
    scaled = Subject()
    scaled.features = nn.Sequential(nn.Flatten(), _Scale(scale))  # type: ignore[assignment]
    with torch.no_grad():
        scaled.fc.weight /= scale
    explainer = trial.build(scaled)
    near = explainer.generate(images, target, mask=nowhere).log_density
    require(near is not None and near.abs().item() < 0.1, f"log-density {near}", "about 0")
    result = explainer.generate(images, target)
    require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")
    require_equal("success", result.success, expected.success)


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


def _check_nan_later_on(trial: Trial) -> None:
    """A model that returns NaN in mid-search leaves finite images, and is left as it was."""
    explainer, subject = trial.pair()
    before, calls = snapshot(subject), 0

    def break_later(scores: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return scores if calls < 9 else scores * torch.nan

    settings = trial.long(explainer, 30)
    subject.after = break_later
    with _refusal_or_warnings():
        result = explainer.generate(subject.images, subject.target, **settings)
        require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")
        require(torch.isfinite(result.confidence).all(), "NaN confidence", "finite confidences")
        require(not result.success.any(), "success", "none")
    require_untouched(subject, before)


def _check_slope_without_a_number(trial: Trial) -> None:
    """A pair whose gradient is not finite ends with a finite image, and harms no other pair."""
    explainer, subject = trial.pair()
    images, target = subject.images, subject.target
    expected = explainer.generate(images, target)
    broken = torch.tensor([False, False, True, False, False, False])
    whole = torch.zeros(1, dtype=torch.bool)

    def undefined_slope(scores: Tensor, broken: Tensor = whole) -> Tensor:
        zero = (scores.sum(1, keepdim=True) * 0).abs()
        return scores + torch.where(broken.unsqueeze(1), zero, zero + 1).sqrt()

    subject.after = undefined_slope
    result = explainer.generate(images, target, additional_forward_args=broken)
    require(torch.isfinite(result.counterfactuals).all(), "NaN or infinity", "finite images")
    require(torch.isfinite(result.confidence).all(), "NaN confidence", "finite confidences")
    require_same(result[~broken], expected[~broken], EXACT)
    if not result.success[2]:
        stays = subject.confidence(result.counterfactuals[broken], target[broken])
        require_equal("confidence", result.confidence[broken], stays, ROUNDED)


_REFUSED: list[tuple[str, Callable[[Tensor], Any], type[Exception], tuple[str, ...]]] = [
    (
        "a tuple",
        lambda s: (s, s),
        TypeError,
        ("forward_func must return a tensor", "got tuple"),
    ),
    ("scores without classes", lambda s: s[:, 0], ValueError, ("one logit",)),
    ("one class", lambda s: s[:, :1], ValueError, ("one logit",)),
    ("N x C x 1 scores", lambda s: s.unsqueeze(2), ValueError, ("N x C class scores", "got shape")),
    (
        "probabilities",
        lambda s: s.softmax(1),
        ValueError,
        ("probabilities; leave out the softmax",),
    ),
    ("no gradient", lambda s: s.detach(), ValueError, ("can be differentiated",)),
    ("NaN", lambda s: s * torch.nan, ValueError, ("forward_func returned NaN or infinite",)),
]


def _check_refused_models(trial: Trial) -> None:
    """A model whose output is of no use is refused before the search, and the message says why."""
    explainer, subject = trial.pair()
    for name, after, kind, words in _REFUSED:
        subject.after = after
        with require_raises(f"a model that returns {name}", kind, *words):
            explainer.generate(subject.images[:3], 3)


def _check_spread_models(trial: Trial) -> None:
    """A model in DataParallel is refused, and the message names what to pass instead."""
    explainer, subject = trial.pair()
    subject.strided = nn.DataParallel(subject.strided)  # type: ignore[assignment]
    with require_raises("DataParallel", ValueError, "DataParallel", ".module"):
        explainer.generate(subject.images[:3], 3)


def _check_gpu(trial: Trial) -> None:
    """On a GPU the same pairs are found, and images on the CPU are refused."""
    if not torch.cuda.is_available():
        raise NotApplicable("needs a GPU")
    expected = trial.found()
    subject = Subject().cuda()
    explainer = trial.build(subject)
    images, target = subject.images, subject.target
    for classes in (target, target.cpu(), target.tolist()):
        result = explainer.generate(images, classes, mask=torch.ones(8, 8))
        require(result.counterfactuals.is_cuda and result.success.is_cuda, "the CPU", "the GPU")
        require_equal("success", result.success.cpu(), expected.success)
        require_equal("L1", result.l1().cpu(), expected.l1(), 1e-2)
    with require_raises("images elsewhere", ValueError, "but the model's parameters are"):
        explainer.generate(images.cpu(), target)


@contextmanager
def _refusal_or_warnings() -> Iterator[None]:
    """Let an explainer warn, or raise a ValueError that says something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except ContractError:
            raise
        except ValueError as error:
            require(len(str(error)) > 20, repr(error), "an error that says what is the matter")


CHECKS = (
    _check_additional_arguments,
    _check_log_probabilities,
    _check_model_is_left_as_it_was,
    _check_no_parameter_gradient,
    _check_in_place_operations,
    _check_functions,
    _check_modules_used_twice,
    _check_users_hooks,
    _check_constant_models,
    _check_saturated_softmax,
    _check_log_density_near_zero,
    _check_nan_later_on,
    _check_slope_without_a_number,
    _check_refused_models,
    _check_spread_models,
    _check_gpu,
)
