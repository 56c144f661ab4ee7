"""A soft bound on the spectral norm of every convolution and linear layer of a module."""

from captum_deduce.spectral.layers import LAYERS, as_found, label, layer_operators
from captum_deduce.spectral.normalization import (
    SpectralBound,
    frozen_spectral_weights,
    remove_spectral_normalization,
    spectral_normalize,
    spectral_norms,
)
from captum_deduce.spectral.operators import (
    Convolution,
    Matrix,
    directions,
    leading_vectors,
    power_iteration,
)

__all__ = [
    "LAYERS",
    "Convolution",
    "Matrix",
    "SpectralBound",
    "as_found",
    "directions",
    "frozen_spectral_weights",
    "label",
    "layer_operators",
    "leading_vectors",
    "power_iteration",
    "remove_spectral_normalization",
    "spectral_normalize",
    "spectral_norms",
]
