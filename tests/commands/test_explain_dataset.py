from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce import Counterfactuals
from captum_deduce.bulk import read
from captum_deduce.commands import main

pytest.importorskip("pyarrow")

QUICK = ("--step-size", 0.5, "--max-iterations", 10)


@pytest.fixture
def explain_dataset(demo, tmp_path, capsys):
    """Run the command; return the run, what was printed, and what was said of mistakes."""

    def run(*arguments, status=0, source=("--checkpoint", demo.path)):
        words = ["explain-dataset", "--device", "cpu", *source, "--output", tmp_path / "out"]
        assert main([str(word) for word in [*words, *arguments]]) == status
        captured = capsys.readouterr()
        return read(tmp_path / "out") if status < 2 else None, captured.out, captured.err

    return run


def test_every_mistake_of_a_named_data_set(explain_dataset, demo, digit_images, probabilities):
    run, printed, _ = explain_dataset("--data", "digits", *QUICK)
    predicted = probabilities(digit_images.images).argmax(1)
    mistakes = np.flatnonzero(predicted != digit_images.target.numpy())
    table = run.table()
    assert table["index"].tolist() == mistakes.tolist()
    assert table["target"].tolist() == digit_images.target[mistakes].tolist()
    assert run.class_names == [str(digit) for digit in range(10)]
    found = int(table["success"].sum())
    assert f"500 images: {len(mistakes)} pairs, {found} counterfactuals found" in printed
    result = run.counterfactuals(dataset=digit_images)
    assert isinstance(result, Counterfactuals)
    seen = probabilities(result.counterfactuals).argmax(1)
    assert (seen == result.target.numpy())[result.success.numpy()].all()


@pytest.fixture
def class_folders(tmp_path, digit_images):
    """Test digits as PNG files of 16 x 16 pixels, three in a folder of each class."""
    for digit in range(10):
        folder = tmp_path / "data" / str(digit)
        folder.mkdir(parents=True)
        own = digit_images.images[digit_images.target == digit][:3, 0]
        for number, pixels in enumerate((own.numpy() * 255).round().astype(np.uint8)):
            large = Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST)
            large.save(folder / f"{number}.png")
    return tmp_path / "data"


def test_a_folder_for_each_class(explain_dataset, class_folders):
    words = ["--data", class_folders, "--resize", "--only", "all", "--targets", "runner-up", *QUICK]
    run, _, _ = explain_dataset(*words, "--shard-size", 10, "--store-images")
    table = run.table()
    assert table["label"].tolist() == [digit for digit in range(10) for _ in range(3)]
    assert (table["target"] != table["prediction"]).all()
    assert len(run.shards) == 3
    assert run.counterfactuals().inputs.shape == (30, 1, 8, 8)


def test_a_file_that_is_no_image_is_told_and_the_status_says_so(explain_dataset, class_folders):
    (class_folders / "3" / "1.png").write_text("no image", encoding="utf-8")
    words = ["--data", class_folders, "--resize", "--only", "all", *QUICK]
    run, printed, said = explain_dataset(*words, status=1)
    assert "30 images: 29 pairs" in printed
    assert "1 row(s) of images that could not be explained; the first, image 10: " in said
    assert "no image that can be read" in said
    assert run.failures == 1
    # So it does when there is nothing left to do.
    _, again, _ = explain_dataset(*words, status=1)
    assert again == printed


def test_images_of_another_size_are_told_one_by_one(explain_dataset, class_folders, tmp_path):
    small = Image.fromarray(np.zeros((8, 8), dtype=np.uint8))
    small.save(class_folders / "0" / "0.png")
    run, _, said = explain_dataset("--data", class_folders, "--only", "all", status=1)
    assert run.failures == 29
    assert "Pass --resize to scale them" in said


def test_images_without_labels(explain_dataset, class_folders):
    flat = class_folders / "7"
    words = ["--data", flat, "--resize", *QUICK]
    _, _, said = explain_dataset(*words, status=2)
    assert "--data must hold a folder of images for each class" in said
    run, _, _ = explain_dataset(*words, "--only", "all", "--targets", "all")
    assert len(run) == 27
    assert run.table()["label"].isna().all()


def test_other_settings_are_refused_in_the_words_of_the_command(explain_dataset, class_folders):
    words = ["--data", class_folders, "--resize", *QUICK]
    explain_dataset(*words)
    _, _, said = explain_dataset(*words, "--confidence", 0.9, status=2)
    assert "--output must be the folder of a run with the same settings" in said
    assert "(--overwrite deletes it)" in said
    assert "confidence: 0.5 there, 0.9 now" in said
    run, printed, _ = explain_dataset(*words, "--confidence", 0.9, "--overwrite")
    assert printed.startswith("Deleted in ")
    assert run.manifest["explainer"]["confidence"] == 0.9


def test_mistakes_in_what_was_given(explain_dataset, tmp_path):
    _, _, said = explain_dataset("--data", "nowhere", status=2)
    assert "--data must be digits, mnist, cifar10 or a folder of images, got nowhere" in said
    (tmp_path / "folders" / "zebra").mkdir(parents=True)
    _, _, said = explain_dataset("--data", tmp_path / "folders", status=2)
    assert "folders that are named as the classifier's 10 classes (0, 1, 2" in said
    assert "got zebra" in said


def test_a_torchvision_classifier_of_colour_photographs(explain_dataset, tmp_path):
    """At 224 x 224, with folders in alphabetical order where classes have no names."""
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_file(squeezenet1_1(num_classes=2).state_dict(), weights)
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        pixels = noise.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pets" / name / "0.png")
    source = ["--weights", weights, "--architecture", "torchvision:squeezenet1_1"]
    source += ["--num-classes", 2, "--mean", 0.5, "--std", 0.25]
    words = ["--data", tmp_path / "pets", "--only", "all", "--targets", "runner-up"]
    run, printed, _ = explain_dataset(
        *words, "--max-iterations", 2, "--store-images", source=source
    )
    assert "Class folders are taken as the classes in alphabetical order" in printed
    table = run.table()
    assert table["label"].tolist() == [0, 1]
    assert run.shape == (3, 224, 224)
    assert run.counterfactuals().inputs.shape == (2, 3, 224, 224)
