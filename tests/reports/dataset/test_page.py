from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from captum_deduce.reports import class_pairs, report_html, report_run, save_report
from captum_deduce.reports.dataset import page as module
from captum_deduce.reports.dataset.page import figure
from tests.reports.dataset.made_up import random_run

NASTY = ["<script>alert(1)</script>", 'quote " and </script>', "it's & more", "<!-- <img src=x>"]
ERRORS = [
    {"index": 60, "label": 2, "error": "ValueError: <b>not finite</b>"},
    {"index": 61, "error": "ValueError: <b>not finite</b>"},
    {"index": 62, "error": "OSError: truncated"},
]


class Page(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts.setdefault(tag, []).append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture
def nasty():
    return report_run(random_run(60, class_names=NASTY, errors=ERRORS))


def test_what_comes_from_the_run_is_text(nasty):
    page = Page(report_html(nasty))
    assert not page._open
    assert len(page.all("script")) == 2
    assert {attributes["src"][:11] for attributes in page.all("img")} == {"data:image/"}
    data = json.loads(page.texts["script"][0])
    assert list(data["names"].values()) == [data["names"][key] for key in data["names"]]
    assert set(data["names"].values()) == set(NASTY)
    headings = " ".join(page.texts["h3"])
    assert all(name in headings for name in NASTY)
    assert "ValueError: <b>not finite</b>" in page.texts["td"]


def test_a_browser_loads_nothing_and_runs_only_the_pages_own_script(nasty):
    page = Page(report_html(nasty))
    (policy,) = [
        attributes["content"]
        for attributes in page.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for kind, text in (
        ("style-src", page.texts["style"][0]),
        ("script-src", page.texts["script"][1]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert not page.all("link")
    assert not [a for _, a in page.tags if "style" in a or any(name[:2] == "on" for name in a)]
    assert {a["href"][0] for a in page.all("a")} == {"#"}
    anchors = {a["href"][1:] for a in page.all("a")}
    assert anchors <= {a.get("id") for a in page.all("section")}
    assert not re.search(r"innerHTML|eval|document\.write|fetch|https?://", page.texts["script"][1])


def test_the_heat_map_has_every_pair_of_classes(nasty):
    text = report_html(nasty)
    page = Page(text)
    summed = class_pairs(nasty.pairs)
    cells = {
        (int(a["data-prediction"]), int(a["data-target"])): a["title"]
        for a in page.all("button")
        if "data-target" in a
    }
    assert set(cells) == set(zip(summed["prediction"], summed["target"], strict=True))
    for row in summed.itertuples():
        title = cells[row.prediction, row.target]
        assert f"{row.found} found, {row.failed} failed, {row.already} there already" in title
    shown = re.findall(r"<b>([\d.,-]+)</b><small>(\d+)</small>", text)
    expected = {(figure(row.cost_median), str(row.pairs)) for row in summed.itertuples()}
    assert set(shown) == expected
    levels = {int(level) for level in re.findall(r'<td class="level(\d)">', text)}
    assert {0, 9} <= levels <= set(range(10))


def test_failed_pairs_and_errors_are_counted_and_shown(nasty):
    text = report_html(nasty)
    tiles = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", text))
    assert (tiles["failed"], tiles["errors"], tiles["images seen"]) == ("8", "3", "63")
    assert tiles["pairs searched"] == "60"
    assert re.search(r"<tr><td>2</td><td>ValueError: &lt;b&gt;.*</td><td>60</td></tr>", text)
    assert "<tr><td>1</td><td>OSError: truncated</td><td>62</td></tr>" in text
    failed = class_pairs(nasty.pairs)["failed"]
    assert len(re.findall(r'class="bad">\d+ failed', text)) == (failed > 0).sum()


def test_a_class_pair_that_always_failed_is_marked():
    run = random_run(9)
    result = replace(run.result, success=torch.zeros(9, dtype=torch.bool))
    text = report_html(report_run(replace(run, result=result)))
    assert '<td class="none">' in text
    assert "In no group of pairs" in text
    assert 'class="map"' not in text


@pytest.mark.parametrize("what", ["only errors", "one pair", "unfinished", "right answers"])
def test_pages_of_unusual_runs(what):
    run = random_run(1 if what == "one pair" else 12, complete=what != "unfinished")
    if what == "only errors":
        run = replace(run, result=run.result[:0], label=[], errors=ERRORS)
    if what == "right answers":
        run = replace(run, label=run.result.prediction.tolist())
    text = report_html(report_run(run))
    page = Page(text)
    assert len(json.loads(page.texts["script"][0])["columns"]["index"]) == {
        "only errors": 3,
        "one pair": 1,
    }.get(what, 12)
    assert ("not complete" in text) == (what == "unfinished")
    assert ("No pair was searched for" in text) == (what == "only errors")
    assert ("What the model's mistakes cost" in page.texts["h1"]) == (what != "right answers")


def test_of_many_classes_the_most_frequent_are_in_the_map():
    report = report_run(random_run(300, classes=60))
    text = report_html(report)
    assert len(re.findall(r'<th scope="row">', text)) == module.MOST_SHOWN
    assert "35 others occur" in text


def test_a_file_takes_no_more_than_it_may(tmp_path):
    save_report(report_run(random_run(900, (3, 40, 40), 10)), tmp_path / "report.html")
    size = (tmp_path / "report.html").stat().st_size
    assert 1e6 < size < 15e6


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (12345, "12,345"),
        (0, "0"),
        (2.0, "2"),
        (0.07123, "0.0712"),
        (1.5004, "1.5"),
        (999.7, "1,000"),
        (np.float64(0.6), "0.6"),
        (math.nan, "-"),
        (None, "-"),
    ],
)
def test_numbers_are_written_for_people(value, words):
    assert figure(value) == words


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser, chromium")
def test_a_browser_lists_the_pairs(nasty, tmp_path):
    page = tmp_path / "report.html"
    save_report(nasty, page)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    shown = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "60 pairs, 60 shown" in shown
    listed = re.findall(r'<li><div class="title">(.*?)</div>', shown)
    assert len(listed) == 60
    costs = [float(cost) for cost in re.findall(r'class="facts">cost ([\d.e-]+)', shown)]
    assert costs == sorted(costs)
    assert len(costs) == 52
    assert shown.count(">failed: the best attempt is shown<") == 8
    assert "<script>alert" not in shown
