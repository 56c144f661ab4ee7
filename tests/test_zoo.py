from __future__ import annotations

import subprocess
import sys

import pytest

from captum_deduce import zoo


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_name_is_found_and_listed(name):
    assert getattr(zoo, name) is not None
    assert name in dir(zoo)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match=r"'captum_deduce\.zoo' has no attribute 'bear'"):
        zoo.bear  # noqa: B018


def test_recipes_are_read_without_torch():
    script = "import sys; from captum_deduce.zoo import RECIPES; sys.exit('torch' in sys.modules)"
    assert _status(script) == 0


def _status(script: str) -> int:
    return subprocess.run([sys.executable, "-c", script]).returncode
