from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from captum_deduce import Counterfactuals, explainers
from captum_deduce.commands import compare
from captum_deduce.commands.cli import main
from captum_deduce.zoo import classifiers as zoo_classifiers
from captum_deduce.zoo import load_checkpoint
from captum_deduce.zoo import reconstructions as zoo_reconstructions
from captum_deduce.zoo.recipes import SMOKE_COMPARISON
from tests.visualization.samples import make_result

SMOKE = ["demo", "--compare", "--smoke", "--images", "1", "--device", "cpu"]
NAMES = [
    "DeDUCE",
    "JSMA",
    "Schut",
    "Wachter",
    "VLK",
    "REVISE",
    "CEM",
    "LatentShift",
    "NearestExample",
    "PIECE",
    "PatchSwap",
]
ROW = re.compile(
    r"(?P<label>(?P<name>\w+).*?)  +(?P<found>\d+)/(?P<pairs>\d+) +(?P<l0>\S+) +(?P<l1>\S+)"
    r" +(?P<l0_common>\S+) +(?P<l1_common>\S+) +(?P<seconds>[\d.]+) +(?P<evaluations>[\d.]+)"
    r" +(?P<forward>[\d.]+)"
)


@dataclass
class Comparison:
    """What a run printed and wrote, and what it cached."""

    printed: str
    folder: Path
    cache: Path

    @property
    def rows(self):
        lines = self.printed.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("explainer "))
        matches = [ROW.fullmatch(line) for line in lines[start + 1 : start + 1 + len(NAMES)]]
        assert all(matches), lines[start : start + 1 + len(NAMES)]
        return {match["name"]: match.groupdict() for match in matches}

    @property
    def arrays(self):
        return {name: load_file(self.folder / f"compare-{name}.safetensors") for name in NAMES}

    def cached(self, pattern):
        (path,) = self.cache.glob(pattern)
        return path


@pytest.fixture(scope="session")
def _comparison(_demo, tmp_path_factory) -> Comparison:
    folder = tmp_path_factory.mktemp("compare")
    cache = tmp_path_factory.mktemp("compare-cache")
    (cache / _demo.path.name).write_bytes(_demo.path.read_bytes())
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as environment, contextlib.redirect_stdout(printed):
        environment.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
        assert main([*SMOKE, "--output", str(folder)]) == 0
    return Comparison(printed.getvalue(), folder, cache)


@pytest.fixture
def comparison(_comparison, monkeypatch) -> Comparison:
    """The smallest comparison, with the classifier of the smallest demo."""
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(_comparison.cache))
    return _comparison


def changes(arrays):
    return arrays["counterfactuals"].astype(np.float64) - arrays["inputs"]


def test_every_explainer_explains_the_pairs_of_the_demo(comparison, demo):
    assert set(NAMES) == set(explainers.METHODS)
    assert list(comparison.rows) == NAMES
    first = load_file(demo.folder / "counterfactuals.safetensors")
    pairs = [0, *range(3, 12)]  # of three mistakes the first, then the right image
    for arrays in comparison.arrays.values():
        np.testing.assert_array_equal(arrays["inputs"], first["inputs"][pairs])
        np.testing.assert_array_equal(arrays["target"], first["target"][pairs])
    np.testing.assert_array_equal(
        comparison.arrays["DeDUCE"]["counterfactuals"], first["counterfactuals"][pairs]
    )


def test_the_table_is_of_the_pairs_that_were_found(comparison):
    all_arrays = comparison.arrays
    common = np.logical_and.reduce([arrays["success"] for arrays in all_arrays.values()])
    assert f"the {common.sum()} pairs that every explainer found" in comparison.printed
    for name, row in comparison.rows.items():
        arrays = all_arrays[name]
        success, change = arrays["success"], changes(arrays)
        assert (int(row["found"]), int(row["pairs"])) == (success.sum(), len(success))
        l0, l1 = (change != 0).sum((1, 2, 3)), np.abs(change).sum((1, 2, 3))
        for key, values, where, slack in (
            ("l0", l0, success, 0.0501),
            ("l1", l1, success, 0.00501),
            ("l0_common", l0, common, 0.0501),
            ("l1_common", l1, common, 0.00501),
        ):
            if where.any():
                assert float(row[key]) == pytest.approx(values[where].mean(), abs=slack), name
            else:
                assert row[key] == "-"
        for key, field in (("evaluations", "evaluations"), ("forward", "forward_evaluations")):
            assert float(row[key]) == pytest.approx(arrays[field].mean(), abs=0.0501)
    assert 0 < sum(int(row["found"]) for row in comparison.rows.values()) < len(NAMES) * len(common)


