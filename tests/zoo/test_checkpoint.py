"""Checkpoints come back bit for bit, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from captum_deduce import ClassGaussianMixture
from captum_deduce._version import __version__
from captum_deduce.storage import tensors as tensor_files
from captum_deduce.zoo.checkpoint import (
    Checkpoint,
    Settings,
    cache_path,
    load_checkpoint,
    save_checkpoint,
    training_path,
)

ARGUMENTS = {"in_channels": 2, "num_classes": 3, "width": 2, "coeff": 1.5, "image_size": [8, 9]}
SETTINGS = Settings(
    architecture="sn_resnet18",
    arguments=ARGUMENTS,
    class_names=("cat", "dog", "fox"),
    dataset="animals",
    epochs=4,
    seed=11,
    accuracy=0.75,
)


def trained(settings: Settings = SETTINGS) -> nn.Module:
    """A model none of whose tensors is that of a new one: weights, statistics, vectors."""
    model = settings.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) * 3)
        model.train()(torch.rand(4, 2, 8, 9))
    return model


def fitted(**arguments) -> ClassGaussianMixture:
    features = torch.randn(240, 16) + torch.arange(240)[:, None] % 3
    return ClassGaussianMixture(**arguments).fit(features, torch.arange(240) % 3)


def assert_same_tensors(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# --- round trips ---


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_classifier_density_and_settings_come_back(path, covariance_type):
    model, density = trained(), fitted(covariance_type=covariance_type)
    save_checkpoint(path, Checkpoint(model, density, SETTINGS))
    loaded = load_checkpoint(path)
    assert loaded.settings == SETTINGS
    assert_same_tensors(model, loaded.model)
    assert_same_tensors(density, loaded.density)
    images, features = torch.rand(3, 2, 8, 9), torch.randn(3, 16)
    torch.testing.assert_close(loaded.model(images), model.eval()(images), rtol=0, atol=0)
    torch.testing.assert_close(
        loaded.density.log_probs(features), density.log_probs(features), rtol=0, atol=0
    )
    torch.testing.assert_close(loaded.density.quantile(0.1), density.quantile(0.1))


def test_how_the_density_is_regularised_comes_back(path):
    density = fitted(regularization="oas")
    save_checkpoint(path, Checkpoint(trained(), density, SETTINGS))
    features = torch.randn(3, 16)
    torch.testing.assert_close(
        load_checkpoint(path).density.log_probs(features), density.log_probs(features)
    )


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "sn_resnet18", "sn_resnet50"])
def test_every_architecture_comes_back_in_eval_mode_and_without_a_density(path, architecture):
    arguments = {key: value for key, value in ARGUMENTS.items() if key != "coeff"}
    settings = replace(SETTINGS, architecture=architecture, arguments=arguments)
    model = trained(settings)
    save_checkpoint(path, Checkpoint(model, None, settings))
    loaded = load_checkpoint(path)
    assert loaded.density is None
    assert not any(module.training for module in loaded.model.modules())
    assert_same_tensors(model, loaded.model)


def test_float64_weights_are_not_rounded(path):
    model = trained().double()
    with torch.no_grad():
        model.fc.weight.add_(1e-12)
    save_checkpoint(path, Checkpoint(model, None, SETTINGS))
    assert_same_tensors(model, load_checkpoint(path).model)


def test_loaded_classifiers_can_be_trained_on(path):
    save_checkpoint(path, Checkpoint(trained(), None, SETTINGS))
    model = load_checkpoint(path).model.train()
    model(torch.rand(4, 2, 8, 9)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loading_leaves_torchs_global_generator_alone(path):
    save_checkpoint(path, Checkpoint(trained(), fitted(), SETTINGS))
    before = torch.get_rng_state()
    load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_that_share_memory_are_stored(path):
    model = trained()
    model.fc.bias = nn.Parameter(model.fc.weight.detach()[:, 0])
    save_checkpoint(path, Checkpoint(model, None, SETTINGS))
    assert_same_tensors(model, load_checkpoint(path).model)


def test_the_metadata_say_what_the_file_is(path):
    save_checkpoint(path, Checkpoint(trained(), fitted(), SETTINGS))
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert metadata["format"] == "captum-deduce checkpoint"
    assert json.loads(metadata["settings"])["class_names"] == ["cat", "dog", "fox"]
    assert {name.split(".")[0] for name in names} == {"classifier", "density"}


# --- writing ---


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "some" / "where" / "model.safetensors"
    save_checkpoint(path, Checkpoint(trained(), None, SETTINGS))
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_older_file(path, monkeypatch, error):
    model = trained()
    save_checkpoint(path, Checkpoint(model, None, SETTINGS))

    def half_written(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(tensor_files, "save_file", half_written)
    with pytest.raises(error):
        save_checkpoint(path, Checkpoint(trained(), None, SETTINGS))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert_same_tensors(model, load_checkpoint(path).model)


# --- what is no checkpoint ---


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_truncated_files_are_refused_by_name(path, size):
    save_checkpoint(path, Checkpoint(trained(), fitted(), SETTINGS))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        load_checkpoint(path)


def test_files_of_others_are_refused_by_name(path):
    path.write_bytes(b"\x80\x02}q\x00." * 100)
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not a safetensors"):
        load_checkpoint(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, path, metadata)
        with pytest.raises(ValueError, match=r"model\.safetensors is not a checkpoint"):
            load_checkpoint(path)


def rewritten(path: Path, *, without: str = "", **metadata: str) -> None:
    """Write a good checkpoint again with other metadata, or without some tensors."""
    save_checkpoint(path, Checkpoint(trained(), fitted(), SETTINGS))
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() | metadata
    del metadata["crc32"]  # of what was there
    if without:
        tensors = {name: tensor for name, tensor in tensors.items() if without not in name}
    save_file(tensors, path, metadata)


def settings_json(**changes) -> str:
    values = {**vars(SETTINGS), **changes}
    return json.dumps({key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": "2"}, "format version 2.*this is .*reads version 1"),
        ({"settings": "{"}, "no complete checkpoint"),
        ({"settings": "[]"}, "no complete checkpoint"),
        ({"settings": settings_json(class_names=None)}, "no complete checkpoint.*class_names"),
        ({"settings": settings_json(colour="red")}, "no complete checkpoint.*colour"),
        ({"settings": settings_json(architecture="vit")}, "architecture.*'sn_resnet18'.*'vit'"),
        ({"settings": settings_json(arguments={"depth": 3})}, "depth"),
        ({"settings": settings_json(arguments=ARGUMENTS | {"width": 3})}, "size mismatch"),
        ({"settings": settings_json(arguments=ARGUMENTS | {"width": 0})}, "width"),
        ({"covariance_type": "round"}, "covariance_type.*'round'"),
        ({"without": "classifier.fc.weight"}, "fc.weight"),
        ({"without": "density."}, "no complete checkpoint"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(path, changes, words):
    rewritten(path, **changes)
    with pytest.raises(ValueError, match=rf"(?s)model\.safetensors .*{words}"):
        load_checkpoint(path)


def test_unknown_architectures_are_refused_when_settings_are_made():
    with pytest.raises(ValueError, match=r"architecture must be one of .*'resnet18'.*'vit'"):
        replace(SETTINGS, architecture="vit")


# --- the cache ---


def test_cached_files_are_named_by_everything_that_makes_a_model(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    path = cache_path(SETTINGS)
    assert path.parent == tmp_path
    assert path.name.startswith("animals-sn_resnet18-")
    assert path.suffix == ".safetensors"
    assert cache_path(replace(SETTINGS)) == path
    assert cache_path(replace(SETTINGS, accuracy=0.5)) == path
    reordered = dict(reversed(ARGUMENTS.items()))
    assert cache_path(replace(SETTINGS, arguments=reordered)) == path
    others = [
        replace(SETTINGS, seed=12),
        replace(SETTINGS, epochs=5),
        replace(SETTINGS, noise=0.5),
        replace(SETTINGS, adversarial=0.5),
        replace(SETTINGS, bfloat16=True),
        replace(SETTINGS, augmentation="crops"),
        replace(SETTINGS, augmentation="crops and flips"),
        replace(SETTINGS, layer="stages"),
        replace(SETTINGS, dataset="digits"),
        replace(SETTINGS, architecture="sn_resnet50"),
        replace(SETTINGS, class_names=("dog", "cat", "fox")),
        replace(SETTINGS, arguments=ARGUMENTS | {"width": 4}),
    ]
    paths = {path, *map(cache_path, others)}
    assert len(paths) == len(others) + 1


def test_classifiers_that_were_kept_before_are_still_found(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    known = dict(vars(SETTINGS)) | {"accuracy": None, "captum_deduce": __version__}
    for later in ("noise", "augmentation", "adversarial", "bfloat16"):
        del known[later]
    words = json.dumps(known, sort_keys=True).encode()
    digits = hashlib.sha256(words).hexdigest()[:16]
    assert cache_path(SETTINGS).name == f"animals-sn_resnet18-{digits}.safetensors"


def test_an_unfinished_training_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    paths = [training_path(SETTINGS, 64), training_path(SETTINGS, 128), cache_path(SETTINGS)]
    paths.append(training_path(replace(SETTINGS, adversarial=1), 64))
    assert len(set(paths)) == 4
    assert training_path(replace(SETTINGS, accuracy=0.1), 64) == paths[0]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"augmentation": "mixup"}, ValueError, "augmentation must be one of .*'mixup'"),
        ({"adversarial": -1}, ValueError, "adversarial.*-1"),
        ({"adversarial": "much"}, TypeError, "adversarial.*'much'"),
        ({"bfloat16": "yes"}, TypeError, "bfloat16.*'yes'"),
    ],
)
def test_trainings_that_there_are_not_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("names", [{"cat": 0, "dog": 1, "fox": 2}, {"cat", "dog", "fox"}])
def test_names_without_an_order_are_refused(names):
    with pytest.raises(TypeError, match="class_names must be a tuple"):
        replace(SETTINGS, class_names=names)
