"""The packages of the extra ``study``, imported where an analysis needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = (
    "captum_deduce.study analyses answers with choix, pandas and statsmodels: "
    'pip install "captum-deduce[study]"'
)


def proportions() -> Any:
    """Import what statsmodels knows of proportions.

    Returns:
        module: ``statsmodels.stats.proportion``.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    with _named():
        from statsmodels.stats import proportion
    return proportion


def powers() -> Any:
    """Import what statsmodels knows of the power of tests.

    Returns:
        module: ``statsmodels.stats.power``.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    with _named():
        from statsmodels.stats import power
    return power


def choices() -> Any:
    """Import choix, which fits models of choices.

    Returns:
        module: ``choix``.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    with _named():
        import choix
    return choix


def frames() -> Any:
    """Import pandas.

    Returns:
        module: ``pandas``.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    with _named():
        import pandas
    return pandas


@contextmanager
def _named() -> Iterator[None]:
    """Say what to install where an import fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(_MISSING) from error
