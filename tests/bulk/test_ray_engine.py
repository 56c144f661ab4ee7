from __future__ import annotations

import os
import pickle
import signal
import threading
import time

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, DeDUCE
from captum_deduce.bulk import RaySettings, explain_dataset, read
from captum_deduce.bulk.folder import shard_files
from captum_deduce.bulk.ray_engine import sendable
from tests.bulk.process import Digits
from tests.bulk.test_explain import Flow, assert_same_pairs


@pytest.fixture(scope="module")
def ray():
    """Two processors on this machine, for all tests of this module."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_a_normalised_model_is_sent_with_plain_layers(digits):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    with pytest.raises(RuntimeError, match="parametrized"):
        pickle.dumps(explainer)
    copied = sendable(explainer)
    pickle.dumps(copied)
    assert copied.layer is copied.forward_func[6]
    images = digits.images[:20]
    with torch.no_grad():
        assert torch.equal(copied.forward_func(images), digits.model(images))
    assert nn.utils.parametrize.is_parametrized(digits.model[0])


def test_a_plain_model_is_sent_as_it_is(small):
    assert sendable(small.explainer) is small.explainer


def test_settings_out_of_their_range_are_named():
    for settings, reason in (
        ({"workers": 0}, "workers"),
        ({"cpus": -1}, "cpus"),
        ({"gpus": -0.5}, "gpus"),
        ({"shards_per_task": 0}, "shards_per_task"),
    ):
        with pytest.raises(ValueError, match=reason):
            RaySettings(**settings)


def test_only_what_is_read_by_position_can_be_shared_out(small, tmp_path):
    with pytest.raises(ValueError, match="map-style for engine='ray'"):
        explain_dataset(small.explainer, Flow(small.pairs), tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_rows_are_those_of_one_process(ray, digits, tmp_path):
    """With a spectrally normalised model, whose copy the workers search."""
    explainer = DeDUCE(digits.model, digits.layer, digits.density, step_size=0.4)
    pairs = list(zip(digits.images[:40], digits.labels[:40].tolist(), strict=True))
    settings = {"only": "all", "targets": "runner-up", "shard_size": 5}
    whole = explain_dataset(explainer, pairs, tmp_path / "whole", **settings)
    shared_out = {"engine": "ray", "workers": 2, "shards_per_task": 2}
    run = explain_dataset(explainer, pairs, tmp_path / "ray", **settings, **shared_out)
    assert run.complete
    assert len(run.shards) == 8
    assert_same_pairs(run, whole, pairs)
    # Either engine goes on with what the other has begun.
    for path in run.shards[2:5]:
        path.unlink()
    assert_same_pairs(explain_dataset(explainer, pairs, tmp_path / "ray", **settings), whole, pairs)
    for path in whole.shards[1:7]:
        path.unlink()
    again = explain_dataset(explainer, pairs, tmp_path / "whole", **settings, **shared_out)
    assert_same_pairs(again, run, pairs)


class Traced(Digits):
    """Notes which processes read it."""

    def __init__(self, folder) -> None:
        super().__init__(120, torch.float64, pause=0.05)
        self.folder = folder

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(ray, tmp_path):
    (tmp_path / "pids").mkdir()
    digits = Traced(tmp_path / "pids")
    settings = {"only": "all", "targets": "all", "shard_size": 10}
    killed = []

    def kill():
        deadline = time.monotonic() + 120
        while not shard_files(tmp_path / "ray") and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = {int(path.name) for path in (tmp_path / "pids").iterdir()} - {os.getpid()}
        os.kill(min(workers), signal.SIGKILL)
        killed.append(min(workers))

    thread = threading.Thread(target=kill)
    thread.start()
    run = explain_dataset(
        digits.explainer, digits, tmp_path / "ray", engine="ray", shards_per_task=2, **settings
    )
    thread.join()
    workers = {int(path.name) for path in (tmp_path / "pids").iterdir()} - {os.getpid()}
    assert len(workers) >= 3, "the killed one and at least two others"
    assert killed
    assert run.complete
    whole = explain_dataset(digits.explainer, digits, tmp_path / "whole", **settings)
    assert_same_pairs(run, whole, digits)


@pytest.mark.slow
def test_what_cant_be_sent_is_refused_before_anything_is_searched(ray, small, tmp_path):
    class Locked(list):
        def __init__(self, pairs):
            super().__init__(pairs)
            self.lock = threading.Lock()

    with pytest.raises(ValueError, match="can be sent to other processes"):
        explain_dataset(small.explainer, Locked(small.pairs), tmp_path, engine="ray")
    assert not read(tmp_path).shards


@pytest.mark.slow
def test_other_parametrizations_are_refused_by_name(ray, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 3)))
    images = list(torch.rand(4, 1, 8, 8))
    with pytest.raises(ValueError, match="can be sent to other processes"):
        explain_dataset(
            JSMA(model), images, tmp_path, only="all", targets="runner-up", engine="ray"
        )
