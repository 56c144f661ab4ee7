"""The paper's rule of common pairs, against plain loops and the paper's own figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_deduce import Counterfactuals
from captum_deduce.metrics import DEFAULT_METRICS, evaluate, failure_rate
from tests import reference
from tests.published import published_results
from tests.visualization.samples import make_result

COUNT = 12
SETS = torch.tensor([4, 4, 4, 9, 9, 9, 9, 1, 1, 1, 1, 1])
FAILED = {"A": [2, 5], "B": [5, 8, 11], "C": []}


@pytest.fixture
def results() -> dict[str, Counterfactuals]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(4, 1, 3, 3, generator=generator).repeat_interleave(3, 0)
    return {
        name: make_result(
            inputs,
            torch.where(torch.rand(COUNT, 1, 3, 3, generator=generator) < 0.5, inputs, 0.0),
            target=[1, 2, 3] * 4,
            success=[pair not in failed for pair in range(COUNT)],
        )
        for name, failed in FAILED.items()
    }


def l1_of(result: Counterfactuals) -> np.ndarray:
    differences = (result.counterfactuals - result.inputs).double().numpy()
    return np.array([np.abs(difference).sum() for difference in differences])


def test_means_are_over_the_pairs_on_which_all_succeeded(results):
    table = evaluate(results, {"L1": Counterfactuals.l1}, sets=SETS)
    kept = [pair for pair in range(COUNT) if pair not in (2, 5, 8, 11)]
    assert table.results == ["A", "B", "C"]
    assert table.metrics == ["L1", "failure rate"]
    for name, result in results.items():
        values = l1_of(result)
        found = table[name, "L1"]
        assert found.pairs == 8
        assert found.mean == pytest.approx(np.mean(values[kept]), rel=1e-6)
        means = list(reference.means_of_sets(values[kept], SETS.numpy()[kept]).values())
        assert found.set_means == pytest.approx(means, rel=1e-6)
        assert found.deviation == pytest.approx(np.std(means, ddof=1), rel=1e-5)


def test_means_over_own_pairs(results):
    table = evaluate(results, {"L1": Counterfactuals.l1}, pairs="own")
    for name, result in results.items():
        kept = [pair for pair in range(COUNT) if pair not in FAILED[name]]
        assert table[name, "L1"].pairs == len(kept)
        assert table[name, "L1"].mean == pytest.approx(np.mean(l1_of(result)[kept]), rel=1e-6)
        assert table[name, "L1"].deviation is None


@pytest.mark.parametrize("pairs", ["common", "own"])
def test_failures_are_over_all_pairs(results, pairs):
    table = evaluate(results, pairs=pairs, sets=SETS)
    for name, failed in FAILED.items():
        found = table[name, "failure rate"]
        assert found.pairs == COUNT
        assert found.mean == len(failed) / COUNT
        assert found.mean == failure_rate(results[name].success)
        of_sets = reference.means_of_sets(
            np.isin(np.arange(COUNT), failed).astype(float), SETS.numpy()
        )
        assert found.set_means == pytest.approx(tuple(of_sets.values()))


def test_one_result_needs_no_name_and_there_is_a_default(results):
    table = evaluate(results["A"])
    assert table.results == ["counterfactuals"]
    assert (
        table.metrics
        == [*DEFAULT_METRICS, "failure rate"]
        == [
            *("L0", "L1", "evaluations", "failure rate"),
        ]
    )
    found = results["A"][results["A"].success]
    expected = np.mean([np.count_nonzero(image) for image in found.attributions.numpy()])
    assert table["counterfactuals", "L0"].mean == expected
    assert table["counterfactuals", "evaluations"].mean == found.evaluations.double().mean()


def test_metrics_see_only_the_pairs_that_they_are_needed_for(results):
    seen: list[int] = []

    def costly(result: Counterfactuals) -> Tensor:
        seen.append(len(result))
        assert result.success.all()
        return result.confidence > 0.1

    table = evaluate(results, {"costly": costly})
    assert seen == [8, 8, 8]
    assert table["B", "costly"].mean == 1.0
    seen.clear()
    evaluate(results, {"costly": costly}, pairs="own")
    assert seen == [10, 9, 12]


def test_costs_may_be_over_all_pairs(results):
    table = evaluate(results, on_all_pairs=["evaluations"])
    assert table["B", "evaluations"].pairs == COUNT
    assert table["B", "evaluations"].mean == results["B"].evaluations.double().mean()
    assert table["B", "L0"].pairs == 8


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_has_no_mean_is_refused(results, broken):
    def metric(result: Counterfactuals) -> Tensor:
        values = result.confidence.clone()
        values[[3, 7]] = broken
        return values

    message = r"metric 'odd' is NaN or infinite for 2 of 8 pairs of 'A' \(pairs 4, 10\)"
    with pytest.raises(ValueError, match=message):
        evaluate(results, {"odd": metric})


def test_nan_of_failed_pairs_does_not_matter(results):
    broken = results["A"].counterfactuals.clone()
    broken[[2, 5]] = torch.nan
    results["A"] = replace(results["A"], counterfactuals=broken)
    assert np.isfinite(evaluate(results)["A", "L1"].mean)
    assert np.isfinite(evaluate(results, pairs="own")["A", "L1"].mean)


def failing(result: Counterfactuals) -> Counterfactuals:
    return replace(result, success=torch.zeros(COUNT, dtype=torch.bool))


@pytest.mark.parametrize("pairs", ["common", "own"])
def test_a_result_that_found_nothing_is_a_row_and_changes_no_other(results, pairs):
    others = {"A": results["A"], "B": results["B"]}
    table = evaluate({**others, "C": failing(results["C"])}, pairs=pairs, sets=SETS)
    assert table.results == ["A", "B", "C"]
    alone = evaluate(others, pairs=pairs, sets=SETS)
    for name in others:
        for metric in table.metrics:
            assert table[name, metric] == alone[name, metric]
    assert (table["C", "L0"].mean, table["C", "L0"].deviation) == (None, None)
    assert table["C", "L0"].pairs == 0
    assert table["C", "failure rate"].mean == 1
    row = next(line for line in str(table).splitlines() if line.startswith("| C "))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["-", "-", "-", "100.0% (0.0)"]
    json.dumps(table.to_dict(), allow_nan=False)
    assert np.isnan(table.to_pandas().loc["C", ("L0", "mean")])
    tests = {(test.first, test.second): test for test in table.paired_tests()[:3]}
    assert (tests["A", "C"].difference, tests["A", "C"].pairs) == (None, 0)


def test_the_caption_says_who_found_nothing(results):
    some = {"A": results["A"], "B": failing(results["B"]), "C": results["C"]}
    assert "over the 10 of 12 pairs on which all succeeded but B, which found none" in str(
        evaluate(some)
    )
    assert "on which each succeeded, of 12 (A 10, B 0, C 12)" in str(evaluate(some, pairs="own"))
    for pairs in ("common", "own"):
        nothing = evaluate(failing(results["B"]), pairs=pairs)
        assert nothing["counterfactuals", "L1"].mean is None
        assert nothing["counterfactuals", "failure rate"].mean == 1
        assert "No counterfactual was found, of 12 pairs; failure rate" in str(nothing)


def test_without_a_common_pair_the_advice_works(results):
    halves = {
        "A": replace(results["A"], success=torch.arange(COUNT) < 6),
        "B": replace(results["B"], success=torch.arange(COUNT) >= 6),
        "C": failing(results["C"]),
    }
    message = r"no pair on which all succeeded.*\(found are A: 6 of 12, B: 6 of 12\).*pairs='own'"
    with pytest.raises(ValueError, match=message):
        evaluate(halves)
    table = evaluate(halves, pairs="own")
    assert table["A", "L1"].mean == pytest.approx(np.mean(l1_of(halves["A"])[:6]), rel=1e-6)
    assert table["C", "L1"].mean is None
    with pytest.raises(ValueError, match="at least one pair, got none"):
        evaluate(results["A"][[]])


def test_a_set_without_a_pair_leaves_no_deviation(results):
    sets = torch.where(torch.arange(COUNT) == 5, 3, 0)
    for pairs, expected in (("common", 8), ("own", 10)):
        table = evaluate(results, sets=sets, pairs=pairs)
        cell = table["A", "L1"]
        assert (cell.pairs, cell.deviation, cell.set_means) == (expected, None, ())
        assert cell.mean == evaluate(results, pairs=pairs)["A", "L1"].mean
        assert len(table["A", "failure rate"].set_means) == 2


def test_pairs_that_were_there_already_are_counted_apart(results):
    """Pair 0 of A and pair 7 of A and C, unchanged: 2 fails A, 5 A and B, 8 and 11 B."""
    for name, places in (("A", [0, 7]), ("C", [7])):
        unchanged = results[name].counterfactuals.clone()
        unchanged[places] = results[name].inputs[places]
        results[name] = replace(results[name], counterfactuals=unchanged)
    kept = [1, 3, 4, 6, 9, 10]
    table = evaluate(results, on_all_pairs=["evaluations"])
    for name, result in results.items():
        assert table[name, "L1"].mean == pytest.approx(np.mean(l1_of(result)[kept]), rel=1e-6)
        assert table[name, "L0"].pairs == 6
    assert table.already == table.to_dict()["already"] == {"A": 2, "B": 0, "C": 1}
    assert table["A", "failure rate"].mean == 2 / 10
    assert table["C", "failure rate"].pairs == 11
    steps = results["A"].evaluations.numpy()
    searched = [pair for pair in range(COUNT) if pair not in (0, 7)]
    assert table["A", "evaluations"].mean == pytest.approx(steps[searched].mean())
    assert str(table).endswith(
        "Means over the 6 of 12 pairs on which all succeeded; there already, and in no mean: A 2, "
        "C 1; evaluations, failure rate over all pairs but these."
    )
    own = evaluate(results, pairs="own")
    assert [own[name, "L1"].pairs for name in "ABC"] == [8, 9, 11]


def test_nothing_but_pairs_that_were_there_already(results):
    there = replace(results["C"], counterfactuals=results["C"].inputs)
    table = evaluate({"there": there, "A": results["A"]})
    assert table["there", "L0"].mean is table["there", "failure rate"].mean is None
    assert table["A", "L0"] == evaluate({"A": results["A"]})["A", "L0"]
    assert "there already, and in no mean: there 12" in str(table)


def test_results_of_other_pairs_are_refused(results):
    message = "same inputs and targets in the same order"
    other_target = replace(results["B"], target=results["B"].target.flip(0))
    other_inputs = replace(results["B"], inputs=results["B"].inputs.flip(0))
    for other in (other_target, other_inputs, results["B"][:6]):
        with pytest.raises(ValueError, match=f"{message}.*'B'.*'A'"):
            evaluate({"A": results["A"], "B": other})
    doubled = {name: getattr(results["B"], name).double() for name in ("inputs", "counterfactuals")}
    evaluate({"A": results["A"], "B": replace(results["B"], **doubled)})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": [Counterfactuals.l0]}, TypeError, "metrics must be a dict.*got list"),
        ({"metrics": {"L0": 3}}, TypeError, r"metrics\['L0'\] must be a function.*got int"),
        ({"metrics": {"m": lambda r: 3.0}}, TypeError, "'m' must return a tensor, got float"),
        ({"metrics": {"m": lambda r: r.l0().sum()}}, ValueError, r"per pair \(8\), got shape \(\)"),
        ({"metrics": {"failure rate": len}}, ValueError, "'failure rate', which is in every table"),
        ({"pairs": "all"}, ValueError, "pairs must be one of 'common', 'own', got 'all'"),
        ({"sets": [1, 2]}, ValueError, r"sets must hold one number per pair \(12\)"),
        ({"sets": [0.5] * 12}, TypeError, "sets must hold integers"),
        ({"on_all_pairs": ["steps"]}, ValueError, r"names in metrics \(\['L0'.*got \['steps'\]"),
        ({"on_all_pairs": "L0"}, ValueError, r"list of names .*got \['L0'\]"),
    ],
)
def test_arguments_that_are_refused(results, arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(results, **arguments)


def test_results_that_are_refused(results):
    with pytest.raises(TypeError, match=r"results must be Counterfactuals, or a dict.*got list"):
        evaluate([results["A"]])
    with pytest.raises(TypeError, match=r"results\['A'\] must be Counterfactuals, got Tensor"):
        evaluate({"A": results["A"].counterfactuals})
    with pytest.raises(ValueError, match="at least one result"):
        evaluate({})


def test_the_papers_figures_come_out_of_the_papers_images():
    """Table 1's first test set, to the printed digit; L1 sums in single precision as published."""
    table = evaluate(
        published_results(),
        {
            "L0": Counterfactuals.l0,
            "L0 beyond 1e-5": lambda result: result.l0(1e-5),
            "L1": Counterfactuals.l1,
            "iterations": lambda result: result.iterations,
        },
        on_all_pairs=["iterations"],
    )
    printed = {
        "DeDUCE": ("21.13", "10.74", "0.00", "92.4"),
        "JSMA": ("25.76", "12.81", "2.67", "101.5"),
        "VLK": ("155.20", "39.80", "0.44", None),
        "REVISE": ("747.93", "54.29", "27.78", "16315"),
    }
    for name, (l0, l1, failures, iterations) in printed.items():
        assert f"{table[name, 'L0'].mean:.2f}" == l0
        assert f"{table[name, 'L1'].mean:.2f}" == l1
        assert f"{100 * table[name, 'failure rate'].mean:.2f}" == failures
        assert table[name, "L0"].pairs == table[name, "L1"].pairs == 634
        assert table[name, "failure rate"].pairs == 900
        if iterations:
            decimals = len(iterations.partition(".")[2])
            assert f"{table[name, 'iterations'].mean:.{decimals}f}" == iterations
    assert f"{table['REVISE', 'L0 beyond 1e-5'].mean:.1f}" == "429.7"
    tests = {
        test.metric: test
        for test in table.paired_tests("pair")
        if (test.first, test.second) == ("DeDUCE", "JSMA")
    }
    # "highly significant (p < 1e-7 on paired t-tests)", section 4.3, there on five test sets
    assert tests["L0"].t_pvalue < 1e-7
    assert tests["L1"].t_pvalue < 1e-7
