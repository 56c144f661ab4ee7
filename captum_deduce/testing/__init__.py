"""The contracts of this package's explainers, densities and metrics, to hold one's own classes to.

:func:`check_explainer`, :func:`check_density` and :func:`check_metric` run every check of a list
and say which fail, what was found and what was expected; :func:`explainer_checks` and its kin give
the same checks by name, for ``pytest.mark.parametrize``.
"""

from captum_deduce.testing.contracts import ContractError, NotApplicable, Outcome, descriptions
from captum_deduce.testing.density import DENSITY_CHECKS, check_density, density_checks
from captum_deduce.testing.explainer import EXPLAINER_CHECKS, check_explainer, explainer_checks
from captum_deduce.testing.metric import METRIC_CHECKS, check_metric, metric_checks
from captum_deduce.testing.subjects import Subject

__all__ = [
    "DENSITY_CHECKS",
    "EXPLAINER_CHECKS",
    "METRIC_CHECKS",
    "ContractError",
    "NotApplicable",
    "Outcome",
    "Subject",
    "check_density",
    "check_explainer",
    "check_metric",
    "density_checks",
    "descriptions",
    "explainer_checks",
    "metric_checks",
]
