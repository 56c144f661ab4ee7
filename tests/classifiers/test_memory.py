"""Errors about memory are told from others."""

from __future__ import annotations

import pytest
import torch

from captum_deduce.classifiers import ran_out_of_memory


def test_an_allocation_that_is_too_large_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.int8)
    assert ran_out_of_memory(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory(error):
    assert ran_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("memory")])
def test_other_errors(error):
    assert not ran_out_of_memory(error)