def test_the_time_is_the_searchs_by_the_number_of_pairs(comparison):
    for row in comparison.rows.values():
        seconds = re.search(rf"^{re.escape(row['label'])}: ([\d.]+) s$", comparison.printed, re.M)
        each = float(seconds[1]) / int(row["pairs"])
        assert float(row["seconds"]) == pytest.approx(each, abs=0.06 / int(row["pairs"]))


def test_all_explain_the_demos_classifier(comparison, probabilities):
    for name, arrays in comparison.arrays.items():
        p = probabilities(arrays["counterfactuals"])
        reached = p[np.arange(len(p)), arrays["target"]]
        if name == "Schut":
            # a mean of two above .99
            assert (reached[arrays["success"]] > 0.98).all()
        elif name in ("VLK", "CEM"):
            np.testing.assert_array_equal(p.argmax(1) == arrays["target"], arrays["success"])
        else:
            np.testing.assert_array_equal(reached > 0.5, arrays["success"])
            np.testing.assert_allclose(reached, arrays["confidence"], atol=1e-5)


def test_schuts_ensemble_is_that_classifier_and_the_one_that_was_trained(comparison, demo):
    other = load_checkpoint(comparison.cached("digits-split0-resnet18-*"))
    assert (other.settings.seed, other.density) == (1, None)
    assert other.settings.arguments["width"] == demo.checkpoint.settings.arguments["width"]
    arrays = comparison.arrays["Schut"]
    images = torch.from_numpy(arrays["counterfactuals"])
    with torch.no_grad():
        members = [
            model(images).double().softmax(1) for model in (demo.checkpoint.model, other.model)
        ]
    mean = (sum(members) / 2)[torch.arange(len(images)), torch.from_numpy(arrays["target"])]
    np.testing.assert_array_equal(mean > 0.99, arrays["success"])
    np.testing.assert_allclose(mean, arrays["confidence"], atol=1e-5)
    assert "Schut (ensemble of 2)" in comparison.printed
    assert "Schut needs an ensemble" in comparison.printed


def test_what_differs_from_the_defaults_is_in_the_table(comparison):
    labels = {name: row["label"] for name, row in comparison.rows.items()}
    how = SMOKE_COMPARISON
    assert labels["VLK"] == f"VLK (2 x {how.vlk_steps} steps)"
    assert labels["REVISE"] == f"REVISE (Adam, {how.revise_steps} steps)"
    assert labels["CEM"] == f"CEM (9 x {how.cem_steps} steps)"
    steps = {name: arrays["iterations"].max() for name, arrays in comparison.arrays.items()}
    assert steps["VLK"] == 2 * how.vlk_steps
    assert steps["REVISE"] == how.revise_steps
    assert (labels["DeDUCE"], labels["JSMA"], labels["Wachter"]) == ("DeDUCE", "JSMA", "Wachter")


def test_table_picture_and_results_are_written_and_named(comparison):
    expected = {"compare.png", "compare.md", *(f"compare-{name}.safetensors" for name in NAMES)}
    assert {path.name for path in comparison.folder.iterdir()} == expected
    listed = comparison.printed.split("Written:\n")[1].split()
    assert set(listed) == {str(comparison.folder / name) for name in expected}
    with Image.open(comparison.folder / "compare.png") as picture:
        width, height = picture.size
        colors = picture.convert("RGB").getcolors(width * height)
    assert width > 1800
    assert height > 1000
    assert len(colors) > 50


