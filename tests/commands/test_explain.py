from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from captum_deduce import ClassGaussianMixture, Counterfactuals, DeDUCE
from captum_deduce.commands.cli import main
from captum_deduce.commands.subjects import input_shape
from captum_deduce.reports.explained import Explained
from captum_deduce.zoo.checkpoint import Checkpoint, Settings, load_checkpoint, save_checkpoint

ROW = re.compile(
    r"(?P<image>\S+) +(?P<seen>\d) -> (?P<target>\d) +(?P<found>yes|already|FAILED) +(?P<l0>\d+)"
    r" +(?P<l1>[\d.]+) +(?P<before>[\d.]+) -> (?P<after>[\d.]+) +(?P<steps>\d+)"
    r" +(?P<rounded>\d) \((?P<certainty>[\d.]+)\) +(?P<kept>yes|NO|-)"
)


def rows_of(printed):
    lines = printed.splitlines()
    matches = [ROW.fullmatch(line) for line in lines[1 : lines.index("")]]
    assert all(matches), printed
    return [match.groupdict() for match in matches]


@pytest.fixture
def pictures(monkeypatch):
    """The comparisons that would be drawn, which takes longer than all else."""
    paths = []
    monkeypatch.setattr(Explained, "save_picture", lambda self, path, rows: paths.append(path))
    return paths


@pytest.fixture
def explain(demo, tmp_path, capsys, pictures):
    """Run the command on images, without drawing; return its rows and what it printed."""

    def run(*arguments, images, checkpoint=demo.path, status=0):
        words = ["explain", "--device", "cpu", "--checkpoint", checkpoint, "--images", *images]
        words += ["--output", tmp_path / "out", *arguments]
        assert main([str(word) for word in words]) == status
        captured = capsys.readouterr()
        if status:
            assert captured.out == ""
            (line,) = captured.err.splitlines()
            assert line.startswith("captum-deduce: error: ")
            assert not (tmp_path / "out").exists()
            return None, line
        return rows_of(captured.out), captured.out

    return run


@pytest.fixture
def digit_files(tmp_path, digit_images):
    """PNG files of four test digits, and their labels."""
    paths = []
    for row in range(4):
        levels = (digit_images.images[row, 0].numpy() * 255).round().astype(np.uint8)
        paths.append(tmp_path / f"digit{row}.png")
        Image.fromarray(levels).save(paths[-1])
    return paths, digit_images.target[:4].tolist()


