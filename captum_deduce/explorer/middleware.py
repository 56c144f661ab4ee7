"""What stands between the page and the network: what it may load, and where it is."""

from __future__ import annotations

import re
from typing import Any

_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""The browser itself refuses to load anything from another machine."""

_PREFIX = re.compile(rb"(/[\w.~%@+-]+)+")


def middleware() -> list[Any]:
    """List what gradio's server is to pass requests and answers through.

    Returns:
        list[starlette.middleware.Middleware]: In order.
    """
    from starlette.middleware import Middleware

    return [Middleware(WithPolicy), Middleware(BehindProxy)]


class WithPolicy:
    """Puts a content security policy into every answer.

    Args:
        app (Any): An ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request.

        Args:
            scope (Any): As in ASGI, as all of these.
            receive (Any): Likewise.
            send (Any): Likewise.
        """

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", _POLICY.encode()))
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)


class BehindProxy:
    """Lets the page find itself behind a proxy that takes a part of the path away and says which.

    Proxies say so in ``X-Forwarded-Prefix``, as the one of Jupyter does; gradio reads the whole
    address from a header of its own.

    Args:
        app (Any): An ASGI application.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request.

        Args:
            scope (Any): As in ASGI, as all of these.
            receive (Any): Likewise.
            send (Any): Likewise.
        """
        if scope["type"] == "http":
            headers: dict[bytes, bytes] = dict(scope["headers"])
            prefix = headers.get(b"x-forwarded-prefix", b"").rstrip(b"/")
            host = headers.get(b"x-forwarded-host", headers.get(b"host", b"")).split(b",")[0]
            if _PREFIX.fullmatch(prefix) and host:
                kept = [one for one in scope["headers"] if one[0] not in _REPLACED]
                where = b"http://" + host.strip() + prefix
                scope = {**scope, "headers": [*kept, (b"x-gradio-server", where)]}
        await self.app(scope, receive, send)


_REPLACED = (b"x-gradio-server", b"x-forwarded-host")
"""Gradio prefers the second, which knows no path."""
