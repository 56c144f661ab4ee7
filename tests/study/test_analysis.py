from __future__ import annotations

import numpy as np
import pytest

from captum_deduce.study import analyse_study, read_answers
from captum_deduce.study.analysis import ORIGINALS
from tests.study import made_up

NAMED, REAL, STRENGTH = [0.8, 0.5, 0.1], [0.9, 0.6, 0.3, 0.95], [1.0, 0.0, -1.0]


def analysed(key, contents, folder, **settings):
    paths = [
        made_up.write(folder, content, f"{place}.json") for place, content in enumerate(contents)
    ]
    return analyse_study(read_answers(paths, key), key, **settings)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Sixty people whose chances are known."""
    key = made_up.study(num_pairs=12).key
    rng = np.random.default_rng(0)
    contents = made_up.simulated(key, 60, NAMED, REAL, STRENGTH, rng)
    return analysed(key, contents, tmp_path_factory.mktemp("answers"), resamples=200)


def test_everybody_is_counted(found):
    assert found.num_people == 60
    assert len(found.answers) == 60 * 36
    assert found.naming["answers"].tolist() == [240] * 3
    assert found.realness["answers"].tolist() == [120] * 3 + [360]
    assert found.preference["comparisons"].tolist() == [480] * 3


def test_the_chances_are_recovered_within_their_intervals(found):
    np.testing.assert_allclose(found.naming["correct"], NAMED, atol=0.08)
    assert (found.naming["low"] <= NAMED).all()
    assert (found.naming["high"] >= NAMED).all()
    # whoever did not name the target named the class of the original
    np.testing.assert_allclose(found.naming["correct"] + found.naming["as_original"], 1)
    np.testing.assert_allclose(found.realness["judged_real"], REAL, atol=0.1)
    apart = found.realness[found.realness["method"] != ORIGINALS]
    np.testing.assert_allclose(apart["difference"], np.subtract(REAL[:3], REAL[3]), atol=0.1)
    assert (apart["difference_low"] < apart["difference"]).all()
    assert (apart["difference_high"] > apart["difference"]).all()
    assert found.realness["difference"].isna().tolist() == [False] * 3 + [True]


def test_the_order_of_preference_is_recovered(found):
    strength = found.preference["strength"]
    np.testing.assert_allclose(strength, STRENGTH, atol=0.25)
    assert (found.preference["low"] <= STRENGTH).all()
    assert (found.preference["high"] >= STRENGTH).all()
    assert found.preference["preferred"].is_monotonic_decreasing


def test_people_agree_where_the_chances_are_far_from_even(found):
    agreement = found.agreement.set_index("task")
    assert agreement["shown"].tolist() == [36, 48, 36]
    assert (agreement["alpha"] > 0.1).all()


def test_few_answers_are_needed_for_what_is_far_apart(found):
    power = found.power.set_index(["task", "first", "second"])
    assert len(power) == 3 + 6 + 3
    far, near = power.loc[("name", "alpha", "gamma")], power.loc[("name", "alpha", "beta")]
    assert far["needed"] < near["needed"] < near["answers"]
    assert power.loc[("prefer", "alpha", "gamma"), "first_share"] > 0.8


def test_full_agreement_ties_and_doubts(tmp_path):
    key = made_up.study(["alpha", "beta"], num_pairs=4).key

    def say(name, number):
        trial = key.trials[name]
        return True if trial.task == "real" else None

    contents = [made_up.answers(key, number, say) for number in range(1, 7)]
    contents[0]["answers"][0]["interrupted"] = True
    found = analysed(key, contents, tmp_path, resamples=20)
    assert found.naming["unsure"].tolist() == [1, 1]
    assert found.naming["correct"].tolist() == [0, 0]
    assert found.preference["ties"].tolist() == [24, 24]
    np.testing.assert_allclose(found.preference["strength"], 0, atol=1e-9)
    assert found.realness["judged_real"].tolist() == [1, 1, 1]
    assert found.agreement["alpha"].isna().all()  # one value only
    assert np.isinf(found.power["needed"]).all()
    assert found.answers["seconds"].isna().sum() == 1
    assert found.naming["seconds"].tolist() == [2, 2]


def test_alpha_of_answers_that_always_depend_on_the_trial(tmp_path):
    key = made_up.study(["alpha", "beta"], num_pairs=4).key

    def say(name, number):
        trial = key.trials[name]
        by_trial = {
            "name": trial.pair,
            "real": trial.methods[0] == 0,
            "prefer": trial.pictures[trial.pair % len(trial.pictures)],
        }
        return by_trial[trial.task]

    contents = [made_up.answers(key, number, say) for number in range(1, 9)]
    found = analysed(key, contents, tmp_path, resamples=20)
    assert found.agreement["alpha"].tolist() == [1, 1, 1]


def test_originals_are_named_by_their_labels(tmp_path):
    parts = made_up.methods(["alpha", "beta"], num_pairs=4)
    for part in parts:
        part.labels[:] = [5, 5, 5, 5]
    key = made_up.make_study(parts).key

    def say(name, number):
        trial = key.trials[name]
        return {"name": 5, "real": False, "prefer": None}[trial.task]

    found = analysed(key, [made_up.answers(key, 1, say)], tmp_path, resamples=5)
    named = found.naming.set_index("method")
    assert named.loc[ORIGINALS, "correct"] == 1
    assert found.preference["low"].isna().all()


def test_tasks_that_were_not_asked_have_no_rows(tmp_path):
    key = made_up.study(tasks=["real"]).key
    found = analysed(key, [made_up.answers(key, 1, lambda *_: True)], tmp_path)
    assert not len(found.naming)
    assert not len(found.preference)
    assert found.agreement["task"].tolist() == ["real"]


def test_no_answers_are_refused():
    with pytest.raises(ValueError, match="answers must hold at least one, got none"):
        analyse_study([], made_up.study().key)
