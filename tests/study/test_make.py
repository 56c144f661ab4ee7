from __future__ import annotations

import json

import pytest

from captum_deduce.study import MethodResults, StudyKey, make_study
from captum_deduce.study.design import ORIGINAL
from tests.study import made_up


def test_the_key_tells_what_each_picture_is():
    parts = made_up.methods(failed=[2], num_pairs=6)
    study = make_study(parts, num_pairs=4, seed=5)
    key = study.key
    assert key.methods == ["alpha", "beta", "gamma"]
    assert (len(key.pairs), key.shared) == (4, 5)
    assert key.counts["beta"] == {"found": 5, "failed": 1, "already": 0}
    assert key.per_person == {"name": 4, "real": 4, "prefer": 4}
    assert all(pair.target == (pair.prediction + 1) % 10 for pair in key.pairs)
    assert 2 not in [pair.prediction for pair in key.pairs]  # that of the pair that failed
    # a picture has one name, in whatever task it is shown
    shown = {}
    for trial in key.trials.values():
        for method, picture in zip(trial.methods, trial.pictures, strict=True):
            assert shown.setdefault((trial.pair, method), picture) == picture
    assert len(set(shown.values())) == len(shown) == 4 * (3 + 1)
    assert {method for _, method in shown} == {ORIGINAL, 0, 1, 2}


def test_only_shared_pairs_are_shown_and_none_is_an_error():
    first = MethodResults.of("one", made_up.result(4, failed=[0, 1]))
    second = MethodResults.of("two", made_up.result(4, failed=[2, 3]))
    with pytest.raises(
        ValueError, match=r"no pair of the same image and target .* one 2 of 4, two 2"
    ):
        make_study([first, second])


def test_the_same_seed_makes_the_same_study_and_another_another():
    studies = [made_up.study(seed=seed) for seed in (1, 1, 2)]
    assert studies[0] == studies[1]
    assert studies[0].key.study != studies[2].key.study
    assert not set(studies[0].key.trials) & set(studies[2].key.trials)


def test_one_method_is_not_compared():
    key = made_up.study(["alone"]).key
    assert key.tasks == ["name", "real"]


def test_labels_bring_originals_into_the_naming():
    parts = [MethodResults.of(name, made_up.result(6), list(range(6))) for name in ("a", "b")]
    key = make_study(parts).key
    named = {trial.methods[0] for trial in key.trials.values() if trial.task == "name"}
    assert named == {ORIGINAL, 0, 1}
    assert [pair.label for pair in key.pairs] == [pair.prediction for pair in key.pairs]


def test_what_a_person_is_asked_can_be_more_or_less():
    assert made_up.study(trials=4).key.per_person == {"name": 4, "real": 4, "prefer": 4}
    assert made_up.study(trials=99, tasks=["name"]).key.per_person == {"name": 18}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"num_pairs": 0}, ValueError, "num_pairs must be"),
        ({"trials": 0}, ValueError, "trials must be"),
        ({"seed": "x"}, TypeError, "seed must be an int"),
        ({"tasks": ["guess"]}, ValueError, r"tasks must be some of name, real, prefer, got \['gue"),
        ({"tasks": "name"}, ValueError, "tasks must be some of"),
        ({"tasks": []}, ValueError, "tasks must hold at least one"),
        ({"class_names": ["a", "b"]}, ValueError, "class_names must name every class"),
    ],
)
def test_mistakes_are_said(settings, error, words):
    with pytest.raises(error, match=words):
        make_study(made_up.methods(), **settings)


def test_no_methods_and_a_lone_preference_are_refused():
    with pytest.raises(ValueError, match="methods must hold at least one"):
        make_study([])
    with pytest.raises(ValueError, match=r"that 1 method\(s\) allow, got \['prefer'\]"):
        make_study(made_up.methods(["one"]), tasks=["prefer"])


def test_page_and_key_are_saved_together(tmp_path):
    study = made_up.study()
    study.save(tmp_path / "a.html", tmp_path / "a.key.json")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == study.html
    assert StudyKey.load(tmp_path / "a.key.json") == study.key


def test_colour_photographs_of_many_classes():
    part = made_up.result(3, channels=3, size=224, classes=1000)
    names = {number: f"kind {number}" for number in range(1000)}
    study = make_study([MethodResults.of("one", part)], class_names=names)
    assert [len(pair.options) for pair in study.key.pairs] == [10, 10, 10]
    assert all({pair.prediction, pair.target} <= set(pair.options) for pair in study.key.pairs)
    data = study.html.split('id="data">')[1].split("</script>")[0]
    assert len(json.loads(data)["pictures"]) == 6
