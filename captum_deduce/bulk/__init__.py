"""Whole data sets: every pair explained, in Parquet shards, resumable, on one machine or many."""

from captum_deduce.bulk.explain import ENGINES, explain_dataset
from captum_deduce.bulk.reader import Run, read
from captum_deduce.bulk.schema import SCALARS
from captum_deduce.bulk.targets import ONLY, TARGETS, Chooser

__all__ = [
    "ENGINES",
    "ONLY",
    "SCALARS",
    "TARGETS",
    "Chooser",
    "Run",
    "explain_dataset",
    "read",
]
