"""Half as many pairs, or none fewer."""

from __future__ import annotations

import warnings

import pytest
import torch

from captum_deduce.search import smaller_batch

FULL = torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("size", "half"), [(2, 1), (3, 2), (64, 32)])
def test_half_as_many_with_a_warning_that_says_how_to_avoid_it(size, half):
    with pytest.warns(UserWarning, match=f"{size} pairs.*internal_batch_size={half}") as told:
        assert smaller_batch(FULL, size) == half
    assert told[0].filename == __file__


def test_the_warning_comes_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert smaller_batch(FULL, 8, warned=True) == 4


def test_one_pair_can_not_be_halved_and_other_errors_are_not_about_memory():
    assert smaller_batch(FULL, 1) is None
    assert smaller_batch(RuntimeError("shapes"), 8) is None
