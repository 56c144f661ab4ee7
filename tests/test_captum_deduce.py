from __future__ import annotations

import subprocess
import sys

import pytest

import captum_deduce
from captum_deduce import explainers

EXPLAINERS = {
    "CounterfactualExplainer",
    "explore",  # which explains
    "median_absolute_deviation",
    *explainers.METHODS,
}


def imported_by(statement: str) -> set[str]:
    """Top-level packages that a statement imports beyond those that torch itself does."""
    script = (
        "import sys, torch; before = set(sys.modules); "
        f"{statement}; print('new:', *(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {name.split(".")[0] for name in run.stdout.splitlines()[-1].split()[1:]}


def test_the_import_loads_nothing_but_the_names():
    new = imported_by("import captum_deduce")
    assert new - set(sys.stdlib_module_names) == {"captum_deduce"}


def test_only_explainers_and_their_page_load_captum_and_with_it_pyplot():
    names = sorted(set(captum_deduce.__all__) - EXPLAINERS - {"explore"})
    assert names
    new = imported_by(f"from captum_deduce import {', '.join(names)}")
    assert not new & {"matplotlib", "sklearn", "scipy", "pandas", "captum", "torchvision"}


@pytest.mark.parametrize("name", captum_deduce.__all__)
def test_every_name_is_found_and_listed(name):
    assert getattr(captum_deduce, name) is not None
    assert name in dir(captum_deduce)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="'captum_deduce' has no attribute 'DeDuce'"):
        captum_deduce.DeDuce  # noqa: B018
