"""The contract of a density of features, one for each class."""

from __future__ import annotations

import copy
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deduce.testing.contracts import (
    Check,
    ContractError,
    NamedCheck,
    NotApplicable,
    Outcome,
    in_words,
    named_checks,
    require,
    require_callable,
    require_equal,
    require_raises,
    run_all,
)

MakeDensity = Callable[[], Any]

_CLASSES, _FEATURES, _SAMPLES = 3, 2, 240
_EXACT = 1e-9
"""In nats, of log-densities of a few nats."""


def _samples(seed: int = 0, count: int = _SAMPLES) -> tuple[Tensor, Tensor]:
    """Features around a centre for each class, each as wide as its class's number, from 1."""
    source = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % _CLASSES
    noise = torch.randn(count, _FEATURES, generator=source, dtype=torch.float64)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    return centres[target] + noise * (1 + target.unsqueeze(1) / 2), target


def _fitted(make_density: MakeDensity) -> Any:
    density = make_density()
    density.fit(*_samples())
    return density


def _check_fit(make_density: MakeDensity) -> None:
    """The method fit returns the density itself, which then evaluates new features."""
    density, (features, target) = make_density(), _samples()
    before = features.clone(), target.clone()
    require(density.fit(features, target) is density, "another object from fit", "the density")
    require_equal("the caller's features", features, before[0])
    require_equal("the caller's target", target, before[1])
    values = density.log_prob(*_samples(1, 12))
    require(isinstance(values, Tensor), type(values).__name__, "a tensor of log-densities")
    require_equal("shape of log-densities", tuple(values.shape), (12,))
    require(values.is_floating_point(), f"{values.dtype}", "floating-point log-densities")
    require(torch.isfinite(values).all(), "NaN or infinity", "finite log-densities")


