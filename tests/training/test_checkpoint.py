"""A training that was interrupted ends where one that was not ends, to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

from captum_deduce import datasets, spectral_normalize, storage
from captum_deduce.datasets import ImageData
from captum_deduce.training.checkpoint import describe_function, describe_images, describe_model
from captum_deduce.training.classifiers import train_classifier
from captum_deduce.training.history import TrainingHistory

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {
    "epochs": 4,
    "batch_size": 32,
    "learning_rate": 0.05,
    "noise": 0.3,
    "adversarial": 0.4,
    "augment": v2.RandomCrop(8, padding=1),
    "seed": 3,
}

KILLED = """
import os, signal, sys, torch
from captum_deduce.training import disturbance
from tests.training.test_checkpoint import network, start

noisy, calls = disturbance.noisy, []

def fatal(*arguments):
    calls.append(1)
    if len(calls) == 11:  # the third of four batches of the third epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return noisy(*arguments)

disturbance.noisy = fatal
torch.set_num_threads(int(sys.argv[2]))  # sums of other parts may differ in their last bit
torch.manual_seed(8)
start(network(), sys.argv[1])
"""


def network(seed: int = 0) -> nn.Sequential:
    """All that a training changes or draws besides weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(54, 10),
        )
        spectral_normalize(model[:3], 2.0, example_input=torch.zeros(1, 1, 8, 8))
    return model


def some_digits() -> tuple[ImageData, ImageData]:
    train, validation, _ = datasets.load_digits()
    return train[:140], validation[:50]


def start(model: nn.Module, path: str | Path | None, **changes) -> TrainingHistory:
    train, validation = some_digits()
    given = {**SETTINGS, "validation": validation, "checkpoint": path, **changes}
    return train_classifier(model, given.pop("train", train), **given)


def numbers(history: TrainingHistory) -> list[list[float]]:
    return [history.loss, history.accuracy, history.validation_accuracy]


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[nn.Module, TrainingHistory, Path]:
    """Four epochs at once."""
    path, model = tmp_path_factory.mktemp("whole") / "whole.safetensors", network()
    with torch.random.fork_rng():
        torch.manual_seed(8)
        history = start(model, path)
    return model, history, path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "new" / "training.safetensors"


@pytest.fixture
def half(path) -> Path:
    """A file after two of four epochs."""
    start(network(), path, epochs_now=2)
    return path


# --- to the bit ---


def test_a_file_changes_nothing_of_a_training(uninterrupted):
    model = network()
    torch.manual_seed(8)
    history = start(model, None)
    assert_same(model, uninterrupted[0])
    assert numbers(history) == numbers(uninterrupted[1])
    assert len(history.loss) == len(history.validation_accuracy) == 4


