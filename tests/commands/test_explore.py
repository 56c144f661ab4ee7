from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from captum_deduce import datasets
from captum_deduce.bulk import explain_dataset
from captum_deduce.commands import explore, main
from captum_deduce.zoo import make_explainer


@pytest.fixture
def opened(monkeypatch):
    """What the page would be opened with, without one."""
    calls = []

    def record(explainers, images, labels, class_names, **settings):
        calls.append(
            SimpleNamespace(
                explainers=explainers, images=images, labels=labels, names=class_names, **settings
            )
        )
        return SimpleNamespace(url="http://here", wait=lambda: None, close=lambda: None)

    monkeypatch.setattr(explore, "explore", record)
    monkeypatch.setattr(explore, "require_gradio", lambda: None)
    return calls


def same_as_in_python(call, name: str, row: int) -> None:
    """The lines of Python make these images, and an explainer that finds the same."""
    known: dict = {}
    exec(compile(call.code.setup, "setup", "exec"), known)
    images = eval(call.code.images, known)
    assert torch.equal(images, call.images)
    explainer = eval(call.code.explainers[name], known)
    assert repr(explainer) == repr(call.explainers[name])
    chosen = images[row : row + 1]
    with torch.no_grad():
        assert torch.equal(
            explainer.forward_func(chosen), call.explainers[name].forward_func(chosen)
        )


def test_a_checkpoint_is_explored_on_its_data_set(demo, opened, capsys):
    words = ["explore", "--checkpoint", str(demo.path), "--device", "cpu", "--max-searches", "3"]
    assert main(words) == 0
    (call,) = opened
    assert call.max_searches == 3
    test = datasets.load("digits", seed=0).test
    assert torch.equal(call.images, test.images)
    assert torch.equal(call.labels, test.target)
    assert {"DeDUCE", "DeDUCE, closest", "JSMA", "Wachter"} <= set(call.explainers)
    assert set(call.code.explainers) == set(call.explainers)
    for name in call.explainers:
        same_as_in_python(call, name, 3)
    assert "http://here" in capsys.readouterr().out
    assert call.password is None


def test_a_run_brings_its_images_labels_and_costs(demo, opened, tmp_path):
    pytest.importorskip("pyarrow")
    test = datasets.load("digits", seed=0).test[:30]
    run = explain_dataset(
        make_explainer(demo.checkpoint), test, tmp_path / "run", store_images=True
    )
    words = ["explore", "--checkpoint", str(demo.path), "--run", str(tmp_path / "run")]
    assert main([*words, "--device", "cpu"]) == 0
    (call,) = opened
    table = run.table()
    assert len(call.images) == len(call.costs) == table["index"].nunique()
    assert torch.equal(call.images, test.images[table["index"].drop_duplicates().tolist()])
    found = table["success"].fillna(False).to_numpy(bool)
    assert np.array_equal(~call.costs.isnan().numpy(), found)
    np.testing.assert_allclose(call.costs.numpy()[found], table["l1"][found].astype(float))
    same_as_in_python(call, "JSMA", 0)


def test_images_in_folders_called_as_classes_have_labels(demo, opened, tmp_path):
    for name in ("3", "7"):
        (tmp_path / name).mkdir()
        levels = np.full((8, 8), 10 * int(name), np.uint8)
        Image.fromarray(levels).save(tmp_path / name / "a.png")
    words = ["explore", "--checkpoint", str(demo.path), "--device", "cpu"]
    assert main([*words, "--images", str(tmp_path)]) == 0
    (call,) = opened
    assert call.labels.tolist() == [3, 7]
    assert (call.images[:, 0, 0, 0] * 255).tolist() == pytest.approx([30, 70])
    same_as_in_python(call, "JSMA", 0)


def test_a_torchvision_classifier_is_explored(opened, tmp_path):
    torch.manual_seed(0)
    classifier = models.resnet18(num_classes=4)
    save_file(classifier.state_dict(), tmp_path / "w.safetensors")
    levels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    words = ["explore", "--weights", str(tmp_path / "w.safetensors"), "--num-classes", "4"]
    words += ["--architecture", "torchvision:resnet18", "--mean", "0.4", "--std", "0.2"]
    words += ["--size", "64", "--images", str(tmp_path / "a.png"), "--device", "cpu"]
    assert main(words) == 0
    (call,) = opened
    assert call.images.shape == (1, 3, 64, 64)
    assert call.labels is None
    for name in call.explainers:
        same_as_in_python(call, name, 0)


def test_others_can_reach_the_page_only_with_a_password(demo, opened, monkeypatch, capsys):
    words = ["explore", "--checkpoint", str(demo.path), "--device", "cpu", "--host", "0.0.0.0"]
    monkeypatch.setattr(sys, "stdin", None)
    assert main(words) == 2
    assert "CAPTUM_DEDUCE_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("CAPTUM_DEDUCE_PASSWORD", "sesame")
    assert main(words) == 0
    assert opened[0].password == "sesame"
    assert not opened[0].open_browser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "a.png", "--run", "r"], "--images and --run exclude one another"),
        (["--size", "32"], "--checkpoint says all of its classifier"),
        (["--images", "nowhere"], "no image at nowhere"),
        (["--run", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(demo, opened, words, message, capsys):
    assert main(["explore", "--checkpoint", str(demo.path), "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
    assert not opened
