from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_deduce import JSMA, DeDUCE
from captum_deduce.bulk import explain_dataset, read
from captum_deduce.search import Problem

pytest.importorskip("pyarrow")


def by_row(run):
    """What a run found, with the pair that each row is about."""
    table = run.table()
    return table, list(zip(table["index"].tolist(), table["target"].tolist(), strict=True))


def assert_same_pairs(run, other, dataset):
    """Bit-equal, but for numbers that a batch's size may round otherwise in the last place."""
    assert by_row(run)[1] == by_row(other)[1]
    found, expected = (each.counterfactuals(dataset=dataset) for each in (run, other))
    for name, value in vars(expected).items():
        if name in ("confidence", "log_density"):
            torch.testing.assert_close(getattr(found, name), value, rtol=1e-11, atol=1e-11)
        elif value is not None:
            assert torch.equal(getattr(found, name), value), name


@pytest.fixture
def predicted(small):
    with torch.no_grad():
        return small.explainer.forward_func(small.images).argmax(1)


def test_every_mistake_is_turned_into_its_label(small, predicted, tmp_path):
    run = explain_dataset(small.explainer, small.pairs, tmp_path, shard_size=100)
    mistakes = (predicted != small.labels).nonzero().flatten()
    assert 30 < len(mistakes) < 80
    expected = small.explainer.generate(small.images[mistakes], small.labels[mistakes])
    table, rows = by_row(run)
    assert rows == list(zip(mistakes.tolist(), small.labels[mistakes].tolist(), strict=True))
    assert table["prediction"].tolist() == predicted[mistakes].tolist()
    assert table["label"].tolist() == small.labels[mistakes].tolist()
    found = run.counterfactuals(dataset=small.pairs)
    assert torch.equal(found.counterfactuals, expected.counterfactuals)
    assert torch.equal(found.inputs, small.images[mistakes])
    assert table["success"].tolist() == expected.success.tolist()
    np.testing.assert_allclose(table["confidence"], expected.confidence, rtol=1e-12)
    np.testing.assert_allclose(table["log_density"], expected.log_density, rtol=1e-10)
    for name in ("iterations", "evaluations", "forward_evaluations"):
        assert table[name].tolist() == getattr(expected, name).tolist()
    assert (run.complete, run.items_seen, run.failures) == (True, 797, 0)
    assert len(run.shards) == 8


def test_the_share_of_training_log_densities_is_told(small, tmp_path):
    run = explain_dataset(small.explainer, small.pairs[:300], tmp_path)
    density, table = small.explainer.density, run.table()
    for row in table.itertuples():
        own = density.log_densities.values[density.log_densities.classes == row.target]
        share = np.mean(own.numpy() <= row.log_density)
        assert row.log_density_quantile == pytest.approx(share)
    assert table["log_density_quantile"].nunique() > 3


def test_every_class_or_the_runner_up(small, predicted, tmp_path):
    pairs = small.pairs[:40]
    run = explain_dataset(
        small.explainer, pairs, tmp_path / "all", targets="all", only="all", shard_size=7
    )
    _, rows = by_row(run)
    assert rows == [(i, t) for i in range(40) for t in range(10) if t != predicted[i]]
    again = explain_dataset(
        small.explainer, pairs, tmp_path / "runner-up", targets="runner-up", only="all"
    )
    expected = small.explainer.generate(small.images[:40])
    assert by_row(again)[1] == list(enumerate(expected.target.tolist()))


def test_functions_choose_images_and_targets(small, tmp_path):
    run = explain_dataset(
        small.explainer,
        small.pairs[:60],
        tmp_path,
        only=lambda images, labels, scores: labels == 3,
        targets=lambda images, labels, scores: [[5, 8]] * len(images),
    )
    threes = (small.labels[:60] == 3).nonzero().flatten().tolist()
    assert by_row(run)[1] == [(i, t) for i in threes for t in (5, 8)]
    assert "fingerprint" in run.manifest["targets"]


