"""Counterfactual explanations for PyTorch image classifiers, as native Captum explainers."""

from typing import TYPE_CHECKING, Any

from captum_deduce._version import __version__

if TYPE_CHECKING:
    from captum_deduce.classifiers import (
        BinaryClassifier,
        MultiLayerClassifier,
        SmoothedClassifier,
    )
    from captum_deduce.counterfactuals import Counterfactuals
    from captum_deduce.density import ClassGaussianMixture, ClassHurdles
    from captum_deduce.explainers import (
        CEM,
        JSMA,
        PIECE,
        REVISE,
        VLK,
        CounterfactualExplainer,
        DeDUCE,
        LatentShift,
        NearestExample,
        PatchSwap,
        Schut,
        Wachter,
        median_absolute_deviation,
    )
    from captum_deduce.explorer import explore
    from captum_deduce.prototypes import Examples, PrototypeIndex
    from captum_deduce.search import Polish
    from captum_deduce.spectral import remove_spectral_normalization, spectral_normalize

__all__ = [
    "CEM",
    "JSMA",
    "PIECE",
    "REVISE",
    "VLK",
    "BinaryClassifier",
    "ClassGaussianMixture",
    "ClassHurdles",
    "CounterfactualExplainer",
    "Counterfactuals",
    "DeDUCE",
    "Examples",
    "LatentShift",
    "MultiLayerClassifier",
    "NearestExample",
    "PatchSwap",
    "Polish",
    "PrototypeIndex",
    "Schut",
    "SmoothedClassifier",
    "Wachter",
    "__version__",
    "explore",
    "median_absolute_deviation",
    "remove_spectral_normalization",
    "spectral_normalize",
]


def __getattr__(name: str) -> Any:
    """Import a public name's room when it is first asked for: the command line's help needs none.

    Imports are spelt out, so that whoever reads the code, a person or a tool, can follow them.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room: Any
    if name in ("BinaryClassifier", "MultiLayerClassifier", "SmoothedClassifier"):
        from captum_deduce import classifiers as room
    elif name == "Counterfactuals":
        from captum_deduce import counterfactuals as room
    elif name in ("ClassGaussianMixture", "ClassHurdles"):
        from captum_deduce import density as room
    elif name == "explore":
        from captum_deduce import explorer as room
    elif name in ("Examples", "PrototypeIndex"):
        from captum_deduce import prototypes as room
    elif name == "Polish":
        from captum_deduce import search as room
    elif name in ("remove_spectral_normalization", "spectral_normalize"):
        from captum_deduce import spectral as room
    else:
        from captum_deduce import explainers as room
    found = getattr(room, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
