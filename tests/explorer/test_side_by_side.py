from __future__ import annotations

import torch
from torch import nn

from captum_deduce import JSMA
from captum_deduce.explorer.scale import Scale
from captum_deduce.explorer.side_by_side import Attempt, ask, comparison_html


def test_a_row_says_what_was_found_and_what_oracles_see():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    explainer = JSMA(model)
    result = explainer.generate(torch.rand(1, 1, 8, 8), target=1)
    seen = ask({"other": other}, result, ["<a>", "<b>", "<c>"])
    with torch.no_grad():
        expected = other(result.counterfactuals).softmax(1)[0]
    place = int(expected.argmax())
    assert seen == {"other": f"<{'abc'[place]}> {float(expected[place]):.0%}"}
    attempts = [
        Attempt("<JSMA>", result, 0.25, seen=seen),
        Attempt("broken", None, 0.1, RuntimeError("<oh>")),
        Attempt("stopped", None, 0.1),
    ]
    html = comparison_html(attempts, Scale.of(explainer), ["other"])
    assert html.count("<tr>") == 4
    for value in (f"<td>{int(result.l0())}</td>", "<td>0.25</td>", "RuntimeError: &lt;oh&gt;"):
        assert value in html
    assert f"&lt;{'abc'[place]}&gt;" in html
    assert "<JSMA>" not in html
    assert "<td>found</td>" in html
