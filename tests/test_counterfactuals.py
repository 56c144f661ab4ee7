from __future__ import annotations

import inspect
import json
import struct
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from captum_deduce import Counterfactuals
from captum_deduce.visualization import plot_counterfactuals

COUNT = 6
PER_PAIR = [
    *("target", "success", "confidence", "iterations", "evaluations", "forward_evaluations"),
    *("prediction", "log_density"),
]


def _fields(count=COUNT, dtype=torch.float32, log_density=True, trajectory=True):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(count, 2, 3, 4, dtype=dtype, generator=generator)
    moved = torch.rand(count, 2, 3, 4, generator=generator) < 0.4
    lengths = [1 + pair % 3 for pair in range(count)]
    return {
        "inputs": inputs,
        "counterfactuals": torch.where(moved, 1 - inputs, inputs),
        "target": torch.arange(count) % 4,
        "success": torch.arange(count) % 3 != 1,
        "confidence": torch.rand(count, dtype=dtype, generator=generator),
        "iterations": torch.tensor(lengths) - 1,
        "evaluations": torch.tensor(lengths),
        "forward_evaluations": torch.ones(count, dtype=torch.int64),
        "prediction": (torch.arange(count) + 1) % 4,
        "log_density": torch.randn(count, dtype=dtype, generator=generator)
        if log_density
        else None,
        "trajectory": [
            torch.rand(length, 2, 3, 4, dtype=dtype, generator=generator) for length in lengths
        ]
        if trajectory
        else None,
    }


def _result(**arguments):
    return Counterfactuals(**_fields(**arguments))


def _assert_same(one, other):
    assert type(one) is type(other)
    for name, value in vars(one).items():
        there = getattr(other, name)
        if isinstance(value, torch.Tensor):
            assert value.dtype == there.dtype, name
            assert torch.equal(value, there), name
        elif value is None or isinstance(value, str):
            assert there == value, name
        else:
            assert len(value) == len(there), name
            for ours, theirs in zip(value, there, strict=True):
                assert ours.dtype == theirs.dtype, name
                assert torch.equal(ours, theirs), name


# --- what it holds ---


def test_its_length_is_the_number_of_pairs():
    assert len(_result()) == COUNT
    assert len(_result(count=0)) == 0


def test_results_are_put_one_behind_the_other():
    result = _result()
    parts = [result[:1], result[1:1], result[[1, 2]], result[3:]]
    _assert_same(Counterfactuals.concatenate(parts), result)
    _assert_same(Counterfactuals.concatenate(iter([result])), result)


def test_what_not_all_of_them_have_is_left_out():
    joined = Counterfactuals.concatenate([_result(), _result(log_density=False, trajectory=False)])
    assert len(joined) == 2 * COUNT
    assert joined.log_density is None
    assert joined.trajectory is None


