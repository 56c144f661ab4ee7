"""The page below a notebook's cell, wherever the notebook is looked at."""

from __future__ import annotations

import importlib
import json
import sys
import uuid
from typing import Any

from captum_deduce.progress import in_jupyter

HEIGHT = 900
"""Pixels of the page below a cell."""

_FRAME = """\
<iframe id="%(name)s" title="captum-deduce explorer" width="100%%" height="%(height)d"
  style="border: 0"></iframe>
<p id="%(name)s-missing" hidden>No page above? It is at <a href=%(url)s target="_blank">%(text)s</a>
  on the machine that runs the notebook. With jupyter-server-proxy installed next to Jupyter it is
  shown here.</p>
<script>
(async () => {
  const frame = document.getElementById("%(name)s");
  const settings = document.getElementById("jupyter-config-data");
  const base = settings ? JSON.parse(settings.textContent).baseUrl : document.body.dataset.baseUrl;
  const proxied = base && new URL(base + "proxy/%(port)d/", location.href).href;
  let answers = false;
  try {
    answers = Boolean(proxied) && (await fetch(proxied, {method: "HEAD"})).ok;
  } catch {}
  frame.src = answers ? proxied : %(url)s;
  const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  document.getElementById("%(name)s-missing").hidden = answers || !base || here;
})();
</script>
"""


def in_colab() -> bool:
    """Tell whether the code runs in Google Colab, whose pages gradio knows how to show.

    Returns:
        bool: Whether it does.
    """
    return "google.colab" in sys.modules


def show_below_cell(url: str, port: int) -> None:
    """Show a page below the cell that runs; outside a notebook nothing happens.

    Args:
        url (str): The page, on the machine that runs the notebook.
        port (int): Where it listens.
    """
    if not in_jupyter() or in_colab():
        return
    display: Any = importlib.import_module("IPython.display")
    display.publish_display_data({"text/html": frame_html(url, port), "text/plain": url})


def frame_html(url: str, port: int) -> str:
    """Frame a page that the browser may not reach by its own address.

    A notebook is often looked at from another machine. Where Jupyter passes pages on (the package
    jupyter-server-proxy), the page is asked for there, by a path of the notebook's own address.

    Args:
        url (str): The page, on the machine that runs the notebook.
        port (int): Where it listens.

    Returns:
        str: HTML with a script that chooses the address.
    """
    return _FRAME % {
        "name": f"captum-deduce-{uuid.uuid4().hex[:12]}",
        "height": HEIGHT,
        "url": json.dumps(url),
        "text": url,
        "port": port,
    }
