from __future__ import annotations

import re

import pytest
import torch

from captum_deduce.density.samples import (
    Samples,
    check_component_class,
    check_features,
    check_samples,
)

FEATURES = torch.randn(6, 3)
LABELS = torch.tensor([2, 0, 1, 1, 0, 2])


def broken(value: float) -> torch.Tensor:
    features = FEATURES.clone()
    features[4, 1] = value
    return features


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([[1.0]], TypeError, "features must be a torch.Tensor, got list"),
        (FEATURES.long(), TypeError, "features must be floating-point, got torch.int64"),
        (FEATURES.to(torch.complex64), TypeError, "features must be floating-point"),
        (FEATURES[0], ValueError, r"features must have the shape N x D, got \(3,\)"),
        (FEATURES[:, :0], ValueError, r"features must have the shape N x D, got \(6, 0\)"),
        (FEATURES[:, :2], ValueError, r"features must have the shape N x 3, .* got \(6, 2\)"),
    ],
)
def test_what_are_no_features_is_refused(features, error, message):
    with pytest.raises(error, match=message):
        check_features(features, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_features_that_are_not_finite_are_refused(value, dtype):
    with pytest.raises(ValueError, match=r"features must be finite .* in 1 of 6 rows, .* row 4"):
        check_samples(broken(value).to(dtype), LABELS, None, 0, None)


def test_features_whose_scatter_would_overflow_are_refused():
    with pytest.raises(ValueError, match=r"features must be finite and at most 1e\+100 in size"):
        check_samples(broken(1).double() * 1e101, LABELS, None, 0, None)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match=r"features must hold at least one .* got shape \(0, 3\)"):
        check_samples(FEATURES[:0], LABELS[:0], None, 0, None)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ([0, 1], TypeError, "target must be a torch.Tensor, got list"),
        (LABELS.float(), TypeError, "target must hold integers .*got torch.float32"),
        (LABELS > 0, TypeError, "target must hold integers .*got torch.bool"),
        (LABELS - 1, ValueError, "target must not be negative, got -1"),
        (LABELS + 2, ValueError, r"must lie in 0 \.\.\. 3 \(num_classes=4; .*\), got 4"),
        (LABELS[:4], ValueError, r"target must hold one label per sample \(shape \(6,\)\).*\(4,\)"),
        (torch.zeros(6, 4, 1), ValueError, r"target .* got shape \(6, 4, 1\)"),
        (torch.zeros(6, 0), ValueError, r"target .* got shape \(6, 0\)"),
        (torch.zeros(6, 5), ValueError, r"responsibilities of 4 classes \(6 x 4\), got .*\(6, 5\)"),
        (-torch.eye(6)[:, :4], ValueError, "target must be finite, not negative .*from -1 to"),
        (torch.full((6, 4), torch.nan), ValueError, "target must be finite, .* got NaN"),
        (
            torch.eye(6).long(),
            TypeError,
            r"got torch.int64 of shape \(6, 6\); .*target.argmax\(1\)",
        ),
        (LABELS.unsqueeze(1) > 0, ValueError, r"got shape \(6, 1\) and torch.bool; if"),
        (LABELS.unsqueeze(1).float(), ValueError, r"got shape \(6, 1\) .*pass target.long\(\)"),
    ],
)
def test_what_is_no_target_is_refused(target, error, message):
    with pytest.raises(error, match=message):
        check_samples(FEATURES, target, None, 3, 4)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1.0] * 6, TypeError, "sample_weight must be a torch.Tensor, got list"),
        (torch.ones(5), ValueError, r"sample_weight must have the shape \(6,\), .* got \(5,\)"),
        (torch.ones(6, 1), ValueError, r"sample_weight must have the shape \(6,\)"),
        (torch.ones(6) - LABELS, ValueError, "sample_weight must be .*not negative.*from -1 to 1"),
        (torch.full((6,), torch.inf), ValueError, "sample_weight must be finite"),
        (torch.full((6,), torch.inf).half(), ValueError, "sample_weight must be finite"),
        (torch.full((6,), 1e31), ValueError, r"sample_weight must be .* at most 1e\+30"),
        (torch.ones(6, dtype=torch.complex64), TypeError, "sample_weight must hold real numbers"),
    ],
)
def test_what_are_no_weights_is_refused(weight, error, message):
    with pytest.raises(error, match=message):
        check_samples(FEATURES, LABELS, weight, 3, 4)


