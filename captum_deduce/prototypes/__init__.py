"""Training images by class, as they are or encoded, and the nearest of them."""

from captum_deduce.prototypes.examples import Examples
from captum_deduce.prototypes.index import K_TYPES, PrototypeIndex, encode
from captum_deduce.prototypes.neighbours import nearest_rows

__all__ = [
    "K_TYPES",
    "Examples",
    "PrototypeIndex",
    "encode",
    "nearest_rows",
]