def _check_integral(make_density: MakeDensity) -> None:
    """The density of each class integrates to 1 over all features."""
    density = _fitted(make_density)
    line = torch.linspace(-24, 33, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    cell = float(line[1] - line[0]) ** 2
    for label in range(_CLASSES):
        total = density.log_prob(grid, label).exp().sum().item() * cell
        require(abs(total - 1) < 0.01, f"an integral of {total:.3f} for class {label}", "1")


def _check_own_class(make_density: MakeDensity) -> None:
    """New features of a class are likelier under it than under another, on the whole."""
    density, (features, target) = _fitted(make_density), _samples(1)
    own = density.log_prob(features, target)
    other = density.log_prob(features, (target + 1) % _CLASSES)
    share = (own > other).double().mean().item()
    require(share > 0.9, f"{share:.0%} likelier under their own class", "more than 90%")


def _check_order_of_samples(make_density: MakeDensity) -> None:
    """A fit does not depend on the order of the samples, and starts afresh each time."""
    features, target = _samples()
    density = _fitted(make_density)
    expected = density.log_prob(*_samples(1, 12))
    shuffled = make_density().fit(features.flip(0), target.flip(0))
    require_equal("log-densities", shuffled.log_prob(*_samples(1, 12)), expected, _EXACT)
    density.fit(features * 2, target).fit(features, target)
    require_equal(
        "log-densities of a new fit", density.log_prob(*_samples(1, 12)), expected, _EXACT
    )


def _check_partial_fits(make_density: MakeDensity) -> None:
    """Samples that are added in batches, or merged, give what one fit of all gives."""
    density, (features, target) = make_density(), _samples()
    if not hasattr(density, "partial_fit"):
        raise NotApplicable("it has no partial_fit")
    expected = _fitted(make_density).log_prob(*_samples(1, 12))
    for rows in (slice(0, 100), slice(100, 101), slice(101, None)):
        density.partial_fit(features[rows], target[rows])
    require_equal("log-densities", density.log_prob(*_samples(1, 12)), expected, _EXACT)
    if hasattr(density, "merge"):
        first, second = make_density(), make_density()
        first.partial_fit(features[:90], target[:90])
        second.partial_fit(features[90:], target[90:])
        merged = first.merge(second)
        require_equal("merged ones", merged.log_prob(*_samples(1, 12)), expected, _EXACT)


def _check_batch_mates(make_density: MakeDensity) -> None:
    """The value of a row depends on no other row, nor on how many there are; no rows give none."""
    density, (features, target) = _fitted(make_density), _samples(1, 12)
    together = density.log_prob(features, target)
    require_equal(
        "flipped ones", density.log_prob(features.flip(0), target.flip(0)).flip(0), together, _EXACT
    )
    for i in (0, 5):
        alone = density.log_prob(features[i : i + 1], target[i : i + 1])
        require_equal("a row alone", alone, together[i : i + 1], _EXACT)
    none = density.log_prob(features[:0], target[:0])
    require_equal("shape of no rows", tuple(none.shape), (0,))


def _check_target_forms(make_density: MakeDensity) -> None:
    """A class may be a number for all, a list, NumPy's or a tensor, with any other beside it."""
    density, (features, _) = _fitted(make_density), _samples(1, 4)
    expected = density.log_prob(features, torch.full((4,), 2))
    for form in (2, np.int64(2), [2] * 4, torch.tensor(2), torch.full((4,), 2, dtype=torch.int32)):
        require_equal(f"log-densities for {form!r}", density.log_prob(features, form), expected)


def _check_gradient(make_density: MakeDensity) -> None:
    """Log-densities can be differentiated, and the gradient is that of finite differences."""
    density, (features, target) = _fitted(make_density), _samples(1, 6)
    features.requires_grad_()
    values = density.log_prob(features, target)
    require(
        values.requires_grad, "log-densities without a graph", "ones that can be differentiated"
    )
    (gradient,) = torch.autograd.grad(values.sum(), features)
    require(torch.isfinite(gradient).all(), "NaN or infinite gradients", "finite ones")
    step = 1e-5
    with torch.no_grad():
        for k in range(_FEATURES):
            move = torch.zeros(_FEATURES, dtype=torch.float64)
            move[k] = step
            above, below = (density.log_prob(features + s * move, target) for s in (1, -1))
            slope = (above - below) / (2 * step)
            require_equal(f"slope along feature {k}", gradient[:, k], slope.to(gradient), 1e-4)


def _check_precision_and_layout(make_density: MakeDensity) -> None:
    """Features in float32, half precision or any memory layout mean the same, but for rounding."""
    density, (features, target) = _fitted(make_density), _samples(1, 12)
    features = features.half().double()  # what every precision holds
    expected = density.log_prob(features, target)
    strided = torch.stack([features, features], 2).flatten(1)[:, ::2]
    transposed = features.T.contiguous().T
    forms = {"float32": features.float(), "float16": features.half()}
    for name, form in forms.items():
        try:
            values = density.log_prob(form, target)
        except (TypeError, ValueError) as error:
            require("float" in str(error), in_words(error), "an error that names the dtype")
            continue
        require_equal(f"{name} features", values.double(), expected.double(), 1e-3)
    for name, form in {"transposed": transposed, "strided": strided}.items():
        require_equal(f"{name} features", density.log_prob(form, target), expected, _EXACT)


def _check_far_features(make_density: MakeDensity) -> None:
    """Features far from all that was fitted have a low log-density, which is no NaN."""
    density = _fitted(make_density)
    far = torch.tensor([[1e6, -1e6]], dtype=torch.float64)
    near, value = density.log_prob(_samples(1, 3)[0], 0).max(), density.log_prob(far, 0)
    require(not value.isnan().any() and (value < near).all(), f"{value.tolist()}", "very low ones")


def _check_refused_features(make_density: MakeDensity) -> None:
    """Features of another number, no matrix, or classes that are not there are refused by name."""
    density, (features, target) = _fitted(make_density), _samples(1, 4)
    refused = (TypeError, ValueError)
    with require_raises("3 features instead of 2", refused, "features"):
        density.log_prob(torch.zeros(4, 3, dtype=torch.float64), target)
    with require_raises("features in a vector", refused, "features"):
        density.log_prob(features.flatten(), target)
    with require_raises("features that are no tensor", refused, "features"):
        density.log_prob(features.tolist(), target)
    with require_raises("a class that is not there", refused, "target"):
        density.log_prob(features, 99)
    with require_raises("a class of half a number", refused, "target"):
        density.log_prob(features, 0.5)
    with require_raises("another number of classes than rows", refused, "target"):
        density.log_prob(features, [0, 1])


def _check_refused_samples(make_density: MakeDensity) -> None:
    """Samples that can't be fitted are refused by name, and the fit stays as it was."""
    density, (features, target) = _fitted(make_density), _samples()
    expected = density.log_prob(*_samples(1, 12))
    broken = features.clone()
    broken[7] = torch.nan
    refused = (TypeError, ValueError)
    add = getattr(density, "partial_fit", density.fit)
    for name, arguments, word in (
        ("NaN", (broken, target), "features"),
        ("labels of other samples", (features, target[:5]), "target"),
        ("negative labels", (features, target - 1), "target"),
    ):
        with require_raises(name, refused, word):
            add(*arguments)
    require_equal("log-densities", density.log_prob(*_samples(1, 12)), expected, 0.0)


def _check_unfitted(make_density: MakeDensity) -> None:
    """Before anything is fitted, log_prob raises and says so."""
    with require_raises("log_prob before fit", (RuntimeError, ValueError), "fit"):
        make_density().log_prob(*_samples(1, 4))


def _check_classes_without_samples(make_density: MakeDensity) -> None:
    """A class without samples, below one that has some, is refused by its number."""
    features, target = _samples()
    density = make_density().fit(features, torch.where(target == 1, 3, target))
    with require_raises("a class without samples", (TypeError, ValueError), "1"):
        density.log_prob(features[:2], 1)


def _check_copies(make_density: MakeDensity) -> None:
    """A copy evaluates the same, and later fits of the original don't reach it."""
    density, (features, target) = _fitted(make_density), _samples()
    expected = density.log_prob(*_samples(1, 12))
    twin = copy.deepcopy(density)
    density.fit(features * 3, target)
    require_equal("log-densities of the copy", twin.log_prob(*_samples(1, 12)), expected)


def _check_files(make_density: MakeDensity) -> None:
    """What save writes, load reads, and it evaluates the same."""
    density = _fitted(make_density)
    if not (hasattr(density, "save") and hasattr(type(density), "load")):
        raise NotApplicable("it has no save and load")
    expected = density.log_prob(*_samples(1, 12))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "density.safetensors"
        density.save(path)
        read = type(density).load(path)
    require_equal("log-densities of the file", read.log_prob(*_samples(1, 12)), expected)


def _check_threads(make_density: MakeDensity) -> None:
    """Several threads evaluate one density at once, the first time too, and find the same."""
    density = _fitted(make_density)
    expected = _fitted(make_density).log_prob(*_samples(1, 12))
    found: list[Tensor | Exception] = []

    def evaluate() -> None:
        try:
            found.append(density.log_prob(*_samples(1, 12)))
        except Exception as error:  # it would only be printed
            found.append(error)

    threads = [threading.Thread(target=evaluate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values in found:
        if isinstance(values, Exception):
            raise ContractError(f"found {in_words(values)}, expected no error in a thread")
        require_equal("log-densities of a thread", values, expected, _EXACT)


DENSITY_CHECKS: tuple[Check, ...] = (
    _check_fit,
    _check_integral,
    _check_own_class,
    _check_order_of_samples,
    _check_partial_fits,
    _check_batch_mates,
    _check_target_forms,
    _check_gradient,
    _check_precision_and_layout,
    _check_far_features,
    _check_refused_features,
    _check_refused_samples,
    _check_unfitted,
    _check_classes_without_samples,
    _check_copies,
    _check_files,
    _check_threads,
)
"""Every check of a density, in the order in which they run."""


def density_checks(
    make_density: MakeDensity, *, expected_failures: Mapping[str, str] | None = None
) -> list[NamedCheck]:
    """List the checks of :func:`check_density`, for a test function each.

    Args:
        make_density (Callable): As for :func:`check_density`.
        expected_failures (Mapping[str, str], optional): Likewise. Default: None

    Returns:
        list[tuple[str, Callable]]: Names and functions, as :func:`explainer_checks` returns them.

    Raises:
        TypeError: ``make_density`` can't be called.
        ValueError: An expected failure of a check that is not there, or without a reason.
    """
    require_callable("make_density", "a density", make_density)
    return named_checks(DENSITY_CHECKS, make_density, expected_failures)


def check_density(
    make_density: MakeDensity, *, expected_failures: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Hold a density of features to what :class:`~captum_deduce.ClassGaussianMixture` keeps.

    A density has ``fit(features, target)``, which returns it, and ``log_prob(features, target)``,
    N values in nats; where it has ``partial_fit``, ``merge``, ``save`` and ``load``, these are
    checked, too. :data:`DENSITY_CHECKS` are listed in the documentation.

    Args:
        make_density (Callable): Makes a density that is not fitted.
        expected_failures (Mapping[str, str], optional): Of checks that may fail, or do not apply,
            by name, why. Default: None

    Returns:
        list[Outcome]: For each check whether it passed, did not apply, or failed as expected.

    Raises:
        ContractError: Some failed: which, what was found and what was expected.
        TypeError: ``make_density`` can't be called.
        ValueError: An expected failure of a check that is not there, or without a reason.

    Examples::

        >>> from captum_deduce import ClassGaussianMixture
        >>> outcomes = check_density(ClassGaussianMixture)
        >>> {outcome.status for outcome in outcomes}
        {'passed'}
    """
    checks = density_checks(make_density, expected_failures=expected_failures)
    return run_all(checks, expected_failures or {})
