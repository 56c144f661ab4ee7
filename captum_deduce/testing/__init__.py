"""The contracts of this package's explainers, densities and metrics, to hold one's own classes to.

:func:`check_explainer` runs every check of a list and says which fail, on what and why;
:func:`explainer_checks` gives the same checks by name, for ``pytest.mark.parametrize``.
"""

from captum_deduce.testing.contracts import ContractError, NotApplicable, Outcome, descriptions
from captum_deduce.testing.explainer import EXPLAINER_CHECKS, check_explainer, explainer_checks
from captum_deduce.testing.subjects import Subject

__all__ = [
    "EXPLAINER_CHECKS",
    "ContractError",
    "NotApplicable",
    "Outcome",
    "Subject",
    "check_explainer",
    "descriptions",
    "explainer_checks",
]
