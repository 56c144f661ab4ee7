"""Counterfactual explanations for PyTorch image classifiers, as native Captum explainers."""

from captum_deduce._version import __version__
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.explainer import CounterfactualExplainer
from captum_deduce.explainers import JSMA, REVISE, VLK, DeDUCE, Schut, Wachter
from captum_deduce.explainers.wachter import median_absolute_deviation
from captum_deduce.multi_layer import MultiLayerClassifier
from captum_deduce.prototypes import PrototypeIndex
from captum_deduce.smoothing import SmoothedClassifier
from captum_deduce.spectral import remove_spectral_normalization, spectral_normalize

__all__ = [
    "JSMA",
    "REVISE",
    "VLK",
    "ClassGaussianMixture",
    "CounterfactualExplainer",
    "Counterfactuals",
    "DeDUCE",
    "MultiLayerClassifier",
    "PrototypeIndex",
    "Schut",
    "SmoothedClassifier",
    "Wachter",
    "__version__",
    "median_absolute_deviation",
    "remove_spectral_normalization",
    "spectral_normalize",
]
