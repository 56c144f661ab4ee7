from __future__ import annotations

import sys

import pytest

from captum_deduce.study import answers_needed, bradley_terry, packages, share


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("statsmodels.stats", packages.proportions),
        ("statsmodels.stats", packages.powers),
        ("choix", packages.choices),
        ("pandas", packages.frames),
    ],
)
def test_what_is_missing_is_said_with_the_extra(monkeypatch, name, load):
    assert load().__name__
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "captum-deduce\[study\]"'):
        load()


def test_functions_say_so_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats", None)
    monkeypatch.setitem(sys.modules, "choix", None)
    for call in (
        lambda: share(1, 2),
        lambda: answers_needed(0.1, 0.2),
        lambda: bradley_terry([[0, 1], [1, 0]]),
    ):
        with pytest.raises(ImportError, match="captum-deduce"):
            call()
