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
from captum_deduce.metrics.feature_distance import FeatureDistance, diversity
from captum_deduce.metrics.features import FeatureExtractor
from captum_deduce.metrics.frechet import fid, split_fid
from captum_deduce.metrics.interpretability import IM1, IM2
from captum_deduce.metrics.nearest_features import NearestFeatureDistance
from captum_deduce.metrics.oracle import Oracle
from captum_deduce.metrics.paired_tests import PairedTest
from captum_deduce.metrics.stability import ValidityUnderNoise
from captum_deduce.metrics.substitution import Substitutability, substitutability
from captum_deduce.metrics.target_density import TargetDensity
from captum_deduce.metrics.transition import COUT

__all__ = [
    "COUT",
    "DEFAULT_METRICS",
    "IM1",
    "IM2",
    "AnoGAN",
    "EvaluationTable",
    "FeatureDistance",
    "FeatureExtractor",
    "Measured",
    "NearestFeatureDistance",
    "Oracle",
    "PairedTest",
    "Substitutability",
    "Summary",
    "TargetDensity",
    "ValidityUnderNoise",
    "counterfactual_alignment",
    "diversity",
    "evaluate",
    "failure_rate",
    "fid",
    "l0",
    "l1",
    "l2",
    "linf",
    "sites",
    "split_fid",
    "substitutability",
]