class Flow(IterableDataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


def test_every_kind_of_data_set_gives_the_same_rows(small, tmp_path):
    settings = {"only": "all", "targets": "runner-up", "shard_size": 8}
    pairs = small.pairs[:30]
    expected = explain_dataset(small.explainer, pairs, tmp_path / "list", **settings)
    kinds = {
        "tensors": TensorDataset(small.images[:30], small.labels[:30]),
        "loader": DataLoader(pairs, batch_size=4),
        "flow": Flow(pairs),
        "generator": (pair for pair in pairs),
        "workers": DataLoader(pairs, batch_size=4, num_workers=1),
    }
    for name, dataset in kinds.items():
        run = explain_dataset(small.explainer, dataset, tmp_path / name, **settings)
        assert (run.complete, run.items_seen) == (True, 30)
        assert_same_pairs(run, expected, pairs)
        assert len(run.shards) == 4


# --- going on ---


class Stopped(Exception):  # noqa: N818
    pass


def explain_some(small, folder, shards, **settings):
    """Explain until so many shards are written."""
    written = []

    def write(self, number, table):
        if len(written) == shards:
            raise Stopped
        written.append(number)
        original(self, number, table)

    from captum_deduce.bulk.folder import RunFolder

    original = RunFolder.write_shard
    with mock.patch.object(RunFolder, "write_shard", write), pytest.raises(Stopped):
        explain_dataset(small.explainer, small.pairs[:100], folder, **settings)
    return written


@pytest.mark.parametrize("flows", [False, True])
def test_the_same_call_goes_on_and_does_nothing_twice(small, tmp_path, flows):
    settings = {"only": "all", "targets": "runner-up", "shard_size": 10}
    whole = explain_dataset(small.explainer, small.pairs[:100], tmp_path / "whole", **settings)
    folder = tmp_path / "parts"
    written = explain_some(small, folder, 4, **settings)
    part = read(folder)
    assert not part.complete
    assert part.items_seen == part.manifest["items_seen"] == 40
    before = {path: path.stat().st_mtime_ns for path in part.shards}

    evaluated = []
    forward = Problem.forward

    def counting(self, images, state):
        evaluated.append(len(images))
        return forward(self, images, state)

    dataset = small.pairs[:100]
    if flows:  # of a map-style data set the manifest knows the length
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["dataset"] = {**manifest["dataset"], "items": None, "num_workers": 0}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        dataset = Flow(dataset)
    with mock.patch.object(Problem, "forward", counting):
        run = explain_dataset(small.explainer, dataset, folder, **settings)
    assert run.complete
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = run.table()
    left = table[~(table["index"] // 10).isin(written)]
    assert sum(evaluated) == left["evaluations"].sum()
    assert_same_pairs(run, whole, small.pairs)

    with mock.patch.object(Problem, "forward", side_effect=AssertionError):
        assert explain_dataset(small.explainer, dataset, folder, **settings).complete


def test_other_settings_are_refused_and_named(small, tmp_path):
    settings = {"shard_size": 50}
    explain_dataset(small.explainer, small.pairs[:100], tmp_path, **settings)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    model, density = small.explainer.forward_func, small.explainer.density
    other = DeDUCE(model, model[2], density, step_size=0.3, max_iterations=60)
    changed = nn.Sequential(*[type(part)(*_arguments(part)) for part in model]).double()
    retrained = DeDUCE(changed, changed[2], density, step_size=0.4, max_iterations=60)
    for arguments, reasons in (
        ({"explainer": other}, ["explainer.step_size: 0.4 there, 0.3 now"]),
        ({"explainer": retrained}, ["explainer.model: "]),
        ({"explainer": JSMA(model)}, ["explainer.class", "DeDUCE' there", "JSMA' now"]),
        ({"targets": "all", "shard_size": 60}, ["targets: 'label' there, 'all' now", "50 there"]),
        ({"mask": torch.ones(8, 8)}, ["mask: None there"]),
        ({"dataset": small.pairs[:99]}, ["dataset.items: 100 there, 99 now"]),
        ({"dataset": small.pairs[1:101]}, ["dataset.first image: "]),
    ):
        call = {"explainer": small.explainer, "dataset": small.pairs[:100], **settings}
        with pytest.raises(ValueError, match="out must be the folder of a run with the same") as e:
            explain_dataset(out=tmp_path, **{**call, **arguments})
        assert all(reason in str(e.value) for reason in reasons), e.value
    assert {path: path.read_bytes() for path in before} == before


def _arguments(part):
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    return ()


def test_another_batch_size_or_number_of_readers_is_no_other_setting(small, tmp_path):
    settings = {"only": "all", "targets": "runner-up", "shard_size": 10}
    whole = explain_dataset(small.explainer, small.pairs[:100], tmp_path / "whole", **settings)
    explain_some(small, tmp_path / "parts", 3, **settings)
    run = explain_dataset(
        small.explainer,
        small.pairs[:100],
        tmp_path / "parts",
        internal_batch_size=7,
        num_workers=1,
        **settings,
    )
    assert_same_pairs(run, whole, small.pairs)


def test_overwriting_says_what_it_deletes_and_deletes_nothing_else(small, tmp_path, capsys):
    explain_dataset(small.explainer, small.pairs[:100], tmp_path, shard_size=20)
    own = tmp_path / "shard-notes.parquet"
    own.write_text("mine", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    capsys.readouterr()
    run = explain_dataset(
        small.explainer, small.pairs[:30], tmp_path, shard_size=30, overwrite=True
    )
    said = capsys.readouterr().out
    assert said == (
        f"Deleted in {tmp_path}: 5 shard(s) (shard-00000.parquet ... shard-00004.parquet) and "
        "manifest.json\n"
    )
    assert own.read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "notes.txt").exists()
    assert [path.name for path in run.shards] == ["shard-00000.parquet"]
    assert run.complete


# --- what can't be explained ---


def test_what_cant_be_explained_gets_a_row_and_the_rest_goes_on(small, tmp_path):
    class Odd(torch.utils.data.Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, index):
            image, label = small.pairs[index]
            if index == 3:
                raise OSError("disk error")
            odd = {
                5: (image * torch.nan, label),
                8: (image + 5, label),
                11: (torch.zeros(1, 9, 9).double(), label),
                14: (image.float(), label),
                17: (image, None),
                20: (image, 12),
            }
            return odd.get(index, (image, label))

    run = explain_dataset(small.explainer, Odd(), tmp_path, only="all", shard_size=10)
    table = run.table()
    broken = table[table["error"].notna()].set_index("index")
    expected = {
        3: "OSError: disk error",
        5: "ValueError: inputs must be finite",
        8: "ValueError: inputs must lie within lower_bound and upper_bound",
        11: "ValueError: images must be (1, 8, 8) and torch.float64, as the first one, got (1, 9",
        14: "ValueError: images must be (1, 8, 8) and torch.float64, as the first one, got (1, 8",
        17: "ValueError: it has no label",
        20: "ValueError: target must lie in 0 ... 9",
    }
    assert broken.index.tolist() == list(expected)
    for index, reason in expected.items():
        assert broken.loc[index, "error"].startswith(reason)
    assert broken.drop(columns=["error", "label", "prediction", "target"]).isna().all(axis=None)
    assert run.failures == 7
    assert table["index"].tolist() == list(range(30))
    fine = [index for index in range(30) if index not in expected]
    result = small.explainer.generate(small.images[fine], small.labels[fine])
    assert torch.equal(run.counterfactuals(dataset=Odd()).counterfactuals, result.counterfactuals)


def test_an_image_for_which_the_model_has_no_scores_gets_a_row(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    def sometimes(images):
        scores = model(images)
        return torch.where((images[:, 0, 0, 0] > 0.9).unsqueeze(1), torch.nan, scores)

    images = torch.full((6, 1, 2, 2), 0.3)
    images[4, 0, 0, 0] = 1.0
    run = explain_dataset(JSMA(sometimes), list(images), tmp_path, only="all", targets="runner-up")
    (row,) = run.table().query("error.notna()").itertuples()
    assert row.index == row.Index == 4
    assert row.error == "ValueError: forward_func returned NaN or infinite scores"


def test_a_target_that_cant_be_reached_gets_a_row(small, tmp_path):
    model, density = small.explainer.forward_func, type(small.explainer.density)("tied")
    known = small.labels < 8
    density.fit(model[:3](small.images[known]).detach(), small.labels[known])
    explainer = DeDUCE(model, model[2], density, max_iterations=30)
    run = explain_dataset(explainer, small.pairs[:50], tmp_path / "label", only="all")
    table = run.table()
    assert (table["error"].notna() == (small.labels[:50] >= 8).numpy()).all()
    assert table["error"].dropna().str.contains("density has no samples of").all()
    every = explain_dataset(
        explainer, small.pairs[:50], tmp_path / "all", only="all", targets="all"
    )
    assert every.failures == 0
    assert set(every.table()["target"]) == set(range(8))


# --- on the disk ---


def test_other_programs_read_the_shards(small, tmp_path):
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    import pandas as pd

    settings = {"only": "all", "targets": "runner-up", "shard_size": 10, "store_images": True}
    run = explain_dataset(small.explainer, small.pairs[:40], tmp_path, **settings)
    result, files = run.counterfactuals(), str(tmp_path / "shard-*.parquet")
    assert torch.equal(result.inputs, small.images[:40])
    l0 = (result.inputs != result.counterfactuals).flatten(1).sum(1).tolist()

    frames = [
        pd.concat(pd.read_parquet(path) for path in run.shards),
        polars.read_parquet(files).to_pandas(),
        duckdb.sql(f"select * from read_parquet('{files}') order by index, target").df(),
    ]
    for frame in frames:
        assert frame["index"].tolist() == list(range(40))
        assert frame["l0"].tolist() == l0
        dense = np.zeros((40, 64))
        for row, (places, values) in enumerate(
            zip(frame["change_indices"], frame["change_values"], strict=True)
        ):
            dense[row, np.asarray(places)] = np.asarray(values)
        np.testing.assert_array_equal(dense, result.attributions.flatten(1))


def test_hugging_face_datasets_shows_the_pictures(small, tmp_path):
    datasets = pytest.importorskip("datasets")
    settings = {"only": "all", "targets": "runner-up", "shard_size": 10, "store_images": True}
    run = explain_dataset(small.explainer, small.pairs[:20], tmp_path / "run", **settings)
    loaded = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "run" / "shard-*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    result = run.counterfactuals()
    assert len(loaded) == 20
    for row, images in enumerate(zip(result.inputs, result.counterfactuals, strict=True)):
        for name, image in zip(("original", "counterfactual"), images, strict=True):
            levels = np.asarray(loaded[row][name])
            np.testing.assert_array_equal(levels, (image[0] * 255).round().numpy())
    assert loaded[3]["target"] == int(result.target[3])


def test_normalised_images_in_colour(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(36, 4),
    )
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25])
    std = std.view(3, 1, 1)
    levels = torch.randint(0, 256, (9, 3, 20, 16), generator=torch.Generator().manual_seed(1))
    explainer = JSMA(
        model,
        pixel="site",
        pixels_per_step="adaptive",
        step_size=1.0,
        lower_bound=-mean / std,
        upper_bound=(1 - mean) / std,
    )
    run = explain_dataset(
        explainer,
        list(levels.to(torch.uint8)),
        tmp_path,
        transform=lambda image: (image.float() / 255 - mean) / std,
        only="all",
        targets="runner-up",
        store_images=True,
    )
    found = run.counterfactuals()
    expected = explainer.generate((levels / 255 - mean) / std)
    assert torch.equal(found.inputs, expected.inputs)
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.success, expected.success)
    assert found.success.any()
    import pyarrow.parquet as pq

    from captum_deduce.bulk.schema import png

    stored = pq.read_table(run.shards[0])["original"].to_pylist()
    assert [picture["bytes"] for picture in stored] == png(
        levels / 255, torch.tensor(0.0), torch.tensor(1.0)
    )
    assert run.manifest["lower_bound"] == explainer.lower_bound.tolist()


# --- several processes ---


def test_ranks_share_the_work_and_leave_one_folder(small, tmp_path):
    settings = {"only": "all", "targets": "runner-up", "shard_size": 10}
    whole = explain_dataset(small.explainer, small.pairs[:75], tmp_path / "whole", **settings)
    completes = []
    for rank in range(3):
        run = explain_dataset(
            small.explainer,
            small.pairs[:75],
            tmp_path / "shared",
            rank=rank,
            world_size=3,
            **settings,
        )
        completes.append(run.complete)
    assert completes == [False, False, True]
    assert_same_pairs(read(tmp_path / "shared"), whole, small.pairs)


@pytest.mark.slow
def test_the_example_for_torchrun_runs_on_two_processes(tmp_path):
    example = Path(__file__).resolve().parents[2] / "docs" / "_examples" / "explain_ranks.py"
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = subprocess.run(
        [sys.executable, "-m", *words, example, tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).stdout
    assert "rank 0 of 2: Run(" in said
    assert "rank 1 of 2: Run(" in said
    run = read(tmp_path / "out")
    assert run.complete
    assert run.table()["index"].tolist() == list(range(500))
    assert len(run.shards) == 10


# --- what is refused before any work ---


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"explainer": 3}, TypeError, "explainer must be a CounterfactualExplainer, got int"),
        ({"dataset": 3}, TypeError, "dataset must be a data set"),
        ({"dataset": [torch.zeros(1, 8, 8).double()]}, ValueError, "dataset must hold labels"),
        ({"targets": "best"}, ValueError, "targets must be one of"),
        ({"shard_size": 0}, ValueError, "shard_size"),
        ({"internal_batch_size": 1.5}, TypeError, "internal_batch_size"),
        ({"store_images": 1}, TypeError, "store_images"),
        ({"engine": "spark"}, ValueError, "engine must be one of"),
        ({"workers": 3}, TypeError, "engine='local' has no argument workers"),
        ({"engine": "ray", "workers": 0}, ValueError, "workers"),
        ({"rank": 1}, ValueError, "rank and world_size must be given together"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank"),
        ({"rank": 0, "world_size": 2, "overwrite": True}, ValueError, "overwrite must be False"),
        ({"show_progress": "yes"}, TypeError, "show_progress"),
        ({"mask": torch.ones(3, 3)}, ValueError, "mask"),
        ({"transform": lambda image: image - 5}, ValueError, "within lower_bound and upper_bound"),
    ],
)
def test_mistakes_are_named_before_any_work(small, tmp_path, arguments, error, reason):
    call = {"explainer": small.explainer, "dataset": small.pairs, "out": tmp_path / "out"}
    with pytest.raises(error, match=reason):
        explain_dataset(**{**call, **arguments})
    assert not (tmp_path / "out").exists()


def test_shards_without_a_manifest_are_not_touched(small, tmp_path):
    shard = tmp_path / "shard-00000.parquet"
    shard.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds 1 shard\(s\) without a manifest\.json"):
        explain_dataset(small.explainer, small.pairs, tmp_path)
    assert shard.read_text(encoding="utf-8") == "mine"
