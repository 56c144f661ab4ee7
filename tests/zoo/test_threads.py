from __future__ import annotations

import pytest
import torch

from captum_deduce.zoo.threads import torch_threads


def test_the_number_of_threads_is_restored_after_an_error_too():
    before = torch.get_num_threads()
    with torch_threads(None):
        assert torch.get_num_threads() == before
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        1 / torch.zeros(1, dtype=torch.int64).item()
    assert torch.get_num_threads() == before
