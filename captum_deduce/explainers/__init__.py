"""The counterfactual methods, one module each, on one Captum face; none imports another."""

# Before Captum: whichever first imports tqdm in a notebook decides whether tqdm warns.
from captum_deduce import progress  # noqa: F401
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.cem import CEM
from captum_deduce.explainers.deduce import DeDUCE
from captum_deduce.explainers.guidance import Guidance
from captum_deduce.explainers.jsma import JSMA
from captum_deduce.explainers.latent_shift import LatentPath, LatentShift
from captum_deduce.explainers.nearest_example import NearestExample
from captum_deduce.explainers.patch_swap import PatchSwap
from captum_deduce.explainers.patches import PatchGrid, PatchSwaps
from captum_deduce.explainers.piece import PIECE
from captum_deduce.explainers.pixelwise import PixelwiseExplainer
from captum_deduce.explainers.revise import LEARNING_RATES, REVISE
from captum_deduce.explainers.schut import Schut
from captum_deduce.explainers.stream import Stream
from captum_deduce.explainers.vlk import VLK
from captum_deduce.explainers.wachter import PATIENCE, Wachter, median_absolute_deviation

METHODS: dict[str, type[CounterfactualExplainer]] = {
    method.__name__: method
    for method in (
        *(CEM, JSMA, PIECE, REVISE, VLK),
        *(DeDUCE, LatentShift, NearestExample, PatchSwap, Schut, Wachter),
    )
}
"""Every method by its name; the others in this room are what methods are made of."""

__all__ = [
    "CEM",
    "JSMA",
    "LEARNING_RATES",
    "METHODS",
    "PATIENCE",
    "PIECE",
    "REVISE",
    "VLK",
    "CounterfactualExplainer",
    "DeDUCE",
    "Guidance",
    "LatentPath",
    "LatentShift",
    "NearestExample",
    "PatchGrid",
    "PatchSwap",
    "PatchSwaps",
    "PixelwiseExplainer",
    "Schut",
    "Stream",
    "Wachter",
    "median_absolute_deviation",
]
