"""A soft bound on the spectral norm of every convolution and linear layer of a module."""

from captum_deduce.spectral.blocks import frozen_spectral_weights, unbounded_weights
from captum_deduce.spectral.bound import SpectralBound
from captum_deduce.spectral.layers import LAYERS, Skip, as_found, label, layer_operators
from captum_deduce.spectral.normalization import (
    remove_spectral_normalization,
    spectral_normalize,
)
from captum_deduce.spectral.norms import spectral_norms
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
    "Skip",
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
    "unbounded_weights",
]
