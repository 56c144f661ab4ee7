"""Serve the page: who may see it, and what it may load."""

from __future__ import annotations

import hmac
import importlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from captum_deduce import checks
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.explorer.collection import collect
from captum_deduce.explorer.costs import Costs
from captum_deduce.explorer.desk import Desk
from captum_deduce.explorer.middleware import middleware
from captum_deduce.explorer.notebook import HEIGHT, in_colab, show_below_cell
from captum_deduce.explorer.page import Page
from captum_deduce.explorer.python_lines import Code
from captum_deduce.explorer.requirement import require_gradio
from captum_deduce.explorer.uploads import MOST_BYTES
from captum_deduce.explorer.visitors import MOST_VISITORS
from captum_deduce.visualization import ClassNames

_STYLE = Path(__file__).with_name("page.css")


class Explorer:
    """A page that is being served, as :func:`captum_deduce.explore` returns it.

    Args:
        blocks (Any): gradio's ``Blocks``, launched.
        url (str): Where the page is.
    """

    def __init__(self, blocks: Any, url: str) -> None:
        self._blocks = blocks
        self._closed = threading.Event()
        self.url = url

    def __repr__(self) -> str:
        return f"Explorer({self.url!r})"

    def wait(self) -> None:
        """Wait until the page is closed, or until Ctrl-C."""
        self._closed.wait()

    def close(self) -> None:
        """Serve the page no longer."""
        self._blocks.close(verbose=False)
        self._closed.set()


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only.

    Args:
        host (str): A name or a number.

    Returns:
        bool: Whether it can't be reached from another.
    """
    return host in ("localhost", "::1") or host.startswith("127.")


def explore(
    explainers: CounterfactualExplainer
    | Mapping[str, CounterfactualExplainer]
    | Sequence[CounterfactualExplainer],
    images: Tensor,
    labels: Tensor | list[int] | None = None,
    class_names: ClassNames | None = None,
    *,
    costs: Tensor | list[float] | None = None,
    oracles: Mapping[str, Callable[..., Any]] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    password: str | None = None,
    root_path: str | None = None,
    open_browser: bool = False,
    max_searches: int = 16,
    code: Code | None = None,
) -> Explorer:
    r"""Open a page in the browser, or below the cell of a notebook, to explain images one by one.

    Choose an image, mistakes first, a class and an explainer; watch the image change with its
    probability and, where the explainer has a density, its log-density; compare explainers; paint
    where the image may change; upload an image; keep pictures, the result and the lines of Python.

    The page loads nothing from another machine, and sends nothing to one. Searches of different
    visitors go on at the same time; each has one at a time, which ends when the page is closed.

    Args:
        explainers (CounterfactualExplainer, Mapping or Sequence): Of one classifier, by the names
            that they have on the page; those of a sequence are called by their methods.
        images (Tensor): N x channels x height x width, in the units that the model takes, with 1
            channel or 3.
        labels (Tensor or list[int], optional): The true classes, N. Default: None (not known:
            mistakes can't be told from right answers)
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)
        costs (Tensor or list[float], optional): N numbers to sort by, such as ``result.l1()`` of a
            result for all images; NaN where there is none. Default: None (found out on the page)
        oracles (Mapping[str, Callable], optional): Classifiers that had no part in any search, by
            name; the comparison says what they see. Default: None
        host (str, optional): The address to listen at. One that other machines can reach asks
            everybody for the password. Default: this machine only
        port (int, optional): Default: None (the first free one from 7860 on)
        password (str, optional): What visitors have to type, whatever their name. Default: None
        root_path (str, optional): The path of the page behind a proxy that leaves it out, such as
            ``/explorer``. Default: None (the proxy's headers, or none)
        open_browser (bool, optional): Open the page in a browser of this machine. Default: False
        max_searches (int, optional): How many go on at once, of all visitors; others wait for their
            turn. Fewer take less memory. Default: 16
        code (Code, optional): What explainers and images are called in the lines of Python.
            Default: None (``explainers`` and ``images``)

    Returns:
        Explorer: The page, served until it is closed or Python ends.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No explainer, two of one name, images that don't fit, or a host that others can
            reach without a password.
        ImportError: gradio is not installed.
        OSError: The port is taken.
    """
    named = _named(explainers)
    if not is_loopback(host) and not password:
        raise ValueError(
            f"password must be given where other machines can reach the page, as at host {host!r}"
        )
    if port is not None:
        checks.number("port", port, minimum=1, maximum=65535, integer=True)
    checks.number("max_searches", max_searches, minimum=1, integer=True)
    for name, oracle in (oracles or {}).items():
        checks.callable_model(f"oracles[{name!r}]", oracle)
    gr = require_gradio()
    first = next(iter(named.values()))
    checks.images(images)
    known = Costs(len(images), costs)
    collection = collect(first.forward_func, images, labels, class_names)
    code = code or Code(explainers=_expressions(explainers, named))
    desk = Desk(collection, named, dict(oracles or {}), code, known, max_searches)
    blocks = Page(desk).build()
    blocks.queue(max_size=100, api_open=False)
    _, local, _ = blocks.launch(
        server_name=host,
        server_port=port,
        auth=None if password is None else _gate(password),
        auth_message="Type any name, and the password that you were given.",
        root_path=root_path,
        inbrowser=open_browser,
        inline=in_colab(),
        height=HEIGHT,
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css_paths=[_STYLE],
        footer_links=[],
        app_kwargs={"middleware": middleware()},
        max_file_size=MOST_BYTES,
        state_session_capacity=MOST_VISITORS,
        # each who searches or waits takes one, and others must get through to stop them
        max_threads=MOST_VISITORS + 40,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        **_without_history(gr.Blocks.launch),
        enable_monitoring=False,
        allowed_paths=[],
    )
    threading.Thread(target=_warm_up, daemon=True).start()
    show_below_cell(local, blocks.server_port)
    return Explorer(blocks, local)


def _warm_up() -> None:
    """Load what torch loads at a first search, a second's work, while the page is looked at."""
    with suppress(ImportError):
        importlib.import_module("torch._dynamo")


def _without_history(launch: Callable[..., Any]) -> dict[str, bool]:
    """Keep no list of what was asked, where gradio has one: its earlier versions don't."""
    name = "run_history"
    return {name: False} if name in inspect.signature(launch).parameters else {}


def _named(
    explainers: CounterfactualExplainer
    | Mapping[str, CounterfactualExplainer]
    | Sequence[CounterfactualExplainer],
) -> dict[str, CounterfactualExplainer]:
    if isinstance(explainers, CounterfactualExplainer):
        explainers = [explainers]
    if isinstance(explainers, Mapping):
        named = dict(explainers)
    else:
        names = [getattr(one, "get_name", lambda: "?")() for one in explainers]
        if len(set(names)) < len(names):
            raise ValueError(
                f"explainers must have different names, got {names}; pass a dict of them"
            )
        named = dict(zip(names, explainers, strict=True))
    if not named:
        raise ValueError("explainers must hold at least one explainer, got none")
    for name, one in named.items():
        if not isinstance(one, CounterfactualExplainer):
            raise TypeError(
                f"explainers[{name!r}] must be a CounterfactualExplainer, got {type(one).__name__}"
            )
    return named


def _expressions(explainers: Any, named: Mapping[str, Any]) -> dict[str, str]:
    """What each is called in Python, as the caller passed them."""
    if isinstance(explainers, CounterfactualExplainer):
        return dict.fromkeys(named, "explainer")
    if isinstance(explainers, Mapping):
        return {}
    return {name: f"explainers[{place}]" for place, name in enumerate(named)}


def _gate(password: str) -> Callable[[str, str], bool]:
    def lets_in(name: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    return lets_in
