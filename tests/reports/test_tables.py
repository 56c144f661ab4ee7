from __future__ import annotations

from dataclasses import replace

import torch

from captum_deduce import Counterfactuals
from captum_deduce.reports.explained import Explained
from captum_deduce.reports.tables import markdown, mean, search_columns, table, totals


def explained(success=(True, False, True)):
    inputs = torch.zeros(3, 1, 2, 2)
    counterfactuals = inputs.clone()
    counterfactuals[0, 0, 0, 0] = 0.25
    counterfactuals[1, 0, :, :] = 0.5
    counterfactuals[2, 0, 1, :] = 0.125
    counts = torch.tensor([3, 700, 12])
    result = Counterfactuals(
        inputs=inputs,
        counterfactuals=counterfactuals,
        target=torch.tensor([1, 0, 2]),
        success=torch.tensor(success),
        confidence=torch.tensor([0.51, 0.25, 0.75]),
        iterations=counts,
        evaluations=counts + 1,
        forward_evaluations=0 * counts,
        prediction=torch.tensor([0, 1, 1]),
    )
    before = torch.tensor([[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.25, 0.5, 0.25]])
    return Explained(result, before, 6.0, ("a", "red fox", "cat"))


def test_numbers_stand_at_the_right_and_words_at_the_left():
    columns = [
        ("count", ["1", "20", "300"]),
        ("word", ["a", "bcdef", "g"]),
        ("share", ["0.5", "10.25", "3"]),
        ("mixed", ["1", "2", "-"]),
    ]
    assert table(columns).splitlines() == [
        "count  word   share  mixed",
        "    1  a        0.5  1",
        "   20  bcdef  10.25  2",
        "  300  g          3  -",
    ]


def test_each_pair_has_a_line_with_what_was_found():
    assert table(search_columns(explained())).splitlines() == [
        "seen as -> target  found   L0    L1  p(target)       steps",
        "a -> red fox       yes      1  0.25  0.100 -> 0.510      3",
        "red fox -> a       FAILED   4  2.00  0.050 -> 0.250    700",
        "red fox -> cat     yes      2  0.25  0.250 -> 0.750     12",
    ]


def test_totals_are_means_over_the_found_pairs():
    assert totals(explained()) == (
        "2 of 3 found; means over those found: L0 1.5, L1 0.25, p(target) 0.630, 7.5 steps\n"
        "6.00 s in all, 2.000 s per counterfactual"
    )


def test_pairs_that_were_there_already_stand_apart():
    some = explained()
    counterfactuals = some.result.counterfactuals.clone()
    counterfactuals[2] = some.result.inputs[2]
    some = replace(some, result=replace(some.result, counterfactuals=counterfactuals))
    assert totals(some) == (
        "1 of 2 found, 1 there already; means over those found: L0 1.0, L1 0.25, p(target) 0.510, "
        "3.0 steps\n6.00 s in all, 2.000 s per counterfactual"
    )
    assert dict(search_columns(some))["found"] == ["yes", "FAILED", "already"]


def test_places_of_colour_images_are_counted():
    some = explained()
    images = {
        name: torch.cat([getattr(some.result, name)] * 3, 1)
        for name in ("inputs", "counterfactuals")
    }
    some = replace(some, result=replace(some.result, **images))
    columns = dict(search_columns(some))
    assert (columns["L0"], columns["places"]) == (["3", "12", "6"], ["1", "4", "2"])
    assert "L0 4.5 in 1.5 places, L1" in totals(some)


def test_totals_without_a_found_pair_give_no_means():
    none = explained(success=(False, False, False))
    assert totals(none) == "0 of 3 found; 6.00 s in all, 2.000 s per counterfactual"


def test_a_table_in_markdown_says_which_columns_are_numbers():
    columns = [("word", ["a b", "c"]), ("L0", ["1.5", "20"]), ("mixed", ["1", "-"])]
    assert markdown(columns).splitlines() == [
        "| word | L0 | mixed |",
        "| --- | ---: | --- |",
        "| a b | 1.5 | 1 |",
        "| c | 20 | - |",
    ]
    assert markdown([("a|b", ["c|d"])]).splitlines()[::2] == [r"| a\|b |", r"| c\|d |"]


def test_a_mean_of_nothing_is_none():
    assert mean(torch.tensor([1, 2, 4]), 2) == "2.33"
    assert mean(torch.tensor([]), 2) == "-"
