"""What every test and every docstring example starts from."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

# Before anything imports matplotlib: tests draw, but never open a window.
os.environ.setdefault("MPLBACKEND", "Agg")
# No bars in a terminal, nor in notebooks that tests run, but where a test asks for one.
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
import torch


def pytest_configure() -> None:
    """Keep fixtures that tests share to one thread too: they are made before a test's own."""
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Where nothing may be skipped, fail for a module that skips itself."""
    return _unskipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Likewise for a test."""
    return _unskipped((yield))


def _unskipped(report: Any) -> Any:
    """With CAPTUM_DEDUCE_NO_SKIP a skip is a failure, but for want of permission."""
    strict = bool(os.environ.get("CAPTUM_DEDUCE_NO_SKIP"))
    if strict and report.skipped and "not permitted" not in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def reproducible_torch() -> None:
    """Seed torch; one thread, as models this small wait for threads more than they gain."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither use nor leave trained models in the user's cache."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
