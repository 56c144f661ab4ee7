"""What a run over a data set keeps, however it is cut into shards, rows and groups of rows."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captum_deduce import JSMA, Counterfactuals
from captum_deduce.bulk import explain_dataset, folder, read
from captum_deduce.bulk.folder import RunFolder
from captum_deduce.bulk.schema import Failure, Layout, Pairs, Rows, png
from tests.properties.strategies import cases, image_shapes, results, same_bits, seeds, uniform

pytest.importorskip("pyarrow")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pairs failed"),
    pytest.mark.filterwarnings("ignore:a 'diag' covariance"),
]

BOUNDS = (torch.tensor(0.0), torch.tensor(1.0))


@st.composite
def shards(draw: st.DrawFn) -> tuple[Layout, list[Counterfactuals]]:
    """Results of the same kind of images, one for each shard."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    shape = draw(image_shapes)
    pictures = shape[0] in (1, 3) and draw(st.booleans())
    drawn = results(finite=True, shape=shape, dtype=dtype, trajectories=False)
    several = draw(st.lists(drawn, min_size=1, max_size=3))
    without = {"settings": None}
    if any(one.log_density is None for one in several):
        without["log_density"] = None
    several = [replace(one, **without) for one in several]
    return Layout(shape, dtype, pictures), several


def written(where: Path, layout: Layout, several: list[Counterfactuals], order: list[int]) -> int:
    """Write shards in some order, each with an image that failed; returns an image's size."""
    manifest = {
        "format_version": 1,
        "shape": list(layout.shape),
        "dtype": str(layout.dtype).removeprefix("torch."),
        "store_images": layout.store_images,
        "lower_bound": 0.0,
        "upper_bound": 1.0,
        "complete": True,
        "versions": {"captum_deduce": "0"},
    }
    run = RunFolder(where)
    run.open(manifest)
    for number in order:
        result = several[number]
        rows = Rows(layout, BOUNDS)
        first = 5 * number
        rows.add(Pairs(list(range(first, first + len(result))), [None] * len(result), result))
        rows.fail(Failure(first + 4, "OSError: broken"))
        run.write_shard(number, rows.table(range(first, first + 5)))
    return torch.Size(layout.shape).numel()


def check_pairs(found: Counterfactuals, expected: Counterfactuals) -> None:
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            assert same_bits(getattr(found, name), value), name
        else:
            assert getattr(found, name) == value, name


@given(shards(), st.randoms(use_true_random=False), st.sampled_from([1, 200, 2**25]))
def test_pairs_come_back_bit_by_bit_in_any_order_of_shards_and_rows(made, random, group_bytes):
    layout, several = made
    order = random.sample(range(len(several)), len(several))
    whole = Counterfactuals.concatenate(several)
    with (
        tempfile.TemporaryDirectory() as where,
        mock.patch.object(folder, "_GROUP_BYTES", group_bytes),
    ):
        written(Path(where), layout, several, order)
        run = read(where)
        dataset = {
            5 * n + k: image for n, one in enumerate(several) for k, image in enumerate(one.inputs)
        }
        images = None
        if not layout.store_images:
            blank = torch.zeros(layout.shape, dtype=layout.dtype)
            images = [dataset.get(index, blank) for index in range(5 * len(several))]
        check_pairs(run.counterfactuals(dataset=images), whole)
        assert run.failures == len(several)
        table = run.table()
        explained = np.flatnonzero(table["error"].isna()).tolist()
        rows = [random.randrange(len(whole)) for _ in range(4)]
        chosen = run.counterfactuals([explained[row] for row in rows], dataset=images)
        check_pairs(chosen, whole[rows])
        assert table["index"].tolist() == sorted(table["index"].tolist())
        assert run.items_seen == 5 * len(several)


@given(shards(), st.integers(1, 5))
def test_changes_are_counterfactual_less_original_in_chunks_of_any_size(made, chunk_size):
    layout, several = made
    whole = Counterfactuals.concatenate(several)
    expected = whole.counterfactuals - whole.inputs
    with tempfile.TemporaryDirectory() as where:
        written(Path(where), layout, several, list(range(len(several))))
        run = read(where)
        chunks = list(run.changes(chunk_size=chunk_size))
        assert max(len(rows) for rows, _ in chunks) <= chunk_size
        assert torch.equal(torch.cat([changes for _, changes in chunks]), expected)
        entries = sum(len(place) for _, _, place, _ in run.changed_entries())
        assert entries == int((expected != 0).sum())
        table = run.table().dropna(subset=["l0"])
        assert table["l0"].tolist() == (expected != 0).flatten(1).sum(1).tolist()
        np.testing.assert_allclose(table["l1"].astype(float), whole.l1().double(), rtol=1e-6)


@given(seeds, st.sampled_from([1, 3]), st.floats(0.1, 5.0))
def test_pictures_have_the_nearest_of_256_levels(seed, channels, span):
    lower = uniform(seed, channels, 1, 1) - 0.5
    images = lower + span * uniform(seed + 1, 2, channels, 3, 4)
    files = png(images, lower, lower + span)
    for file, image in zip(files, images, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(file)), dtype=np.float64)
        pixels = pixels.reshape(3, 4, channels).transpose(2, 0, 1)
        back = lower.numpy() + pixels / 255 * span
        assert np.abs(back - image.numpy()).max() <= span / 510 + 1e-12


@given(cases(most_images=6), st.integers(1, 7), st.integers(1, 7), st.integers(0, 12))
def test_a_run_in_shards_of_any_size_is_one_call_of_generate(case, shard_size, batch, budget):
    explainer = JSMA(case.model, max_iterations=budget)
    dataset = list(zip(case.images, case.targets.tolist(), strict=True))
    with tempfile.TemporaryDirectory() as where:
        run = explain_dataset(
            explainer,
            dataset,
            where,
            only="all",
            shard_size=shard_size,
            internal_batch_size=batch,
            num_workers=0,
            show_progress=False,
        )
        found = run.counterfactuals(dataset=dataset)
        assert len(run.shards) == -(-len(dataset) // shard_size)
    expected = explainer.generate(case.images, case.targets, show_progress=False)
    assert torch.equal(found.success, expected.success)
    assert torch.equal(found.iterations, expected.iterations)
    assert torch.equal(found.target, expected.target)
    torch.testing.assert_close(
        found.counterfactuals, expected.counterfactuals, rtol=1e-9, atol=1e-12
    )


@given(cases(most_images=6), st.integers(1, 3), st.data())
def test_a_run_that_lost_shards_goes_on_to_the_same_end(case, shard_size, data):
    explainer = JSMA(case.model, max_iterations=5)
    dataset = list(zip(case.images, case.targets.tolist(), strict=True))
    settings = {"only": "all", "shard_size": shard_size, "num_workers": 0, "show_progress": False}
    with tempfile.TemporaryDirectory() as where:
        run = explain_dataset(explainer, dataset, where, **settings)
        expected = run.counterfactuals(dataset=dataset)
        for path in data.draw(st.lists(st.sampled_from(run.shards), unique=True)):
            path.unlink()
        again = explain_dataset(explainer, dataset, where, **settings)
        assert again.complete
        found = again.counterfactuals(dataset=dataset)
        assert same_bits(found.counterfactuals, expected.counterfactuals)
        assert same_bits(found.success, expected.success)
        assert same_bits(found.iterations, expected.iterations)
        # Of a batch of another size, in which sums may be taken in another order.
        torch.testing.assert_close(found.confidence, expected.confidence, rtol=1e-12, atol=0)
