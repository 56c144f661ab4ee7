"""How close, sparse and real counterfactuals are.

Functions of tensors, and classes that hold the models which a metric needs: their instances are
called with :class:`~captum_deduce.Counterfactuals` and return one value a pair. None knows any
explainer. :func:`evaluate` tabulates them for the results of several.
"""

from captum_deduce.metrics.alignment import counterfactual_alignment
from captum_deduce.metrics.anogan import AnoGAN
from captum_deduce.metrics.distance import failure_rate, l0, l1, l2, linf, sites
from captum_deduce.metrics.evaluation import DEFAULT_METRICS, evaluate
from captum_deduce.metrics.evaluation_table import EvaluationTable, Measured, Summary
from captum_deduce.metrics.interpretability import IM1, IM2
from captum_deduce.metrics.oracle import Oracle
from captum_deduce.metrics.paired_tests import PairedTest
from captum_deduce.metrics.stability import ValidityUnderNoise
from captum_deduce.metrics.target_density import TargetDensity

__all__ = [
    "DEFAULT_METRICS",
    "IM1",
    "IM2",
    "AnoGAN",
    "EvaluationTable",
    "Measured",
    "Oracle",
    "PairedTest",
    "Summary",
    "TargetDensity",
    "ValidityUnderNoise",
    "counterfactual_alignment",
    "evaluate",
    "failure_rate",
    "l0",
    "l1",
    "l2",
    "linf",
    "sites",
]
