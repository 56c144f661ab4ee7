"""Named checks: what one says when it fails, which may fail, and how all of them are run."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Check = Callable[[Any], None]
"""A check of what it is given, named ``_check_NAME``, and described by its docstring."""

NamedCheck = tuple[str, Callable[[], None]]
"""A check's name, and what runs it: for ``pytest.mark.parametrize``."""


class ContractError(AssertionError):
    """A check has failed: it says which, what was found and what was expected."""


class NotApplicable(unittest.SkipTest):
    """A check can't be made of this one, or is declared to fail, and says why."""


@dataclass(frozen=True)
class Outcome:
    """How a check went that did not fail.

    Args:
        name (str): The check's.
        status (str): ``"passed"``, ``"not applicable"`` or ``"expected failure"``.
        reason (str, optional): Why it did not pass. Default: ""
    """

    name: str
    status: str
    reason: str = ""


def name_of(check: Check) -> str:
    """Find what a check is called.

    Args:
        check (Callable): Named ``_check_...``.

    Returns:
        str: What follows.
    """
    return check.__name__.lstrip("_").removeprefix("check_")


def descriptions(checks: Iterable[Check]) -> dict[str, str]:
    """Find what each check says of itself.

    Args:
        checks (Iterable[Callable]): Checks.

    Returns:
        dict[str, str]: The first sentence of each one's docstring, by its name.
    """
    return {name_of(check): (inspect.getdoc(check) or "").split("\n\n")[0] for check in checks}


def require_callable(argument: str, what: str, maker: object) -> None:
    """Refuse what can't make the subject of checks.

    Args:
        argument (str): What it was passed as.
        what (str): What it should make, with its article.
        maker (object): What was passed.

    Raises:
        TypeError: It can't be called.
    """
    if not callable(maker):
        raise TypeError(
            f"{argument} must be a class or a function that makes {what}, got "
            f"{type(maker).__name__}"
        )


def named_checks(
    checks: Iterable[Check], subject: Any, expected_failures: Mapping[str, str] | None
) -> list[NamedCheck]:
    """Bind checks to what they check.

    Args:
        checks (Iterable[Callable]): The checks.
        subject (Any): What each is given.
        expected_failures (Mapping[str, str] or None): Reasons by names of checks that may fail.

    Returns:
        list[tuple[str, Callable]]: Names and functions without arguments. Each raises a
        :class:`ContractError` where the check fails, a :class:`NotApplicable` where it can't be
        made or fails as expected.

    Raises:
        ValueError: An expected failure of a check that is not there, or without a reason.
    """
    reasons = dict(expected_failures or {})
    by_name = {name_of(check): check for check in checks}
    unknown = sorted(set(reasons) - set(by_name))
    if unknown:
        raise ValueError(
            f"expected_failures names no check by {', '.join(unknown)}; there are: "
            f"{', '.join(by_name)}"
        )
    for name, reason in reasons.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"expected_failures[{name!r}] must say why, got {reason!r}")
    return [
        (name, functools.partial(_run, check, subject, reasons.get(name)))
        for name, check in by_name.items()
    ]


def run_all(checks: Iterable[NamedCheck], expected_failures: Iterable[str]) -> list[Outcome]:
    """Run all checks, and raise at the end.

    Args:
        checks (Iterable[tuple[str, Callable]]): As :func:`named_checks` returns them.
        expected_failures (Iterable[str]): Names of those that may fail.

    Returns:
        list[Outcome]: One for each.

    Raises:
        ContractError: Those that failed, in one message.
    """
    outcomes, failures = [], []
    declared = set(expected_failures)
    for name, check in checks:
        try:
            check()
        except NotApplicable as error:
            status = "expected failure" if name in declared else "not applicable"
            outcomes.append(Outcome(name, status, str(error)))
        except ContractError as error:
            failures.append(str(error))
        else:
            outcomes.append(Outcome(name, "passed"))
    if failures:
        lines = "\n".join(f"- {failure}" for failure in failures)
        raise ContractError(
            f"{len(failures)} of {len(failures) + len(outcomes)} checks failed:\n{lines}"
        )
    return outcomes


def _run(check: Check, subject: Any, reason: str | None) -> None:
    """Run a check in a state of torch's generator that is the same each time, and restore it."""
    name = name_of(check)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(0)
            check(subject)
    except NotApplicable:
        raise
    except Exception as error:  # whatever a class under test raises
        said = str(error) if isinstance(error, ContractError) else f"raised {in_words(error)}"
        if reason is not None:
            raise NotApplicable(f"{reason} ({said})") from error
        sentence = descriptions([check])[name]
        raise ContractError(f"{name}: {said} [{sentence}]") from error


def in_words(error: BaseException) -> str:
    """Write an error in a line.

    Args:
        error (BaseException): The error.

    Returns:
        str: Its type, and what it says.
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def require(kept: object, found: object, expected: object) -> None:
    """Fail where something does not hold.

    Args:
        kept (object): Whether it holds.
        found (object): What was found, for the message.
        expected (object): What was expected.

    Raises:
        ContractError: It does not.
    """
    if not kept:
        raise ContractError(f"found {found}, expected {expected}")


def require_equal(what: str, found: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Fail where two tensors, or other things, are not the same.

    Args:
        what (str): What they are, for the message.
        found (Any): A tensor, or anything with an ``==``.
        expected (Any): Likewise.
        tolerance (float, optional): The largest difference between entries. Default: 0.0

    Raises:
        ContractError: They differ.
    """
    if not isinstance(expected, Tensor):
        same = not isinstance(found, Tensor) and found == expected
        require(same, f"{what} {_short(found)}", _short(expected))
        return
    require(
        isinstance(found, Tensor)
        and (found.shape, found.dtype, found.device)
        == (expected.shape, expected.dtype, expected.device),
        f"{what}: {_kind(found)}",
        _kind(expected),
    )
    differs = ~torch.isclose(found, expected, rtol=0, atol=tolerance, equal_nan=False)
    if not differs.any():
        return
    rows = differs.flatten(1).any(1).nonzero().flatten().tolist() if differs.dim() > 1 else []
    where = f" in rows {rows}" if rows else ""
    place = tuple(differs.nonzero()[0].tolist())
    distance = (found.double() - expected.double()).abs().max().item()
    raise ContractError(
        f"found {what} that differ{where} by up to {distance:.3g} (at {place}: "
        f"{found[place].item():.6g}), expected {expected[place].item():.6g} there, within "
        f"{tolerance:g}"
    )


def _short(value: Any) -> str:
    return _kind(value) if isinstance(value, Tensor) else repr(value)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"


@contextmanager
def require_raises(
    what: str, kinds: type[Exception] | tuple[type[Exception], ...], *words: str
) -> Iterator[None]:
    """Fail where a block raises nothing, another error, or one that does not say what is needed.

    Args:
        what (str): What is refused, for the message.
        kinds (type or tuple): Of the error.
        *words (str): What its message has to hold.

    Yields:
        None: The block.

    Raises:
        ContractError: It did not raise that.
    """
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    names = " or ".join(kind.__name__ for kind in wanted)
    holding = f" that says {', '.join(map(repr, words))}" if words else ""
    try:
        yield
    except wanted as error:
        require(
            all(word in str(error) for word in words),
            f"for {what} {in_words(error)}",
            f"a {names}{holding}",
        )
    except Exception as error:
        raise ContractError(
            f"found for {what} {in_words(error)}, expected a {names}{holding}"
        ) from error
    else:
        raise ContractError(f"found no error for {what}, expected a {names}{holding}")
