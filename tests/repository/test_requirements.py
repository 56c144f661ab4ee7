from __future__ import annotations

import pytest

from tests.repository.requirements import requirements, unrequired


def test_requirements_are_read_by_extra(tmp_path):
    path = tmp_path / "setup.cfg"
    path.write_text(
        "[options]\ninstall_requires =\n    captum>=0.9\n    Scikit_Learn ~= 1.4 ; os_name == 'x'\n"
        "[options.extras_require]\ntest =\n    pytest>=8\n    ray[default]>=2\ndocs =\n    furo\n",
        encoding="utf-8",
    )
    assert requirements(path) == {
        "": {"captum", "scikit-learn"},
        "test": {"pytest", "ray"},
        "docs": {"furo"},
    }


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("import os, house.rooms\nfrom . import sibling\nfrom __future__ import annotations", []),
        ("import numpy.linalg\nfrom sklearn import mixture", []),
        ("def f():\n    import scipy.stats", ["scipy"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scipy", []),
        ("import nowhere_to_be_found", ["nowhere_to_be_found"]),
    ],
)
def test_imports_that_nothing_requires_are_reported(tmp_path, source, missing):
    path = tmp_path / "file.py"
    path.write_text(source, encoding="utf-8")
    reports = unrequired(path, {"numpy", "scikit-learn"}, own=["house"])
    assert [report.split(": ")[1].split()[0] for report in reports] == missing
