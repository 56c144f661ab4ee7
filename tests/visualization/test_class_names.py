from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.visualization.class_names import classes_seen, read_class_names


def test_names_are_read_from_any_sequence_of_strings():
    assert read_class_names(None, 3) == ["0", "1", "2"]
    assert read_class_names(("cat", "dog"), 2) == ["cat", "dog"]
    assert read_class_names(np.array(["cat", "dog", "frog"]), 2) == ["cat", "dog", "frog"]
    assert read_class_names(["polar\n bear "], 1) == ["polar bear"]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["cat"], ValueError, "at least 3 .*class 2 .*1 names"),
        ([], ValueError, "0 names"),
        ("cat", TypeError, "sequence of strings.*'cat'"),
        ([0, 1, 2], TypeError, "sequence of strings"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, error, words):
    with pytest.raises(error, match=f"class_names .*{words}"):
        read_class_names(names, 3)


def test_the_largest_class_is_found():
    assert classes_seen(torch.tensor([1, 0]), None, torch.tensor([4])) == 5
    assert classes_seen(torch.tensor([], dtype=torch.int64), None) == 0
