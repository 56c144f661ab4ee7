from __future__ import annotations

import re
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from captum_deduce import Counterfactuals
from captum_deduce.commands import demo as demo_command
from captum_deduce.commands.cli import main
from captum_deduce.reports.explained import Explained
from captum_deduce.zoo import classifiers
from captum_deduce.zoo.checkpoint import cache_path, load_checkpoint
from captum_deduce.zoo.recipes import RECIPES, SMOKE, SMOKE_TRAINING_IMAGES

ROW = re.compile(
    r" *(?P<image>\d+) +(?P<label>\d) +(?P<seen>\d) -> (?P<target>\d) +(?P<found>yes|FAILED)"
    r" +(?P<l0>\d+) +(?P<l1>[\d.]+) +(?P<before>[\d.]+) -> (?P<after>[\d.]+) +(?P<steps>\d+)"
)


def rows_of(printed):
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("image "))
    end = lines.index("", start)
    matches = [ROW.fullmatch(line) for line in lines[start + 1 : end]]
    assert all(matches), lines[start:end]
    return [match.groupdict() for match in matches]


def column(rows, name, kind=float):
    return np.array([kind(row[name]) for row in rows])


def test_the_table_says_what_the_file_holds(demo, probabilities):
    rows = rows_of(demo.printed)
    arrays = load_file(demo.folder / "counterfactuals.safetensors")
    change = arrays["counterfactuals"].astype(np.float64) - arrays["inputs"]
    np.testing.assert_array_equal(column(rows, "l0", int), (change != 0).sum((1, 2, 3)))
    np.testing.assert_allclose(column(rows, "l1"), np.abs(change).sum((1, 2, 3)), atol=0.00501)
    np.testing.assert_array_equal(column(rows, "steps", int), arrays["iterations"])
    np.testing.assert_array_equal(column(rows, "target", int), arrays["target"])
    np.testing.assert_array_equal(column(rows, "found", str) == "yes", arrays["success"])

    before, after = probabilities(arrays["inputs"]), probabilities(arrays["counterfactuals"])
    np.testing.assert_array_equal(column(rows, "seen", int), before.argmax(1))
    pair = np.arange(len(rows)), arrays["target"]
    np.testing.assert_allclose(column(rows, "before"), before[pair], atol=0.000501)
    np.testing.assert_allclose(column(rows, "after"), after[pair], atol=0.000501)
    np.testing.assert_array_equal(after[pair] > 0.5, arrays["success"])


def test_the_totals_are_means_over_the_found_pairs(demo):
    rows = [row for row in rows_of(demo.printed) if row["found"] == "yes"]
    count = len(rows_of(demo.printed))
    totals = re.search(
        r"(\d+) of (\d+) found; means over those found: L0 ([\d.]+), L1 ([\d.]+), "
        r"p\(target\) ([\d.]+), ([\d.]+) steps\n([\d.]+) s in all, ([\d.]+) s per counterfactual",
        demo.printed,
    )
    found, pairs, l0, l1, after, steps, seconds, each = map(float, totals.groups())
    assert (found, pairs) == (len(rows), count)
    assert l0 == pytest.approx(column(rows, "l0").mean(), abs=0.0501)
    assert l1 == pytest.approx(column(rows, "l1").mean(), abs=0.0101)
    assert after == pytest.approx(column(rows, "after").mean(), abs=0.00101)
    assert steps == pytest.approx(column(rows, "steps").mean(), abs=0.0501)
    assert each == pytest.approx(seconds / count, abs=0.001)


