from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_deduce.density.moments import Moments
from captum_deduce.density.samples import Samples
from tests.density.test_moments import C, D, data


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.half(),
        lambda m: m.float(),
        lambda m: m.bfloat16(),
        lambda m: m.to(torch.float32),
        lambda m: m.to("cpu", torch.float16),
        lambda m: m.type(torch.float32),
        lambda m: torch.nn.ModuleList([m]).half()[0],
    ],
)
def test_buffers_keep_their_precision(convert):
    features, labels, _ = data()
    moments = Moments("full", C, D)
    moments.add(Samples(features, labels, None))
    before = {name: buffer.clone() for name, buffer in moments.named_buffers()}
    convert(moments)
    for name, buffer in before.items():
        assert getattr(moments, name).dtype == buffer.dtype
        assert torch.equal(getattr(moments, name), buffer)


def test_a_device_without_float64_is_named():
    def to_such_a_device(tensor: Tensor) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    with pytest.raises(
        TypeError, match=r"computes in float64 .*MPS.* leave the density on the CPU"
    ):
        Moments("full", C, D)._apply(to_such_a_device)


def test_a_state_dict_brings_its_shapes():
    features, labels, _ = data()
    moments, fresh = Moments("tied", C, D), Moments("tied")
    moments.add(Samples(features, labels, None))
    fresh.load_state_dict(moments.state_dict())
    for name, buffer in moments.named_buffers():
        assert torch.equal(getattr(fresh, name), buffer)
    fresh.add(Samples(features, labels, None))
    assert moments.count.sum() == len(features)