def test_a_process_that_was_killed_goes_on_as_if_it_had_not_been(path, uninterrupted):
    words = [sys.executable, "-c", KILLED, path, str(torch.get_num_threads())]
    run = subprocess.run(words, cwd=ROOT, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    model = network(seed=5)  # other weights, which the file's replace
    torch.manual_seed(99)
    before = torch.get_rng_state()
    history = start(model, path)
    assert torch.equal(torch.get_rng_state(), before)
    expected, of_all, whole = uninterrupted
    assert_same(model, expected)
    assert numbers(history) == numbers(of_all)
    assert len(history.seconds) == 4
    tensors, others = (storage.read(each, "training")[0] for each in (path, whole))
    assert sorted(tensors) == sorted(others)
    assert any(name.startswith("momentum.") for name in tensors)
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


def test_ctrl_c_in_an_epoch_goes_on_from_the_epoch_before(path, uninterrupted):
    batches = []

    def interrupt(module, inputs):
        batches.extend(inputs * module.training)
        if len(batches) == 11:
            raise KeyboardInterrupt

    model = network()
    hook = model.register_forward_pre_hook(interrupt)
    torch.manual_seed(8)
    with pytest.raises(KeyboardInterrupt):
        start(model, path)
    hook.remove()
    history = start(model, path)
    assert_same(model, uninterrupted[0])
    assert numbers(history) == numbers(uninterrupted[1])


def test_a_training_in_parts_of_an_epoch_each(path, uninterrupted):
    torch.manual_seed(8)
    for done in (1, 2, 3, 4):
        model = network(seed=done - 1)
        history = start(model, path, epochs_now=1)
        assert len(history.loss) == len(history.seconds) == done
    assert_same(model, uninterrupted[0])
    assert numbers(history) == numbers(uninterrupted[1])


def test_a_finished_training_returns_at_once(uninterrupted):
    expected, of_all, path = uninterrupted
    content, model = path.read_bytes(), network(seed=4)
    model[0].register_forward_hook(lambda *_: pytest.fail("computed"))
    history = start(model, path)
    assert_same(model, expected)
    assert history == of_all
    assert path.read_bytes() == content
    assert all(part.training for part in model.modules())


def test_momentum_and_validation_may_be_none(path):
    other = {"momentum": 0.0, "validation": None, "augment": None}
    torch.manual_seed(8)
    whole = network()
    expected = start(whole, None, **other)
    torch.manual_seed(8)
    start(network(), path, **other, epochs_now=3)
    model = network(1)
    history = start(model, path, **other)
    assert_same(model, whole)
    assert numbers(history) == numbers(expected)
    assert history.validation_accuracy == []


# --- files of others ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 5}, "epochs 4 there, 5 here"),
        ({"batch_size": 16}, "batch_size 32 there, 16 here"),
        ({"learning_rate": 0.1}, r"learning_rate 0\.05 there, 0\.1 here"),
        ({"momentum": 0.5}, r"momentum 0\.9 there, 0\.5 here"),
        ({"weight_decay": 0.0}, r"weight_decay 0\.0005 there, 0\.0 here"),
        ({"schedule": "steps"}, "schedule one-cycle there, steps here"),
        ({"noise": 0}, r"noise 0\.3 there, 0\.0 here"),
        ({"adversarial": 1.5}, r"adversarial 0\.4 there, 1\.5 here"),
        ({"bfloat16": True}, "bfloat16 False there, True here"),
        ({"seed": 4}, "seed 3 there, 4 here"),
        ({"augment": None}, r"augment RandomCrop\(.*padding=\[1, 1, 1, 1\].*there, None here"),
        ({"augment": v2.RandomCrop(8, padding=2)}, r"augment .*\[1, 1, 1, 1\].*\[2, 2, 2, 2\]"),
        ({"validation": None}, r"validation 50 images of 1 x 8 x 8 \(\w+\) there, None here"),
        ({"train": some_digits()[0][:139]}, r"train 140 images of .* there, 139 images of"),
        ({"noise": 0.1, "seed": 4}, "noise .*; seed "),
    ],
    ids=str,
)
def test_other_settings_are_refused_with_both(half, changes, words):
    model, content = network(seed=1), half.read_bytes()
    with pytest.raises(ValueError, match=rf"training\.safetensors is of another training: {words}"):
        start(model, half, **changes)
    assert_same(model, network(seed=1))
    assert half.read_bytes() == content


def test_another_model_is_refused_with_both(half):
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    of = r"Sequential of {} parameters \(\w+\) "
    words = f"model {of.format(622)}there, {of.format(650)}here.*delete this one"
    with pytest.raises(ValueError, match=words):
        start(other, half)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_files_are_refused_by_name(half, size):
    half.write_bytes(half.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"training\.safetensors is truncated"):
        start(network(), half)


def test_files_of_others_are_refused_by_name(path):
    path.parent.mkdir()
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"training\.safetensors holds no training.*'pt'"):
        start(network(), path)