@pytest.mark.parametrize(
    ("results", "error", "message"),
    [
        ([], ValueError, "results must hold at least one, got none"),
        (
            [torch.zeros(2)],
            TypeError,
            r"must be a list of Counterfactuals, got \['Tensor'\]",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(results, error, message):
    with pytest.raises(error, match=message):
        Counterfactuals.concatenate(results)


def test_images_of_other_shapes_cannot_be_joined():
    result = _result()
    with pytest.raises(TypeError, match="must be a list of Counterfactuals, got one"):
        Counterfactuals.concatenate(result)
    with pytest.raises(ValueError, match=r"float32 on cpu, .*float64 on cpu"):
        Counterfactuals.concatenate([result, _result(dtype=torch.float64)])
    cut = Counterfactuals(
        **{
            **_fields(trajectory=False),
            "inputs": result.inputs[..., 1:],
            "counterfactuals": result.counterfactuals[..., 1:],
        }
    )
    with pytest.raises(ValueError, match=r"one shape and .* got \(2, 3, 3\) .*, \(2, 3, 4\)"):
        Counterfactuals.concatenate([result, cut])


def test_it_prints_in_one_line():
    assert repr(_result()) == "Counterfactuals(4 of 6 found, images 2x3x4)"


def test_attributions_are_the_changes():
    result = _result()
    expected = result.counterfactuals.numpy() - result.inputs.numpy()
    np.testing.assert_array_equal(result.attributions, expected)


def test_distances_are_those_of_numpy():
    result = _result(dtype=torch.float64)
    change = (result.counterfactuals - result.inputs).numpy().reshape(COUNT, -1)
    np.testing.assert_array_equal(result.l0(), (change != 0).sum(1))
    np.testing.assert_array_equal(result.l0(tolerance=0.3), (np.abs(change) > 0.3).sum(1))
    np.testing.assert_allclose(result.l1(), np.linalg.norm(change, 1, axis=1))
    np.testing.assert_allclose(result.l2(), np.linalg.norm(change, 2, axis=1))
    np.testing.assert_allclose(result.linf(), np.linalg.norm(change, np.inf, axis=1))
    assert result.l0(tolerance=0.3).sum() < result.l0().sum()


def test_the_summary_averages_over_what_was_found():
    result = _result(dtype=torch.float64)
    found = result.success.numpy()
    change = (result.counterfactuals - result.inputs).numpy().reshape(COUNT, -1)[found]
    first, second, third = result.summary().splitlines()
    assert first == f"{found.sum()} of {COUNT} counterfactuals found"
    places = (result.counterfactuals != result.inputs).any(1).flatten(1).sum(1).numpy()[found]
    assert second.startswith(
        f"L0 {(change != 0).sum(1).mean():.3g} in {places.mean():.3g} places, L1 "
    )
    assert f"L1 {np.abs(change).sum(1).mean():.3g}, " in second
    assert f"confidence {result.confidence.numpy()[found].mean():.3g} " in second
    assert third.startswith(f"{result.iterations.double().mean():.3g} steps, ")
    assert f"{result.evaluations.double().mean():.3g} gradient" in third
    assert "1 forward-only evaluations per pair" in third


def test_the_summary_of_failures_and_of_nothing_has_no_means():
    failures = _result()[[1, 4]]
    lines = failures.summary().splitlines()
    assert lines[0] == "0 of 2 counterfactuals found"
    assert len(lines) == 2
    assert "nan" not in failures.summary()
    assert _result(count=0).summary() == "0 of 0 counterfactuals found"


def test_the_summary_writes_large_numbers_out():
    one = _result()[:1]
    images = torch.zeros(1, 1, 50, 51)
    result = replace(one, inputs=images, counterfactuals=images + 0.5, trajectory=None)
    assert result.success.all()
    assert result.summary().splitlines()[1].startswith("L0 2,550, L1 1,275, ")


def test_settings_stay_with_the_pairs(tmp_path):
    words = "DeDUCE(rounds=4): at most 3 of 24 entries a step"
    result, other = replace(_result(), settings=words), replace(_result(), settings="DeDUCE()")
    assert result.summary().splitlines()[3] == words
    assert result[2:4].settings == words
    result.save(tmp_path / "result.safetensors")
    _assert_same(Counterfactuals.load(tmp_path / "result.safetensors"), result)
    assert Counterfactuals.concatenate([result, result]).settings == words
    assert Counterfactuals.concatenate([result, other]).settings is None


def _with_pairs_already_there():
    """Pairs 0, 3 and 5 were found, 2 was there already, 1 and 4 failed, 4 without a move."""
    result = _result(dtype=torch.float64)
    counterfactuals = result.counterfactuals.clone()
    counterfactuals[[2, 4]] = result.inputs[[2, 4]]
    return replace(result, counterfactuals=counterfactuals)


def test_pairs_that_were_there_already_are_counted_apart():
    result = _with_pairs_already_there()
    assert result.already.tolist() == [False, False, True, False, False, False]
    assert repr(result) == "Counterfactuals(3 of 5 found, 1 there already, images 2x3x4)"
    first, second, third = result.summary().splitlines()
    assert first == "3 of 5 counterfactuals found, 1 there already"
    change = (result.counterfactuals - result.inputs).numpy().reshape(COUNT, -1)
    found, searched = [0, 3, 5], [0, 1, 3, 4, 5]
    assert second.startswith(f"L0 {(change != 0).sum(1)[found].mean():.3g} in ")
    assert f"L1 {np.abs(change).sum(1)[found].mean():.3g}, " in second
    assert f"confidence {result.confidence.numpy()[found].mean():.3g} " in second
    assert third.startswith(f"{result.iterations.numpy()[searched].mean():.3g} steps, ")
    assert result[2].summary() == "0 of 0 counterfactuals found, 1 there already"


def test_places_are_counted_whatever_channels_changed():
    result = _result()
    changed = (result.counterfactuals != result.inputs).numpy()
    assert result.sites().tolist() == [int(pair.any(0).sum()) for pair in changed]
    assert (result.sites() < result.l0()).any()
    grey = _grey()
    assert torch.equal(grey.sites(), grey.l0())
    assert " places" not in grey.summary()
    signals = replace(result, inputs=result.inputs[:, 0, 0], counterfactuals=changed_signals())
    assert signals.sites().tolist() == [4] * COUNT
    assert _result(count=0).sites().tolist() == []


def changed_signals():
    return _result().inputs[:, 0, 0] + 1


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        _result().target = torch.zeros(COUNT, dtype=torch.int64)


def _grey():
    fields = _fields()
    for name in ("inputs", "counterfactuals"):
        fields[name] = fields[name][:, :1]
    fields["trajectory"] = [images[:, :1] for images in fields["trajectory"]]
    return Counterfactuals(**fields)


def test_plot_is_the_function_of_visualization():
    result = _grey()
    ours, theirs = result.plot(max_rows=2), plot_counterfactuals(result, max_rows=2)
    assert ours._repr_png_() == theirs._repr_png_()
    with pytest.raises(ValueError, match="class_names"):
        result.plot(class_names=["x"])


def test_every_argument_of_plot_is_passed_on(monkeypatch):
    theirs = inspect.signature(plot_counterfactuals).parameters
    ours = inspect.signature(Counterfactuals.plot).parameters
    assert {name: p.default for name, p in ours.items() if name != "self"} == {
        name: p.default for name, p in theirs.items() if name != "result"
    }
    given = {name: object() for name in ours if name != "self"}
    monkeypatch.setattr(
        "captum_deduce.visualization.plot_counterfactuals", lambda result, **arguments: arguments
    )
    assert _grey().plot(**given) == given


def test_a_notebook_shows_pictures_and_the_summary():
    html = _grey()._repr_html_()
    assert "4 of 6 counterfactuals found" in html
    assert "data:image/png;base64," in html
    two_channels = _result()._repr_html_()
    assert "4 of 6 counterfactuals found" in two_channels
    assert "<img" not in two_channels


# --- validation ---


@pytest.mark.parametrize("name", PER_PAIR)
def test_each_field_must_hold_a_value_per_pair(name):
    fields = _fields()
    for wrong in (fields[name][:-1], fields[name].unsqueeze(1), fields[name][0]):
        words = rf"{name} must hold one value per pair \(6\), got shape \("
        with pytest.raises(ValueError, match=words):
            Counterfactuals(**fields | {name: wrong})


def test_images_must_have_one_shape():
    fields = _fields()
    with pytest.raises(ValueError, match=r"counterfactuals .*\(6, 2, 3, 4\), got \(6, 2, 3, 3\)"):
        Counterfactuals(**fields | {"counterfactuals": fields["counterfactuals"][..., :3]})
    with pytest.raises(ValueError, match=r"counterfactuals .*got \(5, 2, 3, 4\)"):
        Counterfactuals(**fields | {"counterfactuals": fields["counterfactuals"][1:]})


def test_there_must_be_a_trajectory_per_pair():
    fields = _fields()
    with pytest.raises(ValueError, match=r"trajectory must hold one tensor per pair \(6\), got 5"):
        Counterfactuals(**fields | {"trajectory": fields["trajectory"][1:]})


# --- selecting ---


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -1), [5, 4, 3, 2, 1, 0]),
        (slice(4, 0, -2), [4, 2]),
        (slice(4, None), [4, 5]),
        ([2, 0, 2], [2, 0, 2]),
        ([-1], [5]),
        ([], []),
        (torch.tensor([3, 1]), [3, 1]),
        (torch.arange(6) % 2 == 0, [0, 2, 4]),
        ([True, False, False, False, False, True], [0, 5]),
        (torch.zeros(6, dtype=torch.bool), []),
        (np.array([0, -1]), [0, 5]),
        (np.array([3, -6, 1], dtype=np.int8)[::-1], [1, 0, 3]),
        (np.arange(6) > 3, [4, 5]),
        ([np.bool_(True)] + [False] * 5, [0]),
        ([torch.tensor(1), np.int64(2)], [1, 2]),
        (torch.tensor([-2, 0], dtype=torch.int32), [4, 0]),
    ],
)
def test_pairs_are_selected_in_every_field(index, rows):
    result = _result()
    chosen = result[index]
    assert len(chosen) == len(rows)
    for name, value in vars(result).items():
        if name == "settings":
            continue
        there = getattr(chosen, name)
        assert len(there) == len(rows), name
        for place, row in enumerate(rows):
            assert torch.equal(there[place], value[row]), name