def test_mistakes_become_their_true_class_and_a_right_image_every_other(
    demo, digit_images, probabilities
):
    rows = rows_of(demo.printed)
    index = column(rows, "image", int)
    labels = digit_images.target.numpy()
    np.testing.assert_array_equal(column(rows, "label", int), labels[index])
    result = Counterfactuals.load(demo.folder / "counterfactuals.safetensors")
    assert torch.equal(result.inputs, digit_images.images[torch.from_numpy(index)])

    wrong = (probabilities(digit_images.images).argmax(1) != labels).nonzero()[0]
    mistakes = [row for row in rows if row["seen"] != row["label"]]
    right = [row for row in rows if row["seen"] == row["label"]]
    assert [int(row["image"]) for row in mistakes] == list(wrong[: SMOKE.images])
    assert all(row["target"] == row["label"] for row in mistakes)
    assert {row["image"] for row in right} == {right[0]["image"]}
    others = [str(digit) for digit in range(10) if str(digit) != right[0]["label"]]
    assert [row["target"] for row in right] == others
    assert f"{len(wrong)} of 500 test images are misclassified" in demo.printed
    accuracy = 1 - len(wrong) / 500
    assert f"{accuracy:.2%} of 500 test images right" in demo.printed


def test_pictures_and_the_file_are_written_and_named(demo):
    expected = {"mistakes.png", "right-1.png", "counterfactuals.safetensors"}
    assert {path.name for path in demo.folder.iterdir()} == expected
    listed = demo.printed.split("Written:\n")[1].splitlines()[:3]
    assert {line.strip() for line in listed} == {str(demo.folder / name) for name in expected}
    for name, least_width, least_height in (("mistakes.png", 600, 600), ("right-1.png", 1200, 200)):
        with Image.open(demo.folder / name) as picture:
            width, height = picture.size
            colors = picture.convert("RGB").getcolors(width * height)
        assert width >= least_width
        assert height >= least_height
        assert len(colors) > 20