def rewritten(path: Path, tensors=None, drop=(), **words) -> None:
    """The file with other tensors or words, as a program that knows the format might write it."""
    kept, metadata = storage.read(path, "training")
    kept = {name: value for name, value in kept.items() if name not in drop} | (tensors or {})
    history = json.loads(metadata["history"]) | words
    storage.write(path, kept, {**metadata, "history": json.dumps(history)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drop": ["model.5.bias"]}, r"model: 5\.bias stands in one of file and model alone"),
        ({"tensors": {"model.5.bias": torch.zeros(9)}}, r"5\.bias: .*\(9,\).*\(10,\)"),
        ({"tensors": {"model.5.bias": torch.zeros(10).double()}}, r"5\.bias: torch\.float64"),
        ({"tensors": {"momentum.77": torch.zeros(1)}}, "momentum 77 is of none of 6"),
        ({"tensors": {"momentum.0": torch.zeros(1)}}, "momentum 0: "),
        ({"tensors": {"density.0": torch.zeros(1)}}, "density"),
        ({"tensors": {"generator.own": torch.zeros(3, dtype=torch.uint8)}}, ""),
        ({"drop": ["generator.cpu"]}, "cpu"),
        ({"loss": [0.5]}, "its accuracy is no list of a number for each of 1 epochs"),
        ({"loss": [0.5, "a"]}, "its loss is no list"),
        ({"seconds": 2.0}, "its seconds is no list"),
        ({"loss": [0.5, 10**400]}, ""),
        ({"regret": []}, "regret"),
    ],
    ids=str,
)
def test_files_that_do_not_fit_are_refused_by_name(half, changes, words):
    rewritten(half, **changes)
    model = network(seed=1)
    with pytest.raises(
        ValueError, match=rf"training\.safetensors holds no whole training.*{words}"
    ):
        start(model, half)
    assert_same(model, network(seed=1))


# --- places and models that can't be ---


def test_a_place_that_cannot_be_written_costs_a_warning_alone(tmp_path, uninterrupted):
    (tmp_path / "file").write_text("a file")
    torch.manual_seed(8)
    model = network()
    with pytest.warns(UserWarning, match="goes on, but could not be kept in .*training") as warned:
        start(model, tmp_path / "file" / "training.safetensors")
    assert_same(model, uninterrupted[0])
    assert {Path(each.filename).name for each in warned} == {"test_checkpoint.py"}


class Counting(nn.Linear):
    """A layer whose state is more than tensors."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"path": 3}, TypeError, "checkpoint must be a path or None, got int"),
        ({"path": ROOT}, ValueError, "checkpoint must name a file, got the folder"),
        (
            {"model": nn.Sequential(nn.Flatten(), Counting(64, 10))},
            TypeError,
            "the model's state holds 1._extra_state, a dict",
        ),
        ({"path": None, "epochs_now": 1}, ValueError, "epochs_now needs a checkpoint"),
        ({"epochs_now": 0}, ValueError, "epochs_now.*0"),
        ({"epochs_now": 1.5}, TypeError, r"epochs_now.*1\.5"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_any_step(path, arguments, error, words):
    given = {"model": network(), "path": path, **arguments}
    before = [parameter.clone() for parameter in given["model"].parameters()]
    with pytest.raises(error, match=words):
        start(**given)
    for parameter, value in zip(given["model"].parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    assert not path.exists()


# --- descriptions ---


def test_a_model_is_known_by_its_parts_and_not_by_its_weights():
    assert describe_model(network(0)) == describe_model(network(1))
    others = [network() for _ in range(3)]
    others[0][3].p = 0.3
    others[1].double()
    others[2][5].requires_grad_(False)
    assert len({describe_model(each) for each in [network(), *others]}) == 4


def test_images_are_known_by_every_value():
    train, _ = some_digits()
    images, target = train.images.clone(), train.target.clone()
    images[-1, 0, 7, 7] += 1e-3
    target[0] = (target[0] + 1) % 10
    names = train.class_names
    others = [ImageData(images, train.target, names), ImageData(train.images, target, names)]
    assert len({describe_images(each) for each in [train, *others]}) == 3
    assert describe_images(train) == describe_images(some_digits()[0])


def test_functions_are_known_without_where_they_lie():
    assert describe_function(None) is None
    assert describe_function(some_digits) == "<function some_digits>"
    assert describe_function(v2.RandomCrop(8)) == describe_function(v2.RandomCrop(8))
