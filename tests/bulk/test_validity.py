from __future__ import annotations

import json

import pytest

from captum_deduce.bulk import read
from captum_deduce.bulk.validity import check_manifest, check_pairs
from tests.bulk.test_reader import SHAPE, made_up_run

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("shape", [3, 10**9, 10**12], "a list of sizes"),
        ("shape", [3, -4, 5], "a list of sizes"),
        ("shape", [3, True, 5], "a list of sizes"),
        ("shape", "345", "a list of sizes"),
        ("dtype", "load", "'float32' or 'float64', got 'load'"),
        ("store_images", 1, "true or false"),
        ("class_names", ["a", 2], "a list of names"),
        ("lower_bound", None, "numbers for images"),
        ("upper_bound", float("nan"), "numbers for images"),
        ("upper_bound", [[1.0, 2.0]], "numbers for images"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(tmp_path, name, value, words):
    made_up_run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    check_manifest(manifest, path)
    path.write_text(json.dumps(manifest | {name: value}))
    with pytest.raises(ValueError, match=rf"manifest\.json: {name} must be {words}"):
        read(tmp_path)


def test_bounds_may_be_tensors_of_the_model(tmp_path):
    made_up_run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for bound in ([[[0.0]], [[0.5]], [[1.0]]], [[[[0.0]], [[0.5]], [[1.0]]]], -float("inf")):
        check_manifest(manifest | {"lower_bound": bound}, path)


def changed(table, name, row, value):
    values = table[name].to_pylist()
    values[row] = value
    place = table.column_names.index(name)
    return table.set_column(place, name, pa.array(values, table[name].type))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("change_indices", None, "lacks values"),
        ("change_indices", [60], "wrong lengths|beyond the image of 60 entries"),
        ("change_values", [1.0] * 99, "wrong lengths"),
        ("original_values", [1.0], "wrong lengths"),
        ("shape", [3, 4, 6], "holds other images"),
        ("target", None, "target lacks values"),
    ],
)
def test_rows_that_do_not_fit_the_images_are_refused(tmp_path, name, value, words):
    made_up_run(tmp_path)
    path = tmp_path / "shard-00000.parquet"
    table = pq.read_table(path)
    check_pairs(table, SHAPE, path)
    with pytest.raises(ValueError, match=rf"shard-00000\.parquet .*({words})"):
        check_pairs(changed(table, name, 0, value), SHAPE, path)


@pytest.mark.parametrize("place", [-1, 60])
def test_changes_lie_within_the_image(tmp_path, place):
    made_up_run(tmp_path)
    path = tmp_path / "shard-00000.parquet"
    table = pq.read_table(path)
    places = table["change_indices"].to_pylist()[0]
    with pytest.raises(ValueError, match="beyond the image of 60 entries"):
        check_pairs(changed(table, "change_indices", 0, [place, *places[1:]]), SHAPE, path)


@pytest.mark.parametrize("number", [-1, 2**40])
def test_classes_are_numbers_that_a_model_can_have(tmp_path, number):
    made_up_run(tmp_path)
    path = tmp_path / "shard-00001.parquet"
    pq.write_table(changed(pq.read_table(path), "label", 1, number), path)
    with pytest.raises(ValueError, match="column label holds no classes"):
        read(tmp_path).table()


def test_a_manifest_names_the_classes_that_occur(tmp_path):
    made_up_run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"class_names": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"manifest\.json must name every class, at least 3"):
        read(tmp_path).table()


def test_images_of_another_size_are_noticed_before_memory_is_taken_for_them(tmp_path):
    made_up_run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"shape": [3, 400_000, 5]}))
    run = read(tmp_path)
    for use in (run.table, lambda: list(run.changes()), run.counterfactuals):
        with pytest.raises(ValueError, match=r"00000\.parquet holds other images than"):
            use()
