from __future__ import annotations

import re

import pytest
import torch

from captum_deduce import JSMA
from captum_deduce.bulk import explain_dataset
from captum_deduce.datasets import load_digits
from captum_deduce.study import MethodResults, make_study, read_methods
from captum_deduce.study.methods import shared_pairs
from tests.study import made_up


def test_failures_and_originals_at_the_goal_are_counted_apart():
    method = MethodResults.of("one", made_up.result(8, failed=[1, 2], already=[5]))
    assert method.counts == {"found": 5, "failed": 2, "already": 1}
    assert method.found.nonzero().flatten().tolist() == [0, 3, 4, 6, 7]


def test_pairs_are_matched_by_image_and_target_whatever_their_order():
    first = made_up.result(6)
    order = [4, 2, 0, 5, 1, 3]
    second = made_up.result(6, change=0.5, failed=[2])[order]
    towards_others = made_up.result(6)
    towards_others.target[3] = 9
    found = shared_pairs(
        [
            MethodResults.of(str(number), result)
            for number, result in enumerate((first, second, towards_others))
        ]
    )
    # 2 failed, 3 has another target
    assert found == [[pair, order.index(pair), pair] for pair in (0, 1, 4, 5)]


def test_a_success_counts_where_a_pair_was_tried_twice():
    twice = made_up.result(3, failed=[0])
    both = type(twice).concatenate([twice, made_up.result(3)])
    assert shared_pairs([MethodResults.of("one", both)]) == [[1], [2], [3]]


def test_names_are_those_of_the_files(tmp_path):
    paths = [tmp_path / "DeDUCE.safetensors", tmp_path / "v1.2.safetensors"]
    for path in paths:
        made_up.result(4).save(path)
    read = read_methods(paths)
    assert [method.name for method in read] == ["DeDUCE", "v1.2"]
    torch.testing.assert_close(read[1].read([2, 0]).inputs, made_up.result(4).inputs[[2, 0]])
    assert [method.name for method in read_methods(paths, ["a", "b"])] == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "one name per result (2), got 1"),
        (["a", "a"], "must differ"),
        (["a", " "], "differ"),
    ],
)
def test_wrong_names_are_refused(tmp_path, names, words):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        made_up.result(4).save(path)
    with pytest.raises(ValueError, match=re.escape(words)):
        read_methods(paths, names)


def test_what_holds_no_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_methods([tmp_path / "nowhere.safetensors"])
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match="text"):
        read_methods([tmp_path / "text.safetensors"])
    with pytest.raises(ValueError, match="at least one pair, got none"):
        MethodResults.of("none", made_up.result(3)[:0])
    with pytest.raises(
        ValueError, match=r"labels must hold one class per pair of one \(3\), got 2"
    ):
        MethodResults.of("one", made_up.result(3), [0, 1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs over the same digits, and the same by Python."""
    pytest.importorskip("pyarrow")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    folder = tmp_path_factory.mktemp("runs")
    data = load_digits().test[:30]
    explainers = {"near": JSMA(model, confidence=0.3), "far": JSMA(model)}
    for name, explainer in explainers.items():
        explain_dataset(explainer, data, folder / name, shard_size=10, store_images=True)
    explain_dataset(explainers["near"], data, folder / "bare", shard_size=30)
    return folder


def test_runs_are_read_with_their_labels_and_bounds(runs):
    read = read_methods([runs / "near", runs / "far"])
    assert [method.name for method in read] == ["near", "far"]
    shared = shared_pairs(read)
    assert len(shared) > 5
    near, far = (method.read([row[place] for row in shared]) for place, method in enumerate(read))
    assert torch.equal(near.inputs, far.inputs)
    assert torch.equal(near.target, far.target)
    assert near.success.all()
    assert far.success.all()
    assert not near.already.any()
    # the run is of mistakes towards their label
    labels = [read[0].labels[row[0]] for row in shared]
    assert labels == near.target.tolist()
    mean, std = read[0].colors
    assert (float(mean), float(std)) == (0, 1)
    key = make_study(read).key
    assert {trial.methods[0] for trial in key.trials.values() if trial.task == "name"} == {-1, 0, 1}


def test_a_run_and_a_file_go_together(runs, tmp_path):
    read = read_methods([runs / "near"])
    path = tmp_path / "file.safetensors"
    read[0].read(read[0].found.nonzero().flatten().tolist()).save(path)
    both = read_methods([runs / "near", path])
    assert len(shared_pairs(both)) == both[0].counts["found"]


def test_a_run_without_images_is_refused(runs):
    with pytest.raises(ValueError, match=r"stores no images.*--store-images"):
        read_methods([runs / "bare"])
