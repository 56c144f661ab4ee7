"""Files give back what was written, bit by bit, and refuse what is not whole."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture, Counterfactuals, storage
from captum_deduce.zoo.checkpoint import Checkpoint, Settings, load_checkpoint, save_checkpoint
from tests.properties.strategies import (
    Samples,
    normal,
    results,
    same_bits,
    samples,
    seeds,
    uniform,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*(says little|too few samples|chose)")


def there_and_back(written: Any, read: Any, name: str = "it.safetensors") -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        written(path)
        return read(path)


def check_same_result(first: Counterfactuals, second: Counterfactuals) -> None:
    for field in fields(Counterfactuals):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if isinstance(ours, Tensor):
            assert same_bits(ours, theirs), field.name
        elif isinstance(ours, list):
            assert len(ours) == len(theirs)
            assert all(map(same_bits, ours, theirs))
        else:
            assert ours == theirs, field.name


def check_same_state(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert list(ours) == list(theirs)
    assert all(same_bits(tensor, theirs[name]) for name, tensor in ours.items())


@given(results())
def test_a_result_comes_back_bit_by_bit(result):
    check_same_result(result, there_and_back(result.save, Counterfactuals.load))


@given(results(), st.integers(0, 4))
def test_a_result_in_two_parts_is_the_whole(result, cut):
    parts = [part for part in (result[:cut], result[cut:]) if len(part)]
    check_same_result(result, Counterfactuals.concatenate(parts))


@given(results(), st.randoms(use_true_random=False))
def test_a_selection_is_saved_as_it_is_selected(result, random):
    rows = [random.randrange(len(result)) for _ in range(random.randrange(4))]
    chosen = result[rows] if rows else result[:0]
    loaded = there_and_back(chosen.save, Counterfactuals.load)
    check_same_result(chosen, loaded)
    for place, row in enumerate(rows):
        assert same_bits(loaded.inputs[place], result.inputs[row])
        if result.trajectory is not None:
            assert same_bits(loaded.trajectory[place], result.trajectory[row])


@given(results(), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_file_that_is_cut_off_anywhere_is_refused(result, share, of_density):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.safetensors"
        result.save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        read = ClassGaussianMixture.load if of_density else Counterfactuals.load
        with pytest.raises(ValueError, match=r"it\.safetensors"):
            read(path)


@given(results(), st.floats(0, 1, exclude_max=True), st.sampled_from([1, 2, 4, 128]))
def test_a_file_with_a_broken_byte_is_read_whole_or_refused(result, share, flip):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.safetensors"
        result.save(path)
        content = bytearray(path.read_bytes())
        # Within what says what is where: a safetensors file begins with its length.
        described = 8 + int.from_bytes(content[:8], "little")
        content[int(share * described)] ^= flip
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            loaded = Counterfactuals.load(path)
            assert loaded.inputs.shape == loaded.counterfactuals.shape
            assert len(loaded.target) == len(loaded)


types = st.sampled_from(["auto", "full", "low_rank", "tied", "diag", "spherical"])


@given(samples(per_feature=0), types, st.integers(0, 60), st.booleans())
def test_a_density_comes_back_bit_by_bit_and_goes_on_as_it_would_have(found, kind, cut, whole):
    first, second = found.rows(slice(cut)), found.rows(slice(cut, None))
    if not len(first.labels) or not len(second.labels):
        first = second = found
    density = ClassGaussianMixture(kind)
    if whole:
        density.fit(first.features, first.labels, first.weights)
    else:
        density.partial_fit(first.features, first.labels, first.weights)
    loaded = there_and_back(density.save, ClassGaussianMixture.load)
    check_same_state(density, loaded)
    assert same_bits(density.log_probs(found.features), loaded.log_probs(found.features))
    if len(density.log_densities):
        assert same_bits(density.quantile(0.05), loaded.quantile(0.05))
    for each in (density, loaded):
        each.partial_fit(second.features, second.labels, second.weights)
    check_same_state(density, loaded)
    assert same_bits(density.log_probs(found.features), loaded.log_probs(found.features))


@given(samples(weighted=False, per_feature=0), types, st.booleans())
def test_a_density_read_and_merged_is_one_that_was_never_written(found: Samples, kind, single):
    features = found.features.float() if single else found.features
    parts = [slice(0, 5), slice(5, None)]
    kept = [ClassGaussianMixture(kind).partial_fit(features[p], found.labels[p]) for p in parts]
    read = [there_and_back(density.save, ClassGaussianMixture.load) for density in kept]
    for first, second in zip(kept, read, strict=True):
        check_same_state(first, second)
    merged = [first.merge(second) for first, second in (kept, read)]
    check_same_state(*merged)


@given(
    seeds,
    st.integers(1, 3),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.text(max_size=12),
    st.none() | st.floats(0, 1),
)
def test_a_checkpoint_comes_back_bit_by_bit(
    seed, channels, classes, normalised, double, name, accuracy
):
    arguments = {"in_channels": channels, "num_classes": classes, "width": 2, "image_size": 8}
    settings = Settings(
        architecture="sn_resnet18" if normalised else "resnet18",
        arguments=arguments,
        class_names=tuple(f"{name}{index}" for index in range(classes)),
        dataset=name,
        epochs=1,
        seed=seed,
        accuracy=accuracy,
    )
    torch.manual_seed(seed)
    model = settings.build()
    if double:
        model.double()
    features = normal(seed, 30 * classes, 16)
    density = ClassGaussianMixture("diag").fit(features, torch.arange(len(features)) % classes)
    images = uniform(seed, 2, channels, 8, 8).to(next(model.parameters()))
    before = model.eval()(images)
    state = torch.random.get_rng_state()
    checkpoint = Checkpoint(model, density if seed % 3 else None, settings)
    loaded = there_and_back(lambda path: save_checkpoint(path, checkpoint), load_checkpoint)
    assert torch.equal(torch.random.get_rng_state(), state)
    check_same_state(model, loaded.model)
    assert loaded.settings == settings
    assert same_bits(loaded.model(images).detach(), before.detach())
    if checkpoint.density is None:
        assert loaded.density is None
    else:
        check_same_state(density, loaded.density)


@given(
    results(),
    results(),
    st.floats(0, 1),
    st.sampled_from([OSError(28, "No space left"), KeyboardInterrupt(), SafetensorError("no")]),
)
def test_whatever_stops_the_writing_leaves_the_older_file(older, newer, share, error):
    written = storage.tensors.save_file

    def stopped(tensors: Any, path: Path, metadata: Any) -> None:
        written(tensors, path, metadata)
        with path.open("r+b") as file:
            file.truncate(int(share * path.stat().st_size))
        raise error

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.safetensors"
        older.save(path)
        before = path.read_bytes()
        with (
            mock.patch.object(storage.tensors, "save_file", stopped),
            pytest.raises((OSError, KeyboardInterrupt)),
        ):
            newer.save(path)
        assert path.read_bytes() == before
        assert [each.name for each in Path(folder).iterdir()] == ["it.safetensors"]
