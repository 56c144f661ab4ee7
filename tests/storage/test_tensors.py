"""Files against safetensors' own reader and writer."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from captum_deduce import __version__
from captum_deduce.storage import tensors as tensor_files


def test_tensors_and_words_come_back(tmp_path):
    path = tmp_path / "file.safetensors"
    shared = torch.rand(4, 3, requires_grad=True)
    tensors = {"plain": shared, "view": shared.T, "half": torch.ones(2).half()}
    tensor_files.write(path, tensors, {"format": "a test"})
    found, metadata = tensor_files.read(path, "test")
    assert metadata == {"format": "a test", "captum_deduce": __version__}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("view"), shared.T)


def test_a_file_without_metadata_is_read(tmp_path):
    save_file({"only": torch.ones(2)}, tmp_path / "bare.safetensors")
    tensors, metadata = tensor_files.read(tmp_path / "bare.safetensors", "test")
    assert tensors["only"].tolist() == [1, 1]
    assert metadata == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_older_file(tmp_path, monkeypatch, error):
    path = tmp_path / "file.safetensors"
    tensor_files.write(path, {"a": torch.ones(2)}, {})

    def half_written(tensors, file, metadata):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(tensor_files, "save_file", half_written)
    with pytest.raises(error):
        tensor_files.write(path, {"a": torch.zeros(2)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert tensor_files.read(path, "test")[0]["a"].tolist() == [1, 1]


def test_a_place_that_cannot_be_written_is_an_error_of_the_system(tmp_path, monkeypatch):
    path = tmp_path / "missing" / "file.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing to write file\.safe"):
        tensor_files.write(path, {"a": torch.ones(2)}, {})
    with pytest.raises(IsADirectoryError, match="path must name a file, got the folder"):
        tensor_files.write(tmp_path, {"a": torch.ones(2)}, {})

    def full_disk(*_):
        raise SafetensorError("no space left")

    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    with pytest.raises(OSError, match=r"a\.safetensors could not be written: no space"):
        tensor_files.write(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"\xff" * 100, b"not tensors at all"])
def test_other_files_are_refused_with_their_path(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.safetensors is truncated or not a safetensors"):
        tensor_files.read(path, "test")


def test_a_truncated_file_is_refused_with_its_path(tmp_path):
    path = tmp_path / "cut.safetensors"
    tensor_files.write(path, {"values": torch.rand(100)}, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cut\.safetensors is truncated"):
        tensor_files.read(path, "test")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no test at .*none\.safetensors"):
        tensor_files.read(tmp_path / "none.safetensors", "test")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_a_file_as_the_umask_says(tmp_path, umask, mode):
    path = tmp_path / "file.safetensors"
    before = os.umask(umask)
    try:
        for _ in ("new", "replaced"):
            tensor_files.write(path, {"a": torch.ones(2)}, {})
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_bit_that_has_changed_is_noticed(tmp_path):
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.rand(50), "b": torch.zeros(0, 3), "c": torch.tensor(True)}
    tensor_files.write(path, tensors, {"words": "of some kind"})
    whole = path.read_bytes()
    assert tensor_files.read(path, "test")[1].keys() == {"words", "captum_deduce"}
    for place in (len(whole) - 1, len(whole) - 100, whole.index(b"some")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"file\.safetensors is damaged"):
            tensor_files.read(path, "test")


def test_a_truth_value_is_true_or_false(tmp_path):
    path = tmp_path / "file.safetensors"
    header = b'{"found":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes((0, 1, 2)))
    found = tensor_files.read(path, "test")[0]["found"]
    assert found.view(torch.uint8).tolist() == [0, 1, 1]


def test_a_file_may_become_shorter_after_it_was_read(tmp_path):
    path = tmp_path / "file.safetensors"
    tensor_files.write(path, {"a": torch.ones(1_000_000)}, {})
    script = (
        "import os, sys; from captum_deduce import storage; "
        "tensors, _ = storage.read(sys.argv[1], 'test'); os.truncate(sys.argv[1], 100); "
        "sys.exit(0 if tensors['a'].sum() == 1_000_000 else 1)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True)
    assert run.returncode == 0, run
