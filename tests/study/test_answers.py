from __future__ import annotations

import pytest

from captum_deduce.study import Answer, read_answers
from tests.study import made_up


def say(key):
    """An answer that every task allows."""

    def chosen(name, number):
        trial = key.trials[name]
        return {"name": 3, "real": True, "prefer": trial.pictures[0]}[trial.task]

    return chosen


@pytest.fixture(scope="module")
def key():
    return made_up.study().key


@pytest.fixture
def content(key):
    return made_up.answers(key, 1, say(key))


def test_answers_are_read_as_they_were_given(key, content, tmp_path):
    content["answers"][0] |= {"answer": None, "seconds": 1.25, "interrupted": True}
    paths = [
        made_up.write(tmp_path, content, "1.json"),
        made_up.write(tmp_path, made_up.answers(key, 2, say(key)), "2.json"),
    ]
    answers = read_answers(paths, key)
    assert len(answers) == 2 * 18
    name = content["answers"][0]["trial"]
    assert answers[0] == Answer("1", name, None, 1.25, True)
    assert {answer.participant for answer in answers[18:]} == {"2"}


def change(**entries):
    return lambda content: content | entries


def first(**entries):
    return lambda content: (
        content | {"answers": [content["answers"][0] | entries, *content["answers"][1:]]}
    )


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (change(format="something"), "format must be 'captum-deduce study answers', got 'someth"),
        (change(version=7), "file of answers of version 7, this reads 1"),
        (change(study="0123"), "answers the study '0123', but the key is of"),
        (change(participant=" "), "must name its participant, got ' '"),
        (change(participant=3), "must name its participant, got 3"),
        (change(answers={}), "must hold a list of answers, got dict"),
        (change(answers=[1]), "must hold a list of answers"),
        (first(trial="nothing"), "answer 1: the study has no trial 'nothing'"),
        (first(trial=["a"]), "answer 1: the study has no trial"),
        (first(answer=10), "answer 1: 10 was not offered in the task 'name'"),
        (first(answer=True), "answer 1: True was not offered"),
        (first(answer="3"), "answer 1: '3' was not offered"),
        (first(seconds=-1), "seconds must be a number from 0, got -1"),
        (first(seconds=float("nan")), "seconds must be a number from 0, got nan"),
        (first(seconds=10**400), "seconds must be a number from 0, got 1000"),
        (first(seconds=None), "seconds must be a number from 0, got None"),
    ],
)
def test_what_does_not_fit_is_refused(key, content, tmp_path, broken, words):
    path = made_up.write(tmp_path, broken(content))
    with pytest.raises(ValueError, match=words) as caught:
        read_answers([path], key)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("task", "answer"), [("real", 1), ("real", None), ("prefer", "0a0b0c")])
def test_each_task_has_its_own_answers(key, content, tmp_path, task, answer):
    for entry in content["answers"]:
        if key.trials[entry["trial"]].task == task:
            entry["answer"] = answer
    with pytest.raises(ValueError, match=f"was not offered in the task '{task}'"):
        read_answers([made_up.write(tmp_path, content)], key)


def test_no_difference_is_an_answer(key, content, tmp_path):
    content["answers"][-1]["answer"] = None
    assert read_answers([made_up.write(tmp_path, content)], key)[-1].answer is None


def test_a_person_or_a_trial_twice_is_refused(key, content, tmp_path):
    paths = [made_up.write(tmp_path, content, name) for name in ("a.json", "b.json")]
    with pytest.raises(ValueError, match=r"b\.json holds answers of participant '1', as .*a\.json"):
        read_answers(paths, key)
    content["answers"].append(content["answers"][0])
    with pytest.raises(ValueError, match=r"answer 19: trial .* was answered before"):
        read_answers([made_up.write(tmp_path, content)], key)


def test_missing_answers_are_named_and_taken_on_request(key, content, tmp_path):
    del content["answers"][4:14]
    path = made_up.write(tmp_path, content)
    with pytest.raises(ValueError, match="missing: 2 of 6 in name, 6 of 6 in real, 2 of 6 in pref"):
        read_answers([path], key)
    assert len(read_answers([path], key, incomplete=True)) == 8


def test_no_file_and_no_such_file(key, tmp_path):
    with pytest.raises(ValueError, match="at least one file of answers"):
        read_answers([], key)
    with pytest.raises(FileNotFoundError, match="no file of answers at"):
        read_answers([tmp_path / "nowhere.json"], key)
