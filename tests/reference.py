"""Naive forms of what the package computes: one image, float64, no batching, as the papers print it.

Slow and plain on purpose: the tests hold the package's fast code against these.
"""

from __future__ import annotations
