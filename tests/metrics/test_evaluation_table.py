"""Tables as text, JSON and data frames say the same as their cells."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from captum_deduce.metrics import EvaluationTable, Measured

ORIGINALS = torch.arange(8) // 2
SETS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
PAIRS = {"near": torch.arange(8), "far": torch.tensor([0, 1, 3, 4, 5, 7])}
VALUES = {
    "near": torch.tensor([20.0, 21, 22, 23, 24, 25, 26, 28]).double(),
    "far": torch.tensor([700.5, 703, 708, 700, 712, 719]).double(),
}


def table(pairs: str = "own", sets: torch.Tensor | None = SETS) -> EvaluationTable:
    measured = {}
    for name, places in PAIRS.items():
        failures = (~torch.isin(torch.arange(8), places)).double()
        if pairs == "common":
            used = PAIRS["far"]
            values = VALUES[name][torch.isin(places, used)]
        else:
            used, values = places, VALUES[name]
        measured[name] = {
            "L0": Measured(values, used),
            "oracle": Measured((values - 19) / 10_000, used),
            "failure rate": Measured(failures, torch.arange(8)),
        }
    return EvaluationTable(measured, pairs, ORIGINALS, (), sets)


def test_a_cell_sums_up_its_values():
    cell = table()["far", "L0"]
    values = VALUES["far"].numpy()
    assert cell.mean == pytest.approx(values.mean())
    assert cell.pairs == 6
    assert cell.set_means == pytest.approx((values[:3].mean(), values[3:].mean()))
    assert cell.deviation == pytest.approx(np.std(cell.set_means, ddof=1))
    for no_spread in (None, torch.zeros(8, dtype=torch.int64)):
        assert table(sets=no_spread)["far", "L0"].deviation is None
    with pytest.raises(KeyError, match=r"no cell.*rows are \['near', 'far'\].*'failure rate'"):
        table()["far", "L7"]


@pytest.mark.parametrize("pairs", ["common", "own"])
def test_paired_tests_take_the_pairs_that_both_have(pairs):
    tests = {test.metric: test for test in table(pairs).paired_tests("pair")}
    both = PAIRS["far"].numpy()
    near, far = VALUES["near"].numpy()[both], VALUES["far"].numpy()
    found = tests["L0"]
    assert (found.first, found.second, found.pairs, found.units) == ("near", "far", 6, 6)
    assert found.difference == pytest.approx((near - far).mean())
    assert found.t_pvalue == pytest.approx(stats.ttest_rel(near, far).pvalue)
    assert found.wilcoxon_pvalue == pytest.approx(stats.wilcoxon(near, far).pvalue)
    assert tests["failure rate"].pairs == 8
    by_original = {test.metric: test for test in table(pairs).paired_tests()}["L0"]
    difference = near - far
    means = [difference[both // 2 == original].mean() for original in range(4)]
    assert by_original.units == 4
    assert by_original.difference == found.difference
    assert by_original.t_pvalue == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    with pytest.raises(ValueError, match="unit must be one of 'original', 'pair'"):
        table().paired_tests("image")


def test_results_without_a_common_pair_are_not_tested():
    measured = {
        name: {"L0": Measured(torch.ones(2).double(), pairs)}
        for name, pairs in (("A", torch.tensor([0, 1])), ("B", torch.tensor([2, 3])))
    }
    (found,) = EvaluationTable(measured, "own", torch.arange(4), ()).paired_tests()
    assert (found.difference, found.pairs, found.units) == (None, 0, 0)
    assert found.t_pvalue is found.wilcoxon_pvalue is None


def test_markdown_has_every_cell_and_says_what_means_are_over():
    text = table("common").to_markdown()
    assert str(table("common")) == text
    heading, rule, near, far, blank, caption = text.split("\n")
    assert len({len(line) for line in (heading, rule, near, far)}) == 1
    assert re.fullmatch(r"\| :-+ \| -+: \| -+: \| -+: \|", rule)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (heading, near, far)]
    assert cells[0] == ["", "L0", "oracle", "failure rate"]
    assert cells[1][0] == "near"
    assert cells[2][1] == f"{VALUES['far'].mean():.2f} ({6.5 / np.sqrt(2):.2f})"
    assert cells[2][3] == "25.0% (0.0)"
    for place, metric in ((1, "L0"), (2, "oracle")):
        for row, name in ((1, "near"), (2, "far")):
            mean, deviation = map(float, re.findall(r"[\d.]+", cells[row][place]))
            cell = table("common")[name, metric]
            assert mean == pytest.approx(cell.mean, abs=0.005 if place == 1 else 5e-5)
            assert deviation == pytest.approx(cell.deviation, abs=0.005 if place == 1 else 5e-5)
    assert blank == ""
    assert caption == (
        "Means over the 6 of 8 pairs on which all succeeded; failure rate over all 8 pairs; in "
        "brackets standard deviations of the 2 sets' means."
    )


def test_names_of_one_letter_and_names_with_bars_make_a_table():
    values, pairs = torch.tensor([1.0, 2.0]).double(), torch.arange(2)
    columns = {name: Measured(values, pairs) for name in ("p", "a|b", "failure rate")}
    text = EvaluationTable({"A": columns, "B": columns}, "common", pairs, ()).to_markdown()
    heading, rule, *rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.split("\n")[:4])
    # GitHub Flavored Markdown: hyphens, and at most a colon on either side
    assert all(re.fullmatch(r" *:?-+:? *", cell) for cell in rule)
    assert [cell.strip() for cell in heading] == ["", "p", r"a\|b", "failure rate"]
    assert [row[0].strip() for row in rows] == ["A", "B"]
    assert {len(cells) for cells in (heading, rule, *rows)} == {4}


def test_a_notebook_draws_the_table():
    formatters = pytest.importorskip("IPython.core.formatters")
    assert formatters.MarkdownFormatter()(table("common")) == table("common").to_markdown()


def test_the_caption_counts_each_results_own_pairs():
    caption = table(sets=None).to_markdown().split("\n")[-1]
    assert caption == (
        "Means over the pairs on which each succeeded, of 8 (near 8, far 6); failure rate over all "
        "8 pairs."
    )


def test_the_dictionary_goes_through_json_and_has_every_number():
    found = json.loads(json.dumps(table().to_dict(), allow_nan=False))
    assert (found["pairs"], found["num_pairs"], found["sets"]) == ("own", 8, [0, 1])
    for name in PAIRS:
        for metric in ("L0", "oracle", "failure rate"):
            cell = table()[name, metric]
            assert found["results"][name][metric] == {
                "mean": cell.mean,
                "deviation": cell.deviation,
                "pairs": cell.pairs,
                "set_means": list(cell.set_means),
            }
    assert [test["metric"] for test in found["paired_tests"]] == ["L0", "oracle", "failure rate"]
    assert found["paired_tests"][0]["t_pvalue"] == table().paired_tests()[0].t_pvalue
    assert table(sets=None).to_dict()["sets"] is None


def test_the_data_frame_has_a_row_per_result():
    frame = table().to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == ["near", "far"]
    assert frame.loc["far", ("L0", "mean")] == table()["far", "L0"].mean
    assert frame.loc["far", ("L0", "deviation")] == table()["far", "L0"].deviation
    assert frame["L0"]["pairs"].tolist() == [8, 6]
    assert table(sets=None).to_pandas()["L0"]["deviation"].isna().all()


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table().to_pandas()
