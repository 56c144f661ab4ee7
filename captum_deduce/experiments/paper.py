"""What the paper printed: Höltgen, Schut, Brauner and Gal, *DeDUCE*, 2021, tables 1 to 5."""

from __future__ import annotations

METHODS = ("DeDUCE", "JSMA", "VLK", "REVISE")
"""The algorithms of table 1, in its order."""

TABLE1 = {
    "DeDUCE": {"AGAN": "22.51 (0.72)", "L0": "21.16 (0.46)", "L1": "10.72 (0.10)"},
    "JSMA": {"AGAN": "23.90 (0.41)", "L0": "25.65 (0.65)", "L1": "12.63 (0.27)"},
    "VLK": {"AGAN": "22.95 (0.93)", "L0": "155.43 (4.15)", "L1": "38.95 (1.19)"},
    "REVISE": {"AGAN": "20.09 (0.88)", "L0": "752.46 (4.98)", "L1": "53.86 (0.58)"},
}
"""Means over 5 x 900 pairs, standard deviations over the five means in brackets."""

TABLE1_FAILURE = {
    "DeDUCE": "0.00 (0.00)",
    "JSMA": "3.09 (0.28)",
    "VLK": "0.09 (0.20)",
    "REVISE": "26.80 (1.03)",
}
"""Of all pairs, in per cent."""

ORIGINALS_AGAN = "15.44 (2.04)"
"""AnoGAN score of the originals, section 4.3."""

RECONSTRUCTIONS_AGAN = "14.64 (0.23)"
"""AnoGAN score of the VAE's reconstructions of them, likewise."""

TABLE2 = {
    "DeDUCE": "2.99 (1.69)",
    "JSMA": "1.01 (0.52)",
    "VLK": "109.86 (1.54)",
    "REVISE": "46.66 (84.33)",
}
"""Seconds for one counterfactual on an NVIDIA Tesla T4, standard deviations in brackets."""

TABLE3_PAIRS = ((4, 9), (0, 9), (9, 3), (2, 6), (4, 9), (5, 6))
"""Class and target of the pairs in figure 3, from left to right.

The images are the first of their classes among MNIST's test images: numbers 4, 3, 7, 1, 6 and 8.
"""

TABLE3 = {
    "DeDUCE": {
        "AGAN": ("14.01", "21.52", "25.55", "22.82", "12.23", "17.71"),
        "L0": ("5", "18", "12", "20", "3", "10"),
        "L1": ("3.20", "7.96", "6.75", "9.19", "2.59", "2.96"),
    },
    "JSMA": {
        "AGAN": ("23.31", "22.32", "19.86", "25.77", "16.66", "23.01"),
        "L0": ("29", "15", "19", "35", "10", "6"),
        "L1": ("11.19", "10.39", "8.85", "15.69", "4.73", "2.68"),
    },
    "VLK": {
        "AGAN": ("11.77", "56.81", "18.64", "23.06", "18.41", "22.70"),
        "L0": ("60", "276", "141", "177", "93", "160"),
        "L1": ("10.35", "81.19", "27.28", "48.84", "17.37", "36.72"),
    },
    "REVISE": {
        "AGAN": ("15.13", "21.47", "27.41", "N/A", "5.49", "25.80"),
        "L0": ("784", "784", "692", "N/A", "784", "784"),
        "L1": ("31.90", "66.08", "57.63", "N/A", "17.60", "62.13"),
    },
}
"""Values of the pairs in figure 3."""

TABLE4 = {
    "lambda = 0": {"L0": "27.36", "L1": "13.47"},
    "lambda = 1": {"L0": "27.29", "L1": "13.45"},
    "lambda = 10": {"L0": "27.16", "L1": "13.40"},
    "lambda = 10^2": {"L0": "25.88", "L1": "12.92"},
    "lambda = 10^3": {"L0": "24.58", "L1": "12.38"},
    "lambda = 10^4": {"L0": "25.10", "L1": "12.53"},
    "lambda = 10^5": {"L0": "25.38", "L1": "12.65"},
    "mu = 1/5": {"L0": "25.45", "L1": "12.75"},
    "mu = 1": {"L0": "24.47", "L1": "12.32"},
    "mu = 5": {"L0": "24.92", "L1": "12.46"},
}
"""DeDUCE by its objective: equation 4 with lambda, equation 5 with mu."""

TABLE4_FAILURE = {
    name: "0.1" if name in ("lambda = 0", "lambda = 1", "lambda = 10", "mu = 5") else "0"
    for name in TABLE4
}
"""Of all pairs, in per cent."""

TABLE5_WEIGHTS = (0.1, 1.0)
"""REVISE's lambda; with 10 it failed for more than 75% of the pairs and is not in the table."""

TABLE5 = {
    (0.1, 0): {"L0": "754.34", "L1": "88.79"},
    (0.1, 1): {"L0": "758.12", "L1": "91.43"},
    (0.1, 2): {"L0": "764.93", "L1": "84.92"},
    (1.0, 0): {"L0": "767.75", "L1": "58.66"},
    (1.0, 1): {"L0": "771.78", "L1": "54.72"},
    (1.0, 2): {"L0": "771.89", "L1": "54.11"},
}
"""By lambda and the place of the step size among 1e-3, 1e-4 and 1e-5."""

TABLE5_FAILURE = {
    (0.1, 0): "16.1",
    (0.1, 1): "12",
    (0.1, 2): "11.8",
    (1.0, 0): "23",
    (1.0, 1): "26.3",
    (1.0, 2): "22.2",
}
"""Of all pairs, in per cent."""
