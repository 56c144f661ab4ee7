from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.classifiers import check_placement, device_of, parameter_of


def test_models_elsewhere_than_their_inputs_are_named():
    inputs = torch.zeros(2, 4)
    for there in (nn.Linear(4, 3), nn.Flatten(), lambda x: x):
        check_placement("critic", there, inputs)
    double = nn.Sequential(nn.Flatten(), nn.Linear(4, 3).double())
    for elsewhere, what in (
        (double, "torch.float64 on cpu"),
        (lambda x: double(x), "torch.float64 on cpu"),
        (nn.Linear(4, 3, device="meta"), "torch.float32 on meta"),
    ):
        message = f"torch.float32 on cpu, but the critic's parameters are {what}"
        with pytest.raises(ValueError, match=message):
            check_placement("critic", elsewhere, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_told_to_widen(dtype):
    with pytest.raises(ValueError, match=r"best by model\.float\(\)"):
        check_placement("model", [nn.Linear(4, 3).to(dtype)], torch.zeros(2, 4))


def test_a_model_is_where_its_first_floating_point_parameter_is_or_else_buffer():
    counting, norm = nn.Module(), nn.BatchNorm1d(3, affine=False, device="meta")
    counting.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    linear = nn.Linear(4, 3).double()
    assert parameter_of([counting, norm, linear]) is linear.weight
    assert parameter_of([counting, norm]) is norm.running_mean
    assert parameter_of([counting]) is None
    assert device_of([counting, norm]) == torch.device("meta")
    assert device_of([]) == torch.device("cpu")
    assert device_of([counting], torch.device("meta")) == torch.device("meta")
