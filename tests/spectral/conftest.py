from __future__ import annotations

import pytest
import torch

from tests.spectral.networks import LAYERS


@pytest.fixture(autouse=True)
def _one_thread():
    """Layers this small gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=list(LAYERS))
def layer_and_size(request):
    build, size = LAYERS[request.param]
    return build(), size
