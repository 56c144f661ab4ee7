from __future__ import annotations

import json

import pytest

from captum_deduce.study import StudyKey
from tests.study import made_up


def test_a_key_comes_back_as_it_was_saved(tmp_path):
    key = made_up.study().key
    key.save(tmp_path / "study.key.json")
    assert StudyKey.load(tmp_path / "study.key.json") == key
    assert key.tasks == ["name", "real", "prefer"]
    assert [path.name for path in tmp_path.iterdir()] == ["study.key.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "it is not JSON"),
        ("[]", "its format must be 'captum-deduce study key', got None"),
        ('{"format": "captum-deduce study answers"}', "got 'captum-deduce study answers'"),
        ('{"format": "captum-deduce study key", "version": 9}', "of version 9, this reads 1"),
        ('{"format": "captum-deduce study key", "version": 1}', "no complete key.*'study'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    path = tmp_path / "study.key.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        StudyKey.load(path)


def test_a_key_that_lacks_something_is_refused(tmp_path):
    path = tmp_path / "study.key.json"
    made_up.study().key.save(path)
    content = json.loads(path.read_text())
    del content["pairs"][0]["target"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no complete key of a study"):
        StudyKey.load(path)
    with pytest.raises(FileNotFoundError, match="no key of a study at"):
        StudyKey.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("prefer", {"methods": [-1, 0]}, "two methods to prefer one of"),
        ("prefer", {"methods": [0, 3]}, "a method for each picture"),
        ("real", {"methods": [0, 1]}, "a method for each picture"),
        ("name", {"pair": 99}, "a task and a pair of the study"),
        ("name", {"pictures": ["a", "b"]}, "pictures"),
    ],
)
def test_a_trial_of_what_is_not_there_is_refused(tmp_path, task, change, words):
    path = tmp_path / "study.key.json"
    made_up.study().key.save(path)
    content = json.loads(path.read_text())
    trial = next(trial for trial in content["trials"].values() if trial["task"] == task)
    trial |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"no complete key of a study: .*there must be {words}"):
        StudyKey.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": -1}, "numbers from 0"),
        ({"counts": {}}, "counts of each method"),
        ({"class_names": [1, 2]}, "names of methods and classes"),
        ({"per_person": {"guess": 2}}, "tasks of name"),
    ],
)
def test_a_key_whose_parts_do_not_go_together_is_refused(tmp_path, change, words):
    path = tmp_path / "study.key.json"
    made_up.study().key.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        StudyKey.load(path)
