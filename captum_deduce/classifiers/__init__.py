"""A user's classifier, as a search sees it: frozen, its layer read; smoothed; several layers."""

from captum_deduce.classifiers.binary import BinaryClassifier
from captum_deduce.classifiers.cuts import is_cut
from captum_deduce.classifiers.frozen import FrozenModel
from captum_deduce.classifiers.layers import (
    as_rows,
    feature_rows,
    find_layer,
    layer_named,
    modules_of,
    recorded_outputs,
    replaced_output,
    single_output,
)
from captum_deduce.classifiers.memory import ran_out_of_memory
from captum_deduce.classifiers.modes import eval_mode
from captum_deduce.classifiers.multi_layer import MultiLayerClassifier
from captum_deduce.classifiers.placement import check_placement, device_of, parameter_of
from captum_deduce.classifiers.probe import (
    check_behaviour,
    fixed_size_error,
    no_gradient,
    scores_differ,
    taken_sizes,
)
from captum_deduce.classifiers.quick import QuickCopy
from captum_deduce.classifiers.scores import class_scores, refuse_probabilities
from captum_deduce.classifiers.smoothed import SmoothedClassifier
from captum_deduce.classifiers.wrapped import WrappedClassifier

__all__ = [
    "BinaryClassifier",
    "FrozenModel",
    "MultiLayerClassifier",
    "QuickCopy",
    "SmoothedClassifier",
    "WrappedClassifier",
    "as_rows",
    "check_behaviour",
    "check_placement",
    "class_scores",
    "device_of",
    "eval_mode",
    "feature_rows",
    "find_layer",
    "fixed_size_error",
    "is_cut",
    "layer_named",
    "modules_of",
    "no_gradient",
    "parameter_of",
    "ran_out_of_memory",
    "recorded_outputs",
    "refuse_probabilities",
    "replaced_output",
    "scores_differ",
    "single_output",
    "taken_sizes",
]