def test_the_markdown_has_the_same_cells(comparison):
    text = (comparison.folder / "compare.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(NAMES)
    assert len({line.count("|") for line in lines}) == 1
    for line, row in zip(lines[2:], comparison.rows.values(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == [
            row["label"],
            f"{row['found']}/{row['pairs']}",
            *(row[key] for key in ("l0", "l1", "l0_common", "l1_common", "seconds")),
            *(row[key] for key in ("evaluations", "forward")),
        ]
    notes = comparison.printed.split("All explain")[1].split("\n\nWritten")[0]
    assert notes in text
    assert "Failed pairs never count" in notes
    assert "test images right" in text


@pytest.fixture
def no_search(monkeypatch):
    """Searching and drawing take longer than all else; what is compared is noted."""
    compared = []

    def note(models, pairs, test, how, output, show_progress):
        compared.append(models)

    monkeypatch.setattr(compare, "run", note)
    return compared


@pytest.fixture
def trained(monkeypatch):
    """Nothing is trained: what would be is noted, and replaced by what has no weights to learn."""
    names = []

    def classifier(settings, *arguments, with_density=True):
        names.append(settings.architecture)
        raise ValueError("enough")

    def reconstruction(name, *arguments):
        names.append(name)
        raise ValueError("enough")

    monkeypatch.setattr(zoo_classifiers, "fit_classifier", classifier)
    monkeypatch.setattr(zoo_reconstructions, "fit_reconstruction", reconstruction)
    return names


def test_a_second_run_trains_nothing(comparison, tmp_path, capsys, trained, no_search):
    assert main([*SMOKE, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert not trained
    paths = list(comparison.cache.iterdir())
    assert len(paths) == 4
    assert all(f"Reused from {path}" in printed for path in paths)
    (models,) = no_search
    stored = load_file(comparison.cached("digits-vae-*"))
    for name, tensor in models.vae.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), stored[name])


@pytest.mark.parametrize("missing", ["resnet18", "autoencoder", "vae"])
def test_what_is_missing_is_trained(comparison, tmp_path, monkeypatch, trained, missing):
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in comparison.cache.iterdir():
        if f"-{missing}-" not in path.name:
            (cache / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
    assert main([*SMOKE, "--output", str(tmp_path / "out")]) == 2
    assert trained == [missing]


def test_retraining_is_passed_on(comparison, tmp_path, monkeypatch, no_search, capsys):
    before = {path.name: path.read_bytes() for path in comparison.cache.iterdir()}
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in before:
        (cache / name).write_bytes(b"of no use, and never looked at")
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
    assert main([*SMOKE, "--retrain", "--output", str(tmp_path / "out")]) == 0
    assert "of no use" not in capsys.readouterr().out
    after = {path.name: load_file(path) for path in cache.iterdir()}
    assert after.keys() == before.keys()
    for name, tensors in after.items():  # the same seeds train the same models
        for key, tensor in load_file(comparison.cache / name).items():
            np.testing.assert_array_equal(tensor, tensors[key], err_msg=f"{name} {key}")


def test_the_picture_shows_pairs_from_first_to_last(comparison, tmp_path, monkeypatch):
    seen = {}

    def note(results, **arguments):
        seen.update(results=results, **arguments)
        return Mock()

    monkeypatch.setattr(compare, "plot_grid", note)
    results = {
        name: Counterfactuals.load(comparison.folder / f"compare-{name}.safetensors")
        for name in NAMES
    }
    compared = [compare.Compared(name, "", result, 5.0) for name, result in results.items()]
    compared[1] = replace(compared[1], settings="set otherwise")
    none = replace(results["VLK"], success=torch.zeros(10, dtype=torch.bool))
    compared[4] = replace(compared[4], result=none)
    compare.draw(compared, tuple("0123456789"), tmp_path / "compare.png")
    rows = [0, 2, 4, 5, 7, 9]  # of ten
    assert list(seen["results"]) == NAMES
    for name, shown in seen["results"].items():
        assert torch.equal(shown.counterfactuals, results[name].counterfactuals[rows])
    assert torch.equal(seen["labels"], results["DeDUCE"].prediction[rows])
    found = results["JSMA"].success
    change = (results["JSMA"].counterfactuals - results["JSMA"].inputs)[found].flatten(1)
    l0, l1 = (change != 0).sum(1).double().mean(), change.abs().sum(1).mean()
    assert seen["notes"]["JSMA"].split("\n") == [
        "set otherwise",
        f"{int(found.sum())} of 10 found",
        f"L0 {l0:.1f}, L1 {l1:.2f}",
        "0.500 s",
    ]
    assert seen["notes"]["VLK"] == "0 of 10 found\n0.500 s"
    found = int(results["DeDUCE"].success.sum())
    assert seen["notes"]["DeDUCE"].split("\n")[0] == f"{found} of 10 found"
    assert seen["caption"].startswith("6 of 10 pairs")


@pytest.mark.slow
def test_the_comparison_runs_on_mnist_files(small_mnist, tmp_path, capsys):
    arguments = ["demo", "--compare", "--dataset", "mnist", "--data-root", str(small_mnist)]
    assert main([*arguments, "--smoke", "--images", "1", "--output", str(tmp_path)]) == 0
    rows = Comparison(capsys.readouterr().out, tmp_path, tmp_path).rows
    assert int(rows["DeDUCE"]["found"]) > 5
    result = Counterfactuals.load(tmp_path / "compare-REVISE.safetensors")
    assert result.inputs.shape[1:] == (1, 28, 28)


def test_pairs_that_were_there_already_are_not_counted():
    inputs = torch.zeros(3, 1, 2, 2)
    changed, unchanged = inputs + 0.5, inputs.clone()
    unchanged[0] = 0.25
    compared = [
        compare.Compared(name, "", make_result(inputs, images), 3.0)
        for name, images in (("JSMA", changed), ("Schut", unchanged))
    ]
    columns = dict(compare.comparison_columns(compared))
    assert columns["found"] == ["3/3", "1/1"]
    assert columns["L1"] == ["2.00", "1.00"]
    assert columns["L1 common"] == ["2.00", "1.00"]
    text = compare.explanation(compared)
    assert "there already, and not counted: Schut 2." in text
    assert "over the 1 pairs that every explainer found" in text
    assert "there already" not in compare.explanation(compared[:1])
