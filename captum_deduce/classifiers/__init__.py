"""A user's classifier, as a search sees it: frozen, its layer read; smoothed; several layers."""

from captum_deduce.classifiers.features import (
    FrozenModel,
    as_rows,
    check_placement,
    class_scores,
    feature_rows,
    find_layer,
    modules_of,
    recorded_outputs,
    refuse_probabilities,
    single_output,
)
from captum_deduce.classifiers.multi_layer import MultiLayerClassifier
from captum_deduce.classifiers.smoothed import SmoothedClassifier
from captum_deduce.classifiers.wrapped import WrappedClassifier

__all__ = [
    "FrozenModel",
    "MultiLayerClassifier",
    "SmoothedClassifier",
    "WrappedClassifier",
    "as_rows",
    "check_placement",
    "class_scores",
    "feature_rows",
    "find_layer",
    "modules_of",
    "recorded_outputs",
    "refuse_probabilities",
    "single_output",
]
