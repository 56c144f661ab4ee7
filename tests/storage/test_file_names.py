from __future__ import annotations

import pytest

from captum_deduce.storage.file_names import file_stem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3", "3"),
        ("red fox", "red-fox"),
        ("../etc/x", "etc-x"),
        ("a:b|c?", "a-b-c"),
        ("Käse", "Käse"),
        ("???", "class"),
    ],
)
def test_class_names_become_parts_of_file_names(name, expected):
    assert file_stem(name) == expected
