from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import torch
from torch import nn

import captum_deduce
from captum_deduce import JSMA
from captum_deduce.explorer.explorer import is_loopback


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("me", False)],
)
def test_loopback_addresses_are_known(host, alone):
    assert is_loopback(host) == alone


def test_a_host_that_others_reach_needs_a_password(model):
    with pytest.raises(ValueError, match="password must be given"):
        captum_deduce.explore(JSMA(model), torch.rand(2, 1, 8, 8), host="0.0.0.0")


@pytest.mark.parametrize(
    ("explainers", "kind", "message"),
    [
        ([], ValueError, "at least one"),
        ({"a": nn.Flatten()}, TypeError, r"explainers\['a'\] must be a CounterfactualExplainer"),
        ([nn.Flatten()], TypeError, "must be a CounterfactualExplainer, got Flatten"),
    ],
)
def test_explainers_of_another_kind_are_refused(explainers, kind, message):
    with pytest.raises(kind, match=message):
        captum_deduce.explore(explainers, torch.rand(2, 1, 8, 8))


def test_two_of_one_method_need_names(model):
    with pytest.raises(ValueError, match="different names"):
        captum_deduce.explore([JSMA(model), JSMA(model)], torch.rand(2, 1, 8, 8))


def test_a_page_with_a_password_shows_nothing_without_it(model):
    pytest.importorskip("gradio", reason="needs captum-deduce[app]")
    page = captum_deduce.explore(JSMA(model), torch.rand(2, 1, 8, 8), password="sesame")
    try:
        assert page.url in repr(page)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page.url}config")
        assert refused.value.code == 401
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{page.url}login", b"username=me&password=open")
        with urllib.request.urlopen(f"{page.url}login", b"username=me&password=sesame") as answer:
            assert answer.status == 200
    finally:
        page.close()
    page.wait()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(page.url)


def test_nothing_else_of_the_machine_is_served(explorer, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", "/etc/passwd", captum_deduce.__file__):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{explorer.url}gradio_api/file={path}")
        assert refused.value.code in (403, 404)


def test_the_browser_is_told_to_load_nothing_from_elsewhere(explorer):
    with urllib.request.urlopen(explorer.url) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
