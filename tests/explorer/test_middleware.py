from __future__ import annotations

import json
import urllib.request
from collections.abc import Coroutine
from typing import Any

import pytest

from captum_deduce.explorer.middleware import BehindProxy, WithPolicy


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing; asyncio's own loop may be the browser's."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def headers_seen(*headers: tuple[bytes, bytes], kind: str = "http") -> dict[bytes, bytes]:
    """What an application behind the middleware is told."""
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope["headers"])

    finish(BehindProxy(app)({"type": kind, "headers": list(headers)}, None, None))
    return seen


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ([(b"host", b"hub:80")], b"http://hub:80/user/me/proxy/7860"),
        (
            [(b"host", b"in.side"), (b"x-forwarded-host", b"hub, in.side")],
            b"http://hub/user/me/proxy/7860",
        ),
    ],
)
def test_the_prefix_of_a_proxy_becomes_part_of_the_address(headers, where):
    prefix = (b"x-forwarded-prefix", b"/user/me/proxy/7860/")
    seen = headers_seen(*headers, prefix)
    assert seen[b"x-gradio-server"] == where
    assert b"x-forwarded-host" not in seen


@pytest.mark.parametrize("prefix", [b"", b"/", b"//elsewhere", b'/"><b>', b"explorer", b"/a b"])
def test_what_is_no_path_is_left_alone(prefix):
    given = [(b"host", b"hub"), (b"x-forwarded-prefix", prefix)]
    assert headers_seen(*given) == dict(given)


def test_other_protocols_are_left_alone():
    given = [(b"host", b"hub"), (b"x-forwarded-prefix", b"/explorer")]
    assert headers_seen(*given, kind="websocket") == dict(given)


def test_every_answer_carries_the_policy():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "headers": []})
        await send({"type": "http.response.body"})

    sent = []

    async def send(message):
        sent.append(message)

    finish(WithPolicy(app)({"type": "http"}, None, send))
    ((name, policy),) = sent[0]["headers"]
    assert name == b"content-security-policy"
    assert b"default-src 'self'" in policy
    assert sent[1] == {"type": "http.response.body"}


def test_a_served_page_asks_below_the_prefix_that_a_proxy_names(explorer):
    request = urllib.request.Request(f"{explorer.url}config")
    request.add_header("Host", "hub.example")
    request.add_header("X-Forwarded-Prefix", "/user/me/proxy/7860")
    request.add_header("X-Forwarded-Proto", "https")
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["root"] == "https://hub.example/user/me/proxy/7860"
