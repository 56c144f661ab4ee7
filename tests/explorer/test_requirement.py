from __future__ import annotations

import os
import sys

import pytest

from captum_deduce.explorer.requirement import require_gradio


def test_without_gradio_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'captum-deduce\[app\]'"):
        require_gradio()


def test_telemetry_is_off():
    pytest.importorskip("gradio", reason="needs captum-deduce[app]")
    assert require_gradio().__name__ == "gradio"
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
