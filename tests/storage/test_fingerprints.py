from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce.storage import fingerprint


def test_fingerprints_are_the_same_in_another_process():
    code = (
        "import torch; from captum_deduce.storage import fingerprint; "
        "print(fingerprint({'b': 1, 'a': [torch.arange(3), None, 'x', 2.5]}))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert printed == fingerprint({"a": [torch.arange(3), None, "x", 2.5], "b": 1})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        ([1, 2], [2, 1]),
        (nn.ReLU(), nn.Tanh()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (("a", "b"), ("ab",)),
    ],
    ids=str,
)
def test_fingerprints_differ_where_values_do(first, second):
    assert fingerprint(first) != fingerprint(second)


def test_functions_differ_by_their_code_and_by_what_they_close_over():
    def scaled(factor):
        return lambda images: images * factor

    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))
    assert fingerprint(scaled(2.0)) != fingerprint(scaled(3.0))
    assert fingerprint(lambda images: images + 1) != fingerprint(lambda images: images + 2)
    assert fingerprint(scaled(nn.Linear(2, 2))) != fingerprint(scaled(nn.Linear(2, 2)))


def test_arrays_count_by_values_and_shape():
    assert fingerprint(np.arange(6)) != fingerprint(np.arange(6).reshape(2, 3))
    assert fingerprint(np.arange(6)[::2]) == fingerprint(np.array([0, 2, 4]))
