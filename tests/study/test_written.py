from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captum_deduce.study import analyse_study, analysis_text, read_answers, save_analysis
from tests.study import made_up


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    key = made_up.study(["alpha", "beta"], num_pairs=4).key
    contents = made_up.simulated(
        key, 5, [0.9, 0.1], [0.5, 0.5, 1], [1, -1], np.random.default_rng(0)
    )
    folder = tmp_path_factory.mktemp("answers")
    paths = [made_up.write(folder, one, f"{place}.json") for place, one in enumerate(contents)]
    return analyse_study(read_answers(paths, key), key, resamples=20)


def test_the_text_has_a_table_for_each_question(analysis):
    text = analysis_text(analysis)
    assert "60 answers of 5 people about 4 of the 4 pairs" in text
    assert "alpha: 0 failed, 0 there already" in text
    for title in ("Name the class", "Real or changed", "Which explains better", "Agreement"):
        assert title in text
    alpha = analysis.naming.iloc[0]
    (line,) = [
        line for line in text.split("Name the class")[1].splitlines() if line.startswith("alpha")
    ][:1]
    assert f"{alpha['correct']:.0%}" in line
    assert f"{alpha['low']:.0%} to {alpha['high']:.0%}" in line


def test_markdown_has_the_same_tables(analysis):
    text = analysis_text(analysis, as_markdown=True)
    assert text.count("\n## ") == 5
    assert "| method | answers | correct |" in text


def test_files_hold_what_the_tables_hold(analysis, tmp_path):
    written = save_analysis(analysis, tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir())
    content = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert content["people"] == 5
    assert content["study"] == analysis.key.study
    shares = [row["judged_real"] for row in content["realness"]]
    assert shares == analysis.realness["judged_real"].tolist()
    assert content["realness"][-1]["difference"] is None  # NaN is not JSON
    read = pd.read_csv(tmp_path / "power.csv")
    np.testing.assert_allclose(read["needed"], analysis.power["needed"])
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert len(answers) == 60
    assert set(answers["method"]) == {"alpha", "beta", "(originals)"}
    width, height = Image.open(tmp_path / "study.png").size
    assert width > height > 100


def test_one_person_is_said_to_give_no_interval(analysis, tmp_path):
    key = analysis.key
    content = made_up.simulated(
        key, 1, [0.9, 0.1], [0.5, 0.5, 1], [1, -1], np.random.default_rng(0)
    )
    answers = read_answers([made_up.write(tmp_path, content[0])], key)
    text = analysis_text(analyse_study(answers, key, resamples=5))
    assert "One person gives no interval." in text
    assert "12 answers of 1 person" in text
