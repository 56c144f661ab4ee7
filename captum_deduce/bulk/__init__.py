"""Whole data sets: every pair explained, in Parquet shards, resumable, on one machine or many."""

from captum_deduce.bulk.density import fit_density
from captum_deduce.bulk.explain import ENGINES, explain_dataset
from captum_deduce.bulk.ray_engine import RaySettings
from captum_deduce.bulk.reader import Run, read
from captum_deduce.bulk.schema import SCALARS
from captum_deduce.bulk.targets import ONLY, TARGETS, Chooser

__all__ = [
    "ENGINES",
    "ONLY",
    "SCALARS",
    "TARGETS",
    "Chooser",
    "RaySettings",
    "Run",
    "explain_dataset",
    "fit_density",
    "read",
]
