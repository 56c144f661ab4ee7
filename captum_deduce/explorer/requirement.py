"""gradio, which not everybody has."""

from __future__ import annotations

import os
from typing import Any


def require_gradio() -> Any:
    """Import gradio, with its telemetry off.

    Returns:
        Any: The module.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the explorer's page needs gradio: pip install 'captum-deduce[app]'"
        ) from error
    return gradio