def test_what_is_absent_stays_absent():
    chosen = _result(log_density=False, trajectory=False)[:2]
    assert chosen.log_density is None
    assert chosen.trajectory is None
    assert len(chosen) == 2


@pytest.mark.parametrize(
    "index",
    [
        *(2.0, "0", (0, 1), None, True, np.bool_(True), torch.tensor(True)),
        *([True, 2, 0], [0.0], ["0"], [[0], [1, 2]], torch.tensor([0.0]), np.array([])),
        # a mask to PyTorch, numbers to NumPy
        *(torch.tensor([0, 1, 0, 0, 0, 0], dtype=torch.uint8), np.zeros(6, np.uint8)),
    ],
)
def test_other_indices_are_refused(index):
    with pytest.raises(TypeError, match=rf"index must be .*{type(index).__name__}"):
        _result()[index]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([True, False], r"index must hold a bool for each of 6, got shape \(2,\)"),
        (torch.ones(6, 1, dtype=torch.bool), r"a bool for each of 6, got shape \(6, 1\)"),
        (np.ones(7, bool), r"a bool for each of 6, got shape \(7,\)"),
        (torch.tensor([[0, 1], [2, 3]]), r"index must have one dimension, got shape \(2, 2\)"),
        ([[0, 1]], r"index must have one dimension, got shape \(1, 2\)"),
        ([6, 0, -7], r"index must lie in -6 \.\.\. 5, got 6, -7"),
    ],
)
def test_indices_that_do_not_fit_are_refused(index, message):
    with pytest.raises(IndexError, match=message):
        _result()[index]
    with pytest.raises(IndexError, match="index must choose none of 0, got 0"):
        _result(count=0)[0]


