from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from captum_deduce.classifiers.compiled import run_eagerly

needs_stances = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6"
)


def counting() -> tuple[list[bool], Callable[[torch.Tensor], torch.Tensor]]:
    """A compiled function that notes whether it runs as it was written."""
    seen = []

    def backend(graph, example):
        def run(*inputs):
            seen.append(True)
            return graph.forward(*inputs)

        return run

    return seen, torch.compile(lambda x: x * 2 + 1, backend=backend)


@needs_stances
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_compiled_code_runs_as_written_and_is_kept(error):
    seen, function = counting()
    inputs = torch.rand(3)
    torch.testing.assert_close(function(inputs), inputs * 2 + 1)
    assert len(seen) == 1

    def eagerly() -> None:
        with run_eagerly(), run_eagerly():
            torch.testing.assert_close(function(inputs), inputs * 2 + 1)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            eagerly()
    else:
        eagerly()
    assert len(seen) == 1
    with torch.compiler.set_stance("fail_on_recompile"):
        function(inputs)
    assert len(seen) == 2


@needs_stances
def test_threads_that_overlap_leave_compilation_on():
    seen, function = counting()
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def later() -> None:
        with run_eagerly():
            second_is_in.set()
            first_is_out.wait(10)

    thread = threading.Thread(target=later)
    with run_eagerly():
        thread.start()
        second_is_in.wait(10)
    function(torch.rand(3))
    assert seen == [], "the other thread still runs eagerly"
    first_is_out.set()
    thread.join()
    function(torch.rand(3))
    assert seen == [True]
