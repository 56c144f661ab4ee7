"""Whole data sets: every pair explained, in Parquet shards, resumable, on one machine or many."""

from captum_deduce.bulk.reader import Run, read
from captum_deduce.bulk.schema import SCALARS

__all__ = [
    "SCALARS",
    "Run",
    "read",
]
