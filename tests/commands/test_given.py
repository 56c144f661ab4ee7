from __future__ import annotations

import pytest
import torch

from captum_deduce.commands.given import make_folder, read_device, read_targets

NAMES = ("cat", "dog", "1", "red fox")


def test_devices_are_tried_before_any_work():
    assert read_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert read_device(None) == torch.device(expected)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta:x", "cpu:"])
def test_devices_that_do_not_work_are_refused(name):
    with pytest.raises(ValueError, match=f"--device must be .* got '{name}': ."):
        read_device(name)


def test_folders_are_made_with_their_parents_and_left_as_they_are(tmp_path):
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == folder
    (folder / "file").write_text("kept")
    make_folder(folder)
    assert (folder / "file").read_text() == "kept"
    for path in (folder / "file", folder / "file" / "c"):
        with pytest.raises(ValueError, match="--output must be a folder"):
            make_folder(path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (["dog"], [1, 1, 1]),
        (["0"], [0, 0, 0]),
        (["red fox", "cat", "3"], [3, 0, 3]),
        (["1"], [2, 2, 2]),  # a name goes before a number
    ],
)
def test_targets_are_names_or_numbers(given, expected):
    assert read_targets(given, NAMES, 3) == expected


@pytest.mark.parametrize("word", ["4", "-1", "mouse", "1.0", "", "²"])
def test_targets_that_are_no_class_are_refused(word):
    with pytest.raises(ValueError, match=f"--target must be .*cat, dog.*0 to 3, got '{word}'"):
        read_targets([word], NAMES, 3)


def test_another_number_of_targets_is_refused():
    with pytest.raises(ValueError, match=r"one per image \(3\), got 2"):
        read_targets(["cat", "dog"], NAMES, 3)


def test_long_lists_of_classes_are_cut():
    with pytest.raises(ValueError, match=r"1000 classes.*c19, \.\.\.\) or by number from 0 to 999"):
        read_targets(["x"], [f"c{number}" for number in range(1000)], 1)
