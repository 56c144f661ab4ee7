"""How likely features are under each class: moments, Gaussians made of them, quantiles."""

from captum_deduce.density.calibrated import CalibratedMixture
from captum_deduce.density.choice import CHOICES
from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.class_hurdles import ClassHurdles
from captum_deduce.density.estimation import estimate
from captum_deduce.density.fitted_module import FittedModule, dtype_kept
from captum_deduce.density.gaussians import Gaussians
from captum_deduce.density.hurdles import DISTRIBUTIONS, Hurdles, Spread, gamma_shape
from captum_deduce.density.low_rank import RANK
from captum_deduce.density.mixture import ClassMixture, plain_tensors
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.quantiles import ClassQuantiles, LeaveOneOut
from captum_deduce.density.regularization import (
    JITTERS,
    REGULARIZATIONS,
    add_to_diagonal,
    oas_shrinkage,
)
from captum_deduce.density.samples import (
    Samples,
    check_component_class,
    check_features,
    check_samples,
)

__all__ = [
    "CHOICES",
    "COVARIANCE_TYPES",
    "DISTRIBUTIONS",
    "JITTERS",
    "RANK",
    "REGULARIZATIONS",
    "CalibratedMixture",
    "ClassGaussianMixture",
    "ClassHurdles",
    "ClassMixture",
    "ClassQuantiles",
    "FittedModule",
    "Gaussians",
    "Hurdles",
    "LeaveOneOut",
    "Moments",
    "Samples",
    "Spread",
    "add_to_diagonal",
    "check_component_class",
    "check_features",
    "check_samples",
    "dtype_kept",
    "estimate",
    "gamma_shape",
    "oas_shrinkage",
    "plain_tensors",
]
