from __future__ import annotations

import argparse

import pytest

from captum_deduce.commands import main
from captum_deduce.commands.parsers.options import whole
from captum_deduce.datasets import DATASETS


def test_data_sets_are_those_that_can_be_loaded(recorded):
    for name in DATASETS:
        assert main(["demo", "--dataset", name]) == 0
        assert main(["train", "--dataset", name]) == 0
    assert main(["demo", "--dataset", "imagenet"]) == 2


def test_whole_numbers_are_read_from_the_least_on():
    assert whole(2)("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="at least 2, got 1"):
        whole(2)("1")
    with pytest.raises(ValueError, match="invalid literal"):
        whole(2)("2.5")
