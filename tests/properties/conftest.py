"""How many examples a property is tried on: 20 by default, 1,000 where more time is given."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Examples take as long as a search takes, on machines that others use, too.
settings.register_profile(
    "short",
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long", settings.get_profile("short"), max_examples=1000, derandomize=False
)
# pytest's --hypothesis-profile comes later, and wins.
settings.load_profile("short")


@pytest.fixture(autouse=True, scope="package")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files are written a hundred times over, and need not outlive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield
