from __future__ import annotations

import json
import re

from captum_deduce.study import make_study
from tests.study import made_up

HOSTILE = '</script><img src=x onerror="alert(1)">'


def data_of(html):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    return json.loads(text)


def test_the_page_is_blind_to_methods():
    names = ["alpha-method", "beta-method", "gamma-method"]
    study = made_up.study(names)
    assert not [name for name in names if name in study.html]
    data = data_of(study.html)
    assert set(data) == {"format", "version", "study", "classes", "tasks", "pictures"}
    shown = {"id", "pictures"}
    extra = {"name": {"options"}, "real": set(), "prefer": {"original", "seen", "target"}}
    for task in data["tasks"]:
        assert all(set(trial) == shown | extra[task["name"]] for trial in task["trials"])
    # neither does the order of what it holds
    assert list(data["pictures"]) == sorted(data["pictures"])


def test_all_trials_of_the_key_stand_in_the_page():
    study = made_up.study()
    data = data_of(study.html)
    assert data["study"] == study.key.study
    found = {trial["id"]: trial["pictures"] for task in data["tasks"] for trial in task["trials"]}
    assert found == {name: trial.pictures for name, trial in study.key.trials.items()}
    assert {task["name"]: task["count"] for task in data["tasks"]} == study.key.per_person


def test_what_is_given_stands_as_text_never_as_markup():
    study = make_study(
        made_up.methods(num_pairs=3),
        title=HOSTILE,
        consent=f"One\nparagraph.\n\n{HOSTILE}",
        class_names=[HOSTILE] * 10,
    )
    assert HOSTILE not in study.html
    assert "<img src=x" not in study.html
    assert "<p>One paragraph.</p>" in study.html
    assert "&lt;/script&gt;&lt;img src=x" in study.html
    assert data_of(study.html)["classes"] == [HOSTILE] * 10


def test_the_page_loads_nothing():
    html = made_up.study().html
    assert "default-src 'none'" in html
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)https?:""", html)
    assert "http" not in html.split('id="data"')[0].replace("http-equiv", "")


def test_everything_that_can_be_filled_in_has_a_label():
    html = made_up.study().html
    fields = re.findall(r'<input id="(\w+)"', html)
    assert fields == ["participant", "agree", "keys"]
    assert all(f'<label for="{name}"' in html for name in [*fields, "progress"])
