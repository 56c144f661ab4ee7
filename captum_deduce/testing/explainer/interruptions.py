"""Checks of searches that are cut short: errors, Ctrl-C, memory that runs out; and of the bar."""

from __future__ import annotations

import contextlib
import io
import warnings

import torch
from torch import Tensor

from captum_deduce.testing.contracts import ContractError, require, require_equal
from captum_deduce.testing.explainer.models import unsettled
from captum_deduce.testing.explainer.trial import (
    EXACT,
    Trial,
    require_same,
    require_untouched,
    snapshot,
)


class _BrokenError(Exception):
    """No error that a library would catch."""


def _check_errors_in_mid_search(trial: Trial) -> None:
    """An error of the model in mid-search comes out as it is, and the model is left as it was."""
    _interrupt(trial, _BrokenError)


def _check_ctrl_c_in_mid_search(trial: Trial) -> None:
    """Ctrl-C in mid-search ends it, and the model is left as it was."""
    _interrupt(trial, KeyboardInterrupt)


def _interrupt(trial: Trial, error: type[BaseException]) -> None:
    subject = unsettled()
    explainer = trial.build(subject)
    before, calls = snapshot(subject), 0

    def fail_later(scores: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= 9:  # after the probes, some of which a model may refuse
            raise error("by the check")
        return scores

    settings = trial.long(explainer, 30)
    subject.after = fail_later
    try:
        explainer.generate(subject.images, subject.target, **settings)
    except error:
        pass
    else:
        raise ContractError(f"found no {error.__name__}, expected the model's own")
    require_untouched(subject, before)


def _check_memory_runs_out(trial: Trial) -> None:
    """A search that runs out of memory goes on with fewer pairs at once, and finds the same."""
    explainer, subject = trial.pair()
    images, target, settings = subject.images, subject.target, trial.long(explainer, 12)
    free = explainer.generate(images, target, return_trajectory=True, **settings)
    sizes: list[int] = []

    def crowd(scores: Tensor) -> Tensor:
        sizes.append(len(scores))
        if len(sizes) > 9 and len(scores) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return scores

    subject.after = crowd
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*too many for the memory", UserWarning)
        result = explainer.generate(images, target, return_trajectory=True, **settings)
    require(sizes[-1] <= 2, f"batches of {sizes}", "small ones in the end")
    require_same(result, free, EXACT)
    require_equal("iterations", result.iterations, free.iterations)
    for path, whole in zip(result.trajectory or [], free.trajectory or [], strict=True):
        require_equal("trajectory", path, whole, EXACT)


def _check_progress_bar(trial: Trial) -> None:
    """A progress bar over the pairs is drawn where it is asked for, and only there."""
    explainer, subject = trial.pair()
    for call in (explainer.generate, explainer.attribute, explainer.perturb):
        for asked in (False, True):
            drawn = io.StringIO()
            with contextlib.redirect_stderr(drawn):
                call(subject.images, subject.target, show_progress=asked)
            said = drawn.getvalue()
            if asked:
                kept = "6/6" in said and "steps=" in said and "found=" in said
                require(kept, repr(said[-80:]), "a bar with 6/6, steps= and found=")
            else:
                require_equal("drawn unasked", said, "")


CHECKS = (
    _check_errors_in_mid_search,
    _check_ctrl_c_in_mid_search,
    _check_memory_runs_out,
    _check_progress_bar,
)