@pytest.mark.parametrize("index", [3, -3, np.int64(3), torch.tensor(3)])
def test_a_number_selects_one_pair(index):
    result = _result()
    _assert_same(result[index], result[[3]])


def test_a_loop_goes_through_the_pairs():
    result = _result()
    pairs = list(result)
    assert len(pairs) == COUNT
    _assert_same(Counterfactuals.concatenate(pairs), result)
    assert [int(pair.target) for pair in result] == result.target.tolist()
    assert list(result[:0]) == []


@pytest.mark.parametrize("index", [[6], torch.tensor([-7]), 6, -7])
def test_pairs_that_are_not_there_are_refused(index):
    with pytest.raises(IndexError):
        _result()[index]


def test_a_selection_leaves_the_original_alone():
    result = _result()
    before = result.inputs.clone()
    result[[0]].inputs.zero_()
    assert torch.equal(result.inputs, before)


# --- files ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_density", [True, False])
@pytest.mark.parametrize("trajectory", [True, False])
def test_a_file_holds_everything(tmp_path, dtype, log_density, trajectory):
    result = _result(dtype=dtype, log_density=log_density, trajectory=trajectory)
    path = tmp_path / "result.safetensors"
    result.save(path)
    _assert_same(Counterfactuals.load(path), result)
    _assert_same(Counterfactuals.load(str(path)), result)