@pytest.mark.parametrize(
    "target",
    [LABELS.to(torch.uint8), LABELS.int(), LABELS.unsqueeze(1), torch.eye(6) * 7, torch.eye(6) > 0],
)
def test_any_integers_are_labels_and_any_weights_responsibilities(target):
    samples = check_samples(FEATURES, target, torch.ones(6).long(), 3, None)
    labels = target.dtype not in (torch.float32, torch.bool)
    assert samples.num_classes == (3 if labels else 6)
    assert samples.soft != labels
    (block,) = samples.blocks(torch.device("cpu"))
    assert block.features.dtype == torch.float64
    assert block.target.dtype == (torch.float64 if samples.soft else torch.int64)


def test_a_column_of_labels_is_labels():
    samples = check_samples(FEATURES, LABELS.unsqueeze(1), None, 0, None)
    assert torch.equal(samples.target, LABELS)
    # but numbers that are not whole may be the responsibilities of the only class
    assert check_samples(FEATURES, torch.rand(6, 1), None, 0, 1).soft


@pytest.mark.parametrize(
    ("classes", "num_classes", "error", "message"),
    [
        ([0, 1], None, ValueError, r"one class for each of the 3 components, got shape \(2,\)"),
        ([0, -1, 1], None, ValueError, r"component_class must lie in 0 .* got values from -1 to 1"),
        ([0, 1, 2], 2, ValueError, r"component_class must lie in 0 \.\.\. 1, .*from 0 to 2"),
        ([0.0, 1.0, 2.0], None, TypeError, "component_class must hold integers, got torch.float32"),
    ],
)
def test_what_are_no_classes_of_components_is_refused(classes, num_classes, error, message):
    with pytest.raises(error, match=message):
        check_component_class(classes, 3, num_classes)


def test_blocks_hold_all_samples_in_order_and_have_limited_size():
    count, width = 5000, 4096
    features = torch.arange(count).float().unsqueeze(1).expand(count, width)
    blocks = list(
        Samples(features, torch.arange(count), torch.ones(count)).blocks(torch.device("cpu"))
    )
    assert max(block.features.numel() for block in blocks) <= 2**22
    assert torch.cat([block.target for block in blocks]).tolist() == list(range(count))
    for block in blocks:
        assert torch.equal(block.features[:, 0], block.target.double())


def test_a_block_is_taken_apart_by_class():
    weight = torch.tensor([1.0, 2, 0, 3, 4, 1e-200], dtype=torch.float64)
    plain = {c: rows for c, rows, _ in Samples(FEATURES, LABELS + 1, None).by_class()}
    assert {c: len(rows) for c, rows in plain.items()} == {1: 2, 2: 2, 3: 2}
    assert torch.equal(plain[2], FEATURES[2:4])
    # neither a weight of 0 nor one whose square is 0 counts
    weighted = {c: (rows, w) for c, rows, w in Samples(FEATURES, LABELS, weight).by_class()}
    assert torch.equal(weighted[1][0], FEATURES[3:4])
    assert torch.equal(weighted[2][0], FEATURES[:1])
    assert weighted[0][1].tolist() == [2, 4]


def test_labels_are_responsibilities_of_one():
    weight = torch.rand(6, dtype=torch.float64)
    hard = list(Samples(FEATURES, LABELS, weight).by_class())
    soft = list(Samples(FEATURES, torch.eye(3, dtype=torch.float64)[LABELS], weight).by_class())
    assert [c for c, _, _ in hard] == [c for c, _, _ in soft] == [0, 1, 2]
    for (_, rows, w), (_, soft_rows, soft_w) in zip(hard, soft, strict=True):
        assert torch.equal(rows, soft_rows)
        assert torch.equal(w, soft_w)


def test_messages_name_shapes_as_tuples():
    with pytest.raises(ValueError, match=re.escape("got shape (2, 2, 2)")):
        check_samples(FEATURES, torch.zeros(2, 2, 2), None, 0, None)
