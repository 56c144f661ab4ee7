"""Looking on while a search goes on, from outside of the method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captum_deduce.search.loop import Evaluation

Observer = Callable[[str, "Evaluation"], None]
"""What a search is (its progress bar says the same) and what one evaluation showed."""

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let somebody see every evaluation of the searches that begin within the ``with`` block.

    This holds in the thread that entered the block and in no other. An exception that the observer
    raises ends the search as one of the model's does, with the model left as it was found: so a
    person who no longer wants the result can stop it between two steps.

    Args:
        observer (Callable): Called after each evaluation, with a word for what the search is about
            ("counterfactuals", "refinement", "polishing") and the
            :class:`~captum_deduce.search.Evaluation`, whose tensors the next step may change in
            place: what is to be kept is copied.

    Yields:
        None: While it lasts.

    Examples::

        >>> import torch
        >>> from captum_deduce import JSMA
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> seen = []
        >>> with observed(lambda what, evaluation: seen.append(float(evaluation.confidence[0]))):
        ...     result = JSMA(model).generate(torch.rand(1, 1, 8, 8), target=2)
        >>> len(seen) == int(result.iterations[0]) + 1
        True
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def current_observer() -> Observer | None:
    """Find who looks on here.

    Returns:
        Callable or None: The observer of the innermost block around the caller; None outside.
    """
    return _observer.get()