def test_the_printed_command_explains_with_the_cached_classifier(demo, tmp_path, digit_images):
    assert f"Kept for the next time in {demo.path}" in demo.printed
    words = demo.printed.splitlines()[-1].split()
    assert words[:4] == ["captum-deduce", "explain", "--checkpoint", str(demo.path)]
    pixels = (digit_images.images[0, 0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    filled = {"IMAGE.png": str(tmp_path / "digit.png"), "CLASS": "1"}
    arguments = [filled.get(word, word) for word in words[1:]]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0


@pytest.fixture
def no_training(monkeypatch):
    """Training is refused; the flag tells whether it was tried."""
    tried = []

    def refuse(*arguments, **keywords):
        tried.append(keywords)
        raise ValueError("training was tried")

    monkeypatch.setattr(classifiers.training, "train_classifier", refuse)
    return tried


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all else."""
    monkeypatch.setattr(Explained, "save_picture", lambda self, path, *rest: None)
    monkeypatch.setattr(demo_command, "plot_grid", lambda *arguments, **keywords: Mock())


def test_a_second_run_reuses_the_classifier_and_finds_the_same(
    demo, tmp_path, capsys, no_training, no_pictures
):
    arguments = ["demo", "--smoke", "--device", "cpu", "--output", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"Reused from {demo.path}" in printed
    assert rows_of(printed) == rows_of(demo.printed)
    first, second = (
        Counterfactuals.load(folder / "counterfactuals.safetensors")
        for folder in (demo.folder, tmp_path)
    )
    assert torch.equal(first.counterfactuals, second.counterfactuals)
    assert not no_training


@pytest.mark.parametrize(
    "other", [["--retrain"], ["--seed", "1"], ["--epochs", "6"], ["--width", "5"]]
)
def test_other_settings_are_trained_anew(demo, tmp_path, no_training, other):
    arguments = ["demo", "--smoke", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*arguments, *other]) == 2
    assert len(no_training) == 1


def test_a_damaged_cache_is_trained_anew(demo, tmp_path, monkeypatch, capsys, no_pictures):
    path = tmp_path / "cache" / demo.path.name
    path.parent.mkdir()
    path.write_bytes(demo.path.read_bytes()[:5000])
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(path.parent))
    monkeypatch.setattr(
        classifiers, "fit_classifier", lambda *arguments, **keywords: demo.checkpoint
    )
    arguments = ["demo", "--smoke", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "is of no use and is trained anew" in capsys.readouterr().out
    assert load_checkpoint(path).settings == demo.checkpoint.settings


def test_a_cache_that_cannot_be_written_loses_nothing_else(
    demo, tmp_path, monkeypatch, capsys, no_pictures
):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        classifiers, "fit_classifier", lambda *arguments, **keywords: demo.checkpoint
    )
    arguments = ["demo", "--smoke", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "could not be kept" in capsys.readouterr().out
    assert (tmp_path / "out" / "counterfactuals.safetensors").is_file()


def test_a_model_without_mistakes_is_said_to_make_none(
    demo, tmp_path, monkeypatch, capsys, digit_images
):
    for name in ("mistakes.png", "right-2.png", "somebody's.png"):
        (tmp_path / name).write_text("of an earlier time")
    right = torch.nn.functional.one_hot(digit_images.target, 10).float()
    monkeypatch.setattr(demo_command, "predict", lambda model, images: right)
    assert main(["demo", "--smoke", "--device", "cpu", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "None of the 500 test images is misclassified" in printed
    assert len(rows_of(printed)) == 9
    assert {path.name for path in tmp_path.iterdir()} == {
        "right-1.png",
        "counterfactuals.safetensors",
        "somebody's.png",
    }


def test_no_mistakes_wanted_leaves_no_picture_of_them(demo, tmp_path, capsys):
    (tmp_path / "mistakes.png").write_text("of an earlier time")
    words = ["demo", "--smoke", "--device", "cpu", "--images", "0", "--output", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d+ of 500 test images are misclassified; none of them are turned", printed)
    assert len(rows_of(printed)) == 9
    assert {path.name for path in tmp_path.iterdir()} == {
        "right-1.png",
        "counterfactuals.safetensors",
    }
    assert "mistakes.png" not in printed


def test_nothing_to_explain_is_said(demo, tmp_path, capsys, monkeypatch, digit_images):
    wrong = torch.nn.functional.one_hot((digit_images.target + 1) % 10, 10).float()
    monkeypatch.setattr(demo_command, "predict", lambda model, images: wrong)
    words = ["demo", "--smoke", "--device", "cpu", "--images", "0", "--output", str(tmp_path)]
    assert main(words) == 2
    assert "--images 0 leaves nothing to explain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "dataset", "recipe", "size"),
    [
        (["--smoke"], f"mnist-{SMOKE_TRAINING_IMAGES}", SMOKE, SMOKE_TRAINING_IMAGES),
        ([], "mnist", RECIPES["mnist"], 1200),
    ],
)
def test_mnist_has_its_own_recipe_and_the_smallest_run_part_of_its_images(
    small_mnist, tmp_path, monkeypatch, options, dataset, recipe, size
):
    seen = []

    def record(settings, splits, batch_size, device, show_progress, **keywords):
        seen.append((settings, len(splits.train), batch_size))
        raise ValueError("enough")

    monkeypatch.setattr(classifiers, "fit_classifier", record)
    arguments = ["demo", "--dataset", "mnist", "--data-root", str(small_mnist), *options]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    ((settings, count, batch_size),) = seen
    assert (count, batch_size) == (size, recipe.batch_size)
    assert (settings.dataset, settings.epochs) == (dataset, recipe.epochs)
    assert settings.arguments["width"] == recipe.width
    assert settings.arguments["image_size"] == [28, 28]
    assert cache_path(settings).name.startswith(f"{dataset}-sn_resnet18-")


@pytest.mark.slow
def test_the_demo_runs_on_mnist_files(small_mnist, tmp_path, capsys):
    arguments = ["demo", "--dataset", "mnist", "--data-root", str(small_mnist), "--smoke"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    rows = rows_of(capsys.readouterr().out)
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    assert result.inputs.shape == (len(rows), 1, 28, 28)
    assert result.success.float().mean() > 0.5


@pytest.mark.slow
def test_the_demo_as_it_comes_explains_all_mistakes_on_digits(tmp_path, capsys):
    assert main(["demo", "--device", "cpu", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    mistakes = int(re.search(r"(\d+) of 500 test images are misclassified; all", printed)[1])
    assert 1 <= mistakes <= 30
    rows = rows_of(printed)
    assert len(rows) == mistakes + 18
    assert all(row["found"] == "yes" for row in rows[:mistakes])
