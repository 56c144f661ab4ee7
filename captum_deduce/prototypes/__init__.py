"""Encoded training images by class, and the nearest of them."""

from captum_deduce.prototypes.index import K_TYPES, PrototypeIndex, encode
from captum_deduce.prototypes.neighbours import nearest_rows

__all__ = [
    "K_TYPES",
    "PrototypeIndex",
    "encode",
    "nearest_rows",
]
