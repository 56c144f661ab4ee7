"""The contract of an explainer, check by check."""

from captum_deduce.testing.explainer.contract import (
    EXPLAINER_CHECKS,
    check_explainer,
    explainer_checks,
)

__all__ = ["EXPLAINER_CHECKS", "check_explainer", "explainer_checks"]
