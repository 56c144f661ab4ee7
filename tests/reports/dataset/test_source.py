from __future__ import annotations

import inspect

import pytest

from captum_deduce.bulk import Run
from captum_deduce.reports import ExplainedRun
from tests.reports.dataset.made_up import MadeUpRun, random_run


@pytest.mark.parametrize("kind", [Run, MadeUpRun])
def test_runs_have_what_a_report_asks_for(kind):
    asked = [name for name in vars(ExplainedRun) if not name.startswith("_")]
    assert {"table", "changes", "counterfactuals", "shape"} <= set(asked)
    known = set(dir(kind)) | set(inspect.signature(kind).parameters) | {"manifest"}
    assert set(asked) <= known


def test_arguments_are_called_the_same():
    for method in ("table", "changes", "counterfactuals"):
        asked = inspect.signature(getattr(ExplainedRun, method)).parameters
        assert set(asked) <= set(inspect.signature(getattr(Run, method)).parameters)
        assert set(asked) == set(inspect.signature(getattr(random_run(2), method)).parameters) | {
            "self"
        }
