from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

import captum_deduce
from captum_deduce import JSMA
from captum_deduce.explorer import notebook
from captum_deduce.explorer.notebook import frame_html, in_colab, show_below_cell

PAGE = "http://127.0.0.1:7861/"
PROXIED = "http://hub.example/user/me/proxy/7861/"


@pytest.fixture
def displayed(monkeypatch) -> list[dict]:
    """What a kernel would show below its cell."""
    display = pytest.importorskip("IPython.display")
    shown: list[dict] = []
    monkeypatch.setattr(notebook, "in_jupyter", lambda: True)
    monkeypatch.setattr(display, "publish_display_data", shown.append)
    return shown


def test_outside_of_a_notebook_nothing_is_shown(displayed, monkeypatch):
    monkeypatch.setattr(notebook, "in_jupyter", lambda: False)
    show_below_cell(PAGE, 7861)
    assert displayed == []


def test_colab_is_left_to_gradio(displayed, monkeypatch):
    assert not in_colab()
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    show_below_cell(PAGE, 7861)
    assert in_colab()
    assert displayed == []


def test_two_calls_show_two_pages_and_neither_waits_for_its_end(displayed):
    pytest.importorskip("gradio", reason="needs captum-deduce[app]")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    pages = [captum_deduce.explore(JSMA(model), torch.rand(2, 1, 8, 8)) for _ in range(2)]
    try:
        assert pages[0].url != pages[1].url
        for page, shown in zip(pages, displayed, strict=True):
            assert shown["text/plain"] == page.url
            assert json.dumps(page.url) in shown["text/html"]
    finally:
        for page in pages:
            page.close()


@pytest.mark.parametrize(
    ("address", "config", "proxy", "expected", "noted"),
    [
        ("http://hub.example/user/me/lab", True, True, PROXIED, False),
        ("http://hub.example/user/me/lab", True, False, PAGE, True),
        ("http://hub.example/elsewhere", False, False, PAGE, False),
        ("http://localhost/user/me/lab", True, False, PAGE, False),
    ],
    ids=["proxy", "no proxy", "another program", "this machine"],
)
def test_the_frame_finds_the_page_from_where_it_is_looked_at(
    browser, address, config, proxy, expected, noted
):
    settings = (
        '<script id="jupyter-config-data">{"baseUrl": "/user/me/"}</script>' if config else ""
    )
    asked = []

    def answer(route):
        request = route.request
        asked.append((request.method, request.url))
        if request.url == address:
            body = f"<body>{settings}{frame_html(PAGE, 7861)}</body>"
            return route.fulfill(body=body, content_type="text/html")
        found = proxy or not request.url.endswith("/user/me/proxy/7861/")
        return route.fulfill(status=200 if found else 404, body="the page")

    opened = browser.new_page()
    try:
        opened.route("**/*", answer)
        opened.goto(address)
        opened.wait_for_function("document.querySelector('iframe').src")
        assert opened.get_attribute("iframe", "src") == expected
        opened.frame_locator("iframe").get_by_text("the page").wait_for()
        assert ("GET", expected) in asked
        assert opened.get_by_text("No page above?").is_visible() == noted
    finally:
        opened.close()


def test_two_frames_on_one_page_do_not_meet():
    names = [frame_html(PAGE, 7861).split('"')[1] for _ in range(2)]
    assert names[0] != names[1]
