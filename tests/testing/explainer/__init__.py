"""Every check of an explainer has a broken one here that it catches."""

from __future__ import annotations

import re

import pytest

from captum_deduce.testing import ContractError, explainer_checks


def assert_caught(name, make_explainer, message):
    """Fail where a check lets a broken explainer pass, or says something else of it."""
    check = dict(explainer_checks(make_explainer))[name]
    with pytest.raises(ContractError, match=rf"^{name}: .*{re.escape(message)}"):
        check()
