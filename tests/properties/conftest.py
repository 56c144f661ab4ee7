"""How many examples a property is tried on: 20 by default, 1,000 where more time is given."""

from __future__ import annotations

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