def test_no_pairs_and_pairs_without_steps_are_kept(tmp_path):
    for result in (
        _result(count=0, trajectory=False),
        _result(count=0),
        _result(dtype=torch.float64)[[]],
        _result()[[0, 3]],
        _result(count=1),
    ):
        result.save(tmp_path / "x.safetensors")
        _assert_same(Counterfactuals.load(tmp_path / "x.safetensors"), result)


def test_tensors_that_share_memory_or_are_views_or_need_gradients_are_kept(tmp_path):
    fields = _fields()
    fields["counterfactuals"] = fields["inputs"]
    fields["confidence"] = torch.tensor(0.5).expand(COUNT)
    fields["inputs"] = fields["inputs"].transpose(2, 3).contiguous().transpose(2, 3)
    fields["inputs"].requires_grad_()
    result = Counterfactuals(**fields)
    result.save(tmp_path / "x.safetensors")
    _assert_same(Counterfactuals.load(tmp_path / "x.safetensors"), result)


def test_a_saved_file_is_replaced(tmp_path):
    path = tmp_path / "x.safetensors"
    _result().save(path)
    _result(count=2).save(path)
    assert len(Counterfactuals.load(path)) == 2


def test_the_device_can_be_chosen(tmp_path):
    path = tmp_path / "x.safetensors"
    _result().save(path)
    loaded = Counterfactuals.load(path, device="meta")
    assert loaded.inputs.device.type == "meta"
    assert loaded.log_density.device.type == "meta"
    assert loaded.trajectory[0].device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_on_a_gpu_are_selected_saved_and_loaded(tmp_path):
    fields = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in _fields().items()
    }
    result = Counterfactuals(**fields)
    _assert_same(result[result.success], result[[0, 2, 3, 5]])
    result.save(tmp_path / "x.safetensors")
    _assert_same(Counterfactuals.load(tmp_path / "x.safetensors", device="cuda"), result)


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            Counterfactuals.load(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_its_path(tmp_path, share):
    path = tmp_path / "cut.safetensors"
    _result().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.safetensors is truncated or not a safetensors"):
        Counterfactuals.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a file of tensors at all",
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2**62) + b"{}",
    ],
)
def test_a_foreign_file_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.safetensors is truncated or not a safetensors"):
        Counterfactuals.load(path)


def _rewrite(path, change=None, metadata=None, drop=()):
    """Write a result's file again, with something else in it."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        known = json.loads(file.read(length))["__metadata__"]
    del known["crc32"]  # of what was there
    tensors = {name: value for name, value in load_file(path).items() if name not in drop}
    save_file({**tensors, **(change or {})}, path, known if metadata is None else metadata)


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, {"format": "captum-deduce counterfactuals", "format_version": "2"}],
)
def test_tensors_of_another_kind_are_refused(tmp_path, metadata):
    path = tmp_path / "weights.safetensors"
    _result().save(path)
    _rewrite(path, metadata=metadata)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a file of counterfactuals"):
        Counterfactuals.load(path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"drop": ("inputs",)},
        {"drop": ("target",)},
        {"drop": ("trajectory",)},
        {"change": {"surplus": torch.zeros(3)}},
        {"change": {"target": torch.zeros(3, dtype=torch.int64)}},
        {"change": {"trajectory_lengths": torch.tensor([1, 2])}},
    ],
)
def test_an_incomplete_set_is_refused_with_its_path(tmp_path, arguments):
    path = tmp_path / "part.safetensors"
    _result().save(path)
    _rewrite(path, **arguments)
    with pytest.raises(ValueError, match=r"part\.safetensors holds no complete set"):
        Counterfactuals.load(path)
