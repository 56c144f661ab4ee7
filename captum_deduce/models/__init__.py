"""Classifiers with and without spectral normalisation."""
