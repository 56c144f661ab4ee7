from __future__ import annotations

import io
import re
import sys

from captum_deduce.bulk.bar import Bar
from captum_deduce.bulk.shards import Counts


def test_the_bar_tells_images_pairs_a_second_and_what_was_found(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Bar(200, 50, True) as bar:
        bar._bar.mininterval = 0
        bar(Counts(items=10, pairs=40, found=38))
        bar(Counts(items=150, pairs=600, found=580, failures=3))
    last = re.split(r"[\r\n]", shown.getvalue().strip())[-1]
    assert "200/200" in last
    assert re.search(r"pairs=600, pairs/s=[\d.e+]+, found=580, failures=3", last)


def test_the_time_left_is_that_of_the_images_of_this_call():
    with Bar(200, 50, True) as bar:
        assert (bar._bar.initial, bar._bar.n, bar._bar.total) == (50, 50, 200)


def test_no_bar_where_none_is_wanted(capsys):
    with Bar(None, 0, False) as bar:
        bar(Counts(items=10, pairs=40))
    assert capsys.readouterr().err == ""
