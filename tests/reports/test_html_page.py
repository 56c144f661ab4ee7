from __future__ import annotations

import base64
import hashlib
import re

import pytest
from jinja2 import UndefinedError

from captum_deduce.reports import render_page


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package with templates of its own."""
    folder = tmp_path / "a_room" / "templates"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "small.html").write_text(
        '{% extends "page.html" %}\n{% block content %}\n<p>{{ said }} {{ 3 | twice }}</p>\n'
        "{% endblock %}\n",
        encoding="utf-8",
    )
    (folder / "small.css").write_text("p { color: red; }\n", encoding="utf-8")
    (folder / "small.js").write_text("let x = 1 < 2;\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "a_room"


VALUES = {"title": "<b>", "said": "</p><script>", "data": {"key": "</script>"}}
FILTERS = {"twice": lambda number: 2 * number}


def test_values_are_text_and_the_room_says_what_the_page_holds(room):
    html = render_page(room, "small", VALUES, FILTERS)
    assert html.startswith("<!doctype html>")
    assert "<title>&lt;b&gt;</title>" in html
    assert "<p>&lt;/p&gt;&lt;script&gt; 6</p>" in html
    assert html.count("</script>") == 2
    assert "let x = 1 < 2;" in html
    assert html.index("--page:") < html.index("p { color: red; }")


def test_the_policy_names_the_page_s_own_style_and_script_alone(room):
    html = render_page(room, "small", VALUES, FILTERS)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none';")
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (own,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


def test_what_a_template_asks_for_must_be_there(room):
    with pytest.raises(UndefinedError, match="said"):
        render_page(room, "small", {"title": "", "data": {}}, FILTERS)
