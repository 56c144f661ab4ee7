from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captum_deduce import progress

ROOT = Path(__file__).resolve().parent.parent


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def redirect(monkeypatch):
    """Gives standard error another stream, within the test: pytest has its own before that."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)

    def to(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return to


def test_by_default_progress_is_shown_in_a_terminal(redirect):
    redirect(Terminal())
    assert progress.shown(None)


def test_by_default_it_is_not_where_nobody_looks(redirect):
    for stream in (io.StringIO(), None):  # pythonw has none
        redirect(stream)
        assert not progress.shown(None)


@pytest.mark.parametrize(("kernel", "expected"), [(True, True), (False, False)])
def test_by_default_it_is_shown_in_a_jupyter_kernel_and_not_in_plain_ipython(
    redirect, monkeypatch, kernel, expected
):
    redirect(io.StringIO())
    shell = type("Shell", (), {"kernel": object()} if kernel else {})()
    ipython = type("IPython", (), {"get_ipython": staticmethod(lambda: shell)})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert progress.shown(None) is expected


def test_what_is_asked_for_holds_everywhere(redirect, monkeypatch):
    redirect(Terminal())
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not progress.shown(None)
    assert progress.shown(True)
    assert not progress.shown(False)


@pytest.mark.parametrize("value", [1, "yes"])
def test_other_values_are_refused(value):
    with pytest.raises(
        TypeError, match=f"show_progress must be True, False or None, got .*{value}"
    ):
        progress.bar(range(3), show_progress=value)


def test_a_bar_says_what_it_counts(redirect):
    terminal = redirect(Terminal())
    with progress.bar(total=4, desc="layers", unit="layer", show_progress=True) as bar:
        bar.update(4)
    assert "layers: 100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "layer/s" in terminal.getvalue()


@pytest.mark.parametrize("show_progress", [True, False, None])
def test_a_bar_passes_on_what_it_goes_through(redirect, show_progress):
    redirect(Terminal())
    assert list(progress.bar(iter("abc"), show_progress=show_progress)) == ["a", "b", "c"]


def test_an_iterable_is_started_once():
    class Loader:
        starts = 0

        def __iter__(self):
            self.starts += 1
            return iter(range(2))

    loader = Loader()
    assert list(progress.bar(loader, show_progress=True)) == [0, 1]
    assert loader.starts == 1


def test_a_bar_that_was_asked_for_is_drawn_at_once_and_others_only_for_long_calls(redirect):
    terminal = redirect(Terminal())

    def drawn(show_progress, delay=2.0, pause=0.0):
        before = terminal.tell()
        for _ in progress.bar(range(2), show_progress=show_progress, delay=delay):
            time.sleep(pause)
        return terminal.tell() > before

    assert drawn(True)
    assert not drawn(None)
    assert not drawn(False)
    assert drawn(None, delay=0.05, pause=0.15)
    assert not drawn(False, delay=0.05, pause=0.15)


KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
try:
    client.execute_interactive({code!r}, timeout=120)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


@pytest.mark.slow
def test_in_a_notebook_nothing_warns_and_the_bar_is_drawn():
    pytest.importorskip("ipykernel")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import captum_deduce\ncaptum_deduce.DeDUCE\n"
        "from captum_deduce import progress\n"
        "print('shown', progress.shown(None))\n"
        "list(progress.bar(range(3), desc='counting', show_progress=True))\n"
    )
    command = [sys.executable, "-c", KERNEL.format(code=code)]
    # the tests themselves draw no bars
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert "shown True" in output
    assert "counting" in output
    assert "TqdmWarning" not in output