def levels_of(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


@pytest.mark.parametrize("options", [[], ["--step-size", "0.07"]])
def test_what_is_reported_is_what_the_files_hold(
    explain, digit_files, tmp_path, probabilities, options
):
    paths, labels = digit_files
    targets = [(label + 3) % 10 for label in labels]
    rows, _ = explain("--target", *targets, *options, images=paths)
    arrays = load_file(tmp_path / "out" / "counterfactuals.safetensors")
    originals = np.stack([levels_of(path) for path in paths])[:, None]
    np.testing.assert_array_equal(arrays["inputs"], (originals / 255).astype(np.float32))

    change = arrays["counterfactuals"].astype(np.float64) - arrays["inputs"]
    before, after = probabilities(arrays["inputs"]), probabilities(arrays["counterfactuals"])
    written = [
        levels_of(tmp_path / "out" / f"{path.stem}-to-{target}.png")
        for path, target in zip(paths, targets, strict=True)
    ]
    unrounded = arrays["counterfactuals"][:, 0].astype(np.float64) * 255
    np.testing.assert_array_equal(np.stack(written), np.floor(unrounded + 0.5))
    rounded = probabilities(np.stack(written)[:, None] / 255)
    for i, row in enumerate(rows):
        target = targets[i]
        assert (row["image"], int(row["target"])) == (paths[i].name, target)
        assert int(row["seen"]) == before[i].argmax()
        assert int(row["l0"]) == (change[i] != 0).sum()
        assert float(row["l1"]) == pytest.approx(np.abs(change[i]).sum(), abs=0.0051)
        assert float(row["before"]) == pytest.approx(before[i, target], abs=0.00051)
        assert float(row["after"]) == pytest.approx(after[i, target], abs=0.00051)
        assert int(row["steps"]) == arrays["iterations"][i]
        assert (row["found"] == "yes") == (after[i, target] > 0.5) == arrays["success"][i]
        assert int(row["rounded"]) == rounded[i].argmax()
        assert float(row["certainty"]) == pytest.approx(rounded[i].max(), abs=0.00051)
        kept = "yes" if rounded[i].argmax() == target else "NO"
        assert row["kept"] == (kept if row["found"] == "yes" else "-")
    assert any(row["kept"] == "yes" for row in rows)


def test_every_file_is_named_and_the_comparisons_are_pictures(demo, digit_files, tmp_path, capsys):
    paths, _ = digit_files
    words = ["explain", "--checkpoint", demo.path, "--images", *paths[:2], "--target", "1"]
    words += ["--max-iterations", "2"]
    assert main([str(word) for word in [*words, "--output", tmp_path / "out"]]) == 0
    printed = capsys.readouterr().out
    names = {f"{path.stem}-to-1{kind}.png" for path in paths[:2] for kind in ("", "-comparison")}
    names.add("counterfactuals.safetensors")
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert {line.strip() for line in printed.split("Written to")[1].splitlines()[1:]} == names
    with Image.open(tmp_path / "out" / f"{paths[0].stem}-to-1-comparison.png") as picture:
        assert picture.width > 600


def boundary_images(demo, source, target, classes):
    """Two neighbouring 16-bit images on the two sides of a class's boundary, and their classes,
    found by bisection on the way from one image to the other."""

    def seen(levels):
        with torch.no_grad():
            image = torch.from_numpy((levels / 65535).astype(np.float32))
            return int(demo.checkpoint.model(image[None, None]).argmax())

    low, high = source, target
    steps = 0.0, 1.0
    for _ in range(40):
        middle = sum(steps) / 2
        levels = np.round(low + middle * (high.astype(np.float64) - low)).astype(np.uint16)
        steps = (steps[0], middle) if seen(levels) == classes[1] else (middle, steps[1])
    ends = [np.round(low + s * (high.astype(np.float64) - low)).astype(np.uint16) for s in steps]
    return ends, [seen(levels) for levels in ends]


def test_a_class_that_rounding_loses_is_reported(
    explain, demo, tmp_path, digit_images, probabilities
):
    # Of two neighbours on the two sides of a boundary, both rounded to one 8-bit image, one loses.
    every = (digit_images.images[:40, 0].double().numpy() * 65535).round().astype(np.uint16)
    classes = probabilities(digit_images.images[:40]).argmax(1)
    lost = []
    for other in range(1, 40):
        if classes[other] == classes[0]:
            continue
        ends, seen = boundary_images(demo, every[0], every[other], (classes[0], classes[other]))
        rounded = [np.floor(levels / 257 + 0.5).astype(np.uint8) for levels in ends]
        after = probabilities(np.stack(rounded)[:, None] / 255).argmax(1)
        lost += [
            (levels, cls) for levels, cls, now in zip(ends, seen, after, strict=True) if cls != now
        ]
        if len(lost) > 1:
            break
    paths = [tmp_path / f"edge{number}.png" for number in range(len(lost))]
    for path, (levels, _) in zip(paths, lost, strict=True):
        Image.fromarray(levels).save(path)
    targets = [cls for _, cls in lost]
    rows, printed = explain("--target", *targets, "--confidence", "0.05", images=paths)
    assert [row["kept"] for row in rows] == ["NO"] * len(lost)
    assert all(row["rounded"] != row["target"] for row in rows)
    assert f"Rounded to 8 bits, {len(lost)} of {len(lost)} lost their class: edge0.png" in printed
    assert "Unchanged, as the classifier already sees the target: edge0.png" in printed


def test_the_default_target_is_the_runner_up(explain, digit_files, probabilities):
    paths, _ = digit_files
    rows, _ = explain(images=paths)
    order = probabilities(np.stack([levels_of(p) for p in paths])[:, None] / 255).argsort(1)
    assert [int(row["target"]) for row in rows] == order[:, -2].tolist()


def test_failed_images_are_marked_and_the_status_stays_0(explain, digit_files, tmp_path):
    paths, labels = digit_files
    target = (labels[0] + 1) % 10
    rows, printed = explain("--target", target, "--max-iterations", "0", images=paths[:1])
    assert (rows[0]["found"], rows[0]["kept"], rows[0]["steps"]) == ("FAILED", "-", "0")
    assert f"Not found: {paths[0].name}. Their files hold the best attempt" in printed
    assert "0 of 1 found" in printed
    assert "Rounded" not in printed
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    assert result.success.tolist() == [False]


def test_search_settings_reach_the_search(explain, digit_files, tmp_path):
    paths, labels = digit_files
    options = ["--confidence", "0.8", "--step-size", "0.5", "--max-changes", "1"]
    options += ["--pixels-per-step", "3", "--max-iterations", "9"]
    explain("--target", (labels[0] + 1) % 10, *options, images=paths[:1])
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    change = result.attributions.abs()
    assert int(result.iterations) <= 9
    assert int(result.l0()) <= 3 * int(result.iterations)
    assert change.max() <= 0.5 + 1e-6
    assert bool(result.success) == (result.confidence.item() > 0.8)
    moved = change[change > 0]
    clipped = (result.counterfactuals[change > 0] % 1) == 0
    assert ((moved - 0.5).abs() < 1e-6).logical_or(clipped).all()


def test_a_preset_reaches_the_search_and_options_win_over_it(explain, digit_files, tmp_path, demo):
    paths, _ = digit_files
    explain("--target", "3", "--preset", "closest", "--max-changes", "2", images=paths)
    found = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    classifier = demo.checkpoint.model, demo.checkpoint.settings.layer, demo.checkpoint.density
    closest = DeDUCE.closest(*classifier, max_changes=2).generate(found.inputs, target=3)
    assert torch.equal(found.counterfactuals, closest.counterfactuals)
    default = DeDUCE(*classifier, max_changes=2).generate(found.inputs, target=3)
    assert not torch.equal(found.counterfactuals, default.counterfactuals)


def test_a_mask_keeps_dark_pixels(explain, digit_files, tmp_path):
    paths, labels = digit_files
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    explain("--target", (labels[0] + 1) % 10, "--mask", tmp_path / "mask.png", images=paths[:1])
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    assert (result.attributions[..., :4] != 0).any()
    assert (result.attributions[..., 4:] == 0).all()


def test_inverted_images_give_inverted_counterfactuals(explain, digit_files, tmp_path):
    paths, labels = digit_files
    target = (labels[0] + 1) % 10
    plain, _ = explain("--target", target, images=paths[:1])
    upright = levels_of(tmp_path / "out" / f"digit0-to-{target}.png")
    Image.fromarray(255 - levels_of(paths[0])).save(tmp_path / "inverted.png")
    inverted, _ = explain("--target", target, "--invert", images=[tmp_path / "inverted.png"])
    assert {**inverted[0], "image": "digit0.png"} == plain[0]
    written = levels_of(tmp_path / "out" / f"inverted-to-{target}.png")
    np.testing.assert_array_equal(written, 255 - upright)


def test_images_of_another_size_are_resized_on_request(explain, digit_files, tmp_path):
    paths, labels = digit_files
    large = levels_of(paths[0]).repeat(2, 0).repeat(2, 1)
    Image.fromarray(large).save(tmp_path / "large.png")
    rows, _ = explain("--target", (labels[0] + 1) % 10, "--resize", images=[tmp_path / "large.png"])
    assert rows[0]["image"] == "large.png"
    assert levels_of(next((tmp_path / "out").glob("large-to-?.png"))).shape == (8, 8)


def test_images_of_one_name_keep_files_of_their_own(explain, digit_files, tmp_path, pictures):
    paths, _ = digit_files
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "DIGIT0.png"
    twin.write_bytes(paths[1].read_bytes())
    explain("--target", "1", "--max-iterations", "2", images=[paths[0], twin])
    for number, path in enumerate((paths[0], twin), 1):
        assert (tmp_path / "out" / f"{number}-{path.stem}-to-1.png").is_file()
    assert [path.name for path in pictures] == [
        "1-digit0-to-1-comparison.png",
        "2-DIGIT0-to-1-comparison.png",
    ]


def test_an_image_is_never_overwritten(digit_files, tmp_path, capsys, demo):
    paths, _ = digit_files
    victim = tmp_path / "digit0-to-1.png"
    victim.write_bytes(paths[1].read_bytes())
    words = ["explain", "--checkpoint", demo.path, "--images", paths[0], victim, "--target", "1"]
    words += ["--max-iterations", "2"]
    assert main([str(word) for word in [*words, "--output", tmp_path]]) == 2
    assert f"would replace {victim}; choose another folder" in capsys.readouterr().err
    assert victim.read_bytes() == paths[1].read_bytes()


@pytest.fixture(scope="module")
def colour_checkpoint(tmp_path_factory, digit_images_in_colour):
    """A classifier of named classes and RGB images that are higher than wide."""
    torch.manual_seed(0)
    images, target = digit_images_in_colour
    arguments = {"in_channels": 3, "num_classes": 3, "width": 4, "image_size": [10, 8]}
    names = ("cat", "red fox", "dog")
    settings = Settings("sn_resnet18", arguments, names, "made up", 1, 0)
    model = settings.build()
    model.train()
    with torch.no_grad():
        for _ in range(20):  # batch norm's statistics only
            model(images)
    density = ClassGaussianMixture.fit_loader(
        model, "avgpool", [(images, target)], covariance_type="diag"
    )
    path = tmp_path_factory.mktemp("colour") / "c.safetensors"
    save_checkpoint(path, Checkpoint(model.eval(), density, settings))
    return path


@pytest.fixture(scope="module")
def digit_images_in_colour():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(60, 3, 10, 8, generator=generator), torch.arange(60) % 3


def test_colour_images_and_named_classes(colour_checkpoint, tmp_path, capsys):
    levels = np.random.default_rng(1).integers(0, 256, (10, 8, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    words = ["explain", "--checkpoint", colour_checkpoint, "--images", tmp_path / "a.png"]
    words += ["--target", "red fox", "--pixel", "site", "--max-iterations", "3", "--device", "cpu"]
    assert main([str(word) for word in [*words, "--output", tmp_path / "out"]]) == 0
    assert "-> red fox" in capsys.readouterr().out
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    assert result.target.tolist() == [1]
    sites = (result.attributions != 0).any(1).sum()
    assert sites <= 3
    with Image.open(tmp_path / "out" / "a-to-red-fox.png") as image:
        assert (image.mode, image.size) == ("RGB", (8, 10))


def test_a_square_of_pixels_moves_as_one(colour_checkpoint, tmp_path, capsys):
    levels = np.random.default_rng(1).integers(60, 190, (10, 8, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    words = ["explain", "--checkpoint", colour_checkpoint, "--images", tmp_path / "a.png"]
    words += ["--target", "dog", "--max-iterations", "1", "--pixel", "patch", "--patch-size", "4"]
    words += ["--device", "cpu", "--output", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    changed = (result.attributions[0] != 0).any(0)
    assert 8 <= changed.sum() <= 16
    squares = {(row // 4, column // 4) for row, column in changed.nonzero().tolist()}
    assert len(squares) == 1


@pytest.mark.parametrize(
    ("options", "together"),
    [
        ([], True),
        (["--pixel", "site"], True),
        (["--pixel", "entry"], False),
        (["--preset", "closest"], True),
        (["--preset", "paper"], False),
    ],
)
def test_the_colours_of_a_pixel_move_together_unless_asked(
    colour_checkpoint, tmp_path, capsys, pictures, options, together
):
    levels = np.random.default_rng(1).integers(60, 190, (10, 8, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    words = ["explain", "--checkpoint", colour_checkpoint, "--images", tmp_path / "a.png"]
    words += ["--target", "dog", "--max-iterations", "1", "--pixels-per-step", "2", *options]
    words += ["--device", "cpu", "--output", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    changed = result.attributions != 0
    assert torch.equal(changed.all(1), changed.any(1)) == together
    said = "All colours of a pixel move together; --pixel entry moves them one by one"
    assert (said in printed) == (together and "--pixel" not in options)
    heading, row = (
        line.split() for line in printed.splitlines() if "places" in line or "->" in line
    )
    assert "L0" in heading
    assert {str(int(result.l0())), str(int(result.sites()))} <= set(row)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "eleven"], "--target must be one of the classifier's 10 classes"),
        (["--target", "1", "2", "3"], "one per image (2), got 3"),
        (["--confidence", "1.5"], "error: --confidence must be a finite number in (0, 1)"),
        (["--max-iterations", "-1"], "error: --max-iterations must be"),
        (["--pixels-per-step", "0"], "error: --pixels-per-step must be"),
        (["--mask", "missing.png"], "no image at missing.png"),
        (["--device", "nonsense"], "--device must be"),
        (["--pixel", "cell"], "argument --pixel: invalid choice"),
        (["--max-changes", "many"], "argument --max-changes: invalid int value"),
    ],
)
def test_mistakes_are_said_in_one_line_before_anything_is_written(
    explain, digit_files, arguments, words
):
    _, line = explain(*arguments, images=digit_files[0][:2], status=2)
    assert words in line


def test_files_that_do_not_fit_are_refused(explain, digit_files, tmp_path, demo):
    paths, _ = digit_files
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "large.png")
    _, line = explain(images=[paths[0], tmp_path / "large.png"], status=2)
    assert "must be 8 x 8 pixels" in line
    assert "large.png has 28 x 28. Pass --resize" in line
    _, line = explain(images=[tmp_path / "missing.png"], status=2)
    assert f"no image at {tmp_path / 'missing.png'}" in line
    _, line = explain(images=paths[:1], checkpoint=tmp_path / "missing.safetensors", status=2)
    assert "no checkpoint at" in line
    _, line = explain(images=paths[:1], checkpoint=paths[0], status=2)
    assert "not a safetensors file" in line
    foreign = demo.folder / "counterfactuals.safetensors"
    _, line = explain(images=paths[:1], checkpoint=foreign, status=2)
    assert "is not a checkpoint of a classifier" in line
    assert "its format is 'captum-deduce counterfactuals'" in line


def test_a_checkpoint_without_a_density_is_refused(explain, digit_files, tmp_path, demo):
    bare = dataclasses.replace(load_checkpoint(demo.path), density=None)
    save_checkpoint(tmp_path / "bare.safetensors", bare)
    _, line = explain(images=digit_files[0][:1], checkpoint=tmp_path / "bare.safetensors", status=2)
    assert "checkpoint holds no density" in line


def test_a_classifier_in_double_precision_is_explained(explain, digit_files, tmp_path, demo):
    loaded = load_checkpoint(demo.path)
    loaded.model.double()
    save_checkpoint(tmp_path / "double.safetensors", loaded)
    explain(images=digit_files[0][:1], checkpoint=tmp_path / "double.safetensors")
    result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
    assert result.counterfactuals.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (1, 28, 28)),
        ({"in_channels": 3, "image_size": 32}, (3, 32, 32)),
        ({"image_size": [10, 8]}, (1, 10, 8)),
    ],
)
def test_the_shape_of_images_is_the_architectures_own(arguments, expected):
    assert input_shape(Settings("sn_resnet18", arguments, ("a", "b"), "d", 1, 0)) == expected


def test_images_that_files_cannot_hold_are_refused():
    settings = Settings("resnet18", {"in_channels": 4}, ("a", "b"), "d", 1, 0)
    with pytest.raises(ValueError, match="1 or 3 channels\\), got one of 4"):
        input_shape(settings)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("16-bit.png", "I;16", {}),
        ("16-bit.tiff", "I;16", {}),
        ("opaque.png", "RGBA", {}),
        ("palette.png", "P", {}),
        ("ink.jpg", "CMYK", {"quality": 100}),
        ("ink.tiff", "CMYK", {}),
        ("turned.png", "L", {"turned": True}),
    ],
)
def test_every_kind_of_file_is_the_same_image(explain, digit_images, tmp_path, name, mode, options):
    levels = (digit_images.images[0, 0].numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    if options.pop("turned", False):
        picture = picture.rotate(90, expand=True)  # against the clock, which the tag undoes
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    if mode == "I;16":
        picture = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode != "L":
        picture = picture.convert("P" if mode == "P" else "RGB").convert(mode)
    picture.save(tmp_path / name, **options)
    (row,), _ = explain("--max-iterations", "1", "--target", "3", images=[tmp_path / name])
    arrays = load_file(tmp_path / "out" / "counterfactuals.safetensors")
    slack = 3 / 255 if name.endswith(".jpg") else 1e-6
    np.testing.assert_allclose(arrays["inputs"][0, 0], levels / 255, atol=slack)
    assert row["image"] == name


def test_transparent_files_are_refused(explain, digit_files, tmp_path):
    with Image.open(digit_files[0][0]) as picture:
        picture = picture.convert("RGBA")
        picture.putalpha(128)
        picture.save(tmp_path / "glass.png")
    _, line = explain(images=[tmp_path / "glass.png"], status=2)
    assert "glass.png has transparent pixels" in line
