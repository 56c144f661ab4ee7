"""Checks of threads, copies and other processes."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.testing.contracts import NotApplicable, in_words, require, require_equal
from captum_deduce.testing.explainer.models import unsettled
from captum_deduce.testing.explainer.trial import EXACT, Trial, require_same, require_untouched
from captum_deduce.testing.explainer.trial import snapshot as noted

_PATIENCE = 300.0
"""Seconds after which another process counts as hung."""


def _check_threads(trial: Trial) -> None:
    """Searches of one model in several threads at once find what each finds alone."""
    subject = unsettled()
    explainer = trial.build(subject)
    images, target, before = subject.images, subject.target, noted(subject)
    expected = explainer.generate(images, target)
    results: list[Counterfactuals] = []
    errors: list[Exception] = []

    def search() -> None:
        try:
            results.append(explainer.generate(images, target))
        except Exception as error:  # it would only be printed
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(not errors, "; ".join(map(in_words, errors)), "no error in a thread")
    for result in results:
        require_same(result, expected, 0.0)
    require_untouched(subject, before)


def _check_copies(trial: Trial) -> None:
    """A deep copy finds the same, with a model of its own."""
    explainer, subject = trial.pair()
    expected = explainer.generate(subject.images, subject.target)
    twin = copy.deepcopy(explainer)
    with torch.no_grad():
        subject.fc.weight.neg_()
    require_same(twin.generate(subject.images, subject.target), expected, EXACT)


def _check_forked_processes(trial: Trial) -> None:
    """A worker of a DataLoader that is forked off the process searches, and finds the same."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise NotApplicable("this system does not fork")
    explainer, subject = trial.pair()
    images, target = subject.images[:3], subject.target[:3]
    expected = explainer.generate(images, target)
    loader: DataLoader[Tensor] = DataLoader(
        _Explained(explainer, images, target),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="fork",
        timeout=_PATIENCE,
    )
    require_equal("images of a worker", next(iter(loader)), expected.counterfactuals, EXACT)


class _Explained(Dataset[Tensor]):
    """A data set of one item, which is searched for by whoever asks for it."""

    def __init__(self, explainer: CounterfactualExplainer, images: Tensor, target: Tensor) -> None:
        self.explainer, self.images, self.target = explainer, images, target

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return self.explainer.generate(self.images, self.target).counterfactuals


def _check_spawned_processes(trial: Trial) -> None:
    """Sent to a new process, as DataLoader and Ray do, an explainer finds the same there."""
    explainer, subject = trial.pair()
    if type(explainer).__module__ == "__main__":
        raise NotApplicable("its class is defined in __main__, which a new process doesn't have")
    images, target = subject.images[:3], subject.target[:3]
    expected = explainer.generate(images, target)
    # As arrays: tensors would be sent by way of files that both processes share.
    arguments = (explainer, images.numpy(), target.numpy())
    # The process would run the user's script again, which may have no guard against that.
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        search = _other_process().submit(_search, *arguments)
    try:
        found = torch.from_numpy(search.result(_PATIENCE))
    except Exception:
        end_other_process()  # it may be dead, or at work for ever
        raise
    require_equal("images of a new process", found, expected.counterfactuals, EXACT)


@functools.cache
def _other_process() -> ProcessPoolExecutor:
    """Start it once for all checks: it imports torch, which takes longer than they do."""
    # It ends quietly at Ctrl-C, which a terminal and a notebook send to it too.
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_DFL)
    )


def end_other_process() -> None:
    """End the process that checks share, if there is one; the next check starts another."""
    if _other_process.cache_info().currsize:
        _other_process().shutdown(wait=False, cancel_futures=True)
        _other_process.cache_clear()


def _search(explainer: CounterfactualExplainer, images: Any, target: Any) -> Any:
    torch.set_num_threads(1)
    found = explainer.generate(torch.from_numpy(images), torch.from_numpy(target))
    return found.counterfactuals.numpy()


CHECKS: tuple[Callable[[Trial], None], ...] = (
    _check_threads,
    _check_copies,
    _check_forked_processes,
    _check_spawned_processes,
)
