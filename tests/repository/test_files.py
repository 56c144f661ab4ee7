from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.repository.files import (
    assertions,
    machine_paths,
    notebook_outputs,
    too_large,
    tracked,
    unpickling,
)


@pytest.fixture
def write(tmp_path):
    def file(content: str, name: str = "file.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return file


@pytest.fixture
def tree(write, tmp_path):
    write("build/\n*.egg-info/\n/only-here/\ndocs/_build/\n.cache/\n", ".gitignore")
    for name in ["a.py", "docs/b.md", "deep/only-here/c.py", ".ci/run"]:
        write("text", name)
    for name in ["build/x", "deep/y.egg-info/x", "only-here/x", "docs/_build/x", ".cache/x"]:
        write("text", name)
    return tmp_path


EXPECTED = {".gitignore", "a.py", "docs/b.md", "deep/only-here/c.py", ".ci/run"}


def _names(root, paths):
    return {path.relative_to(root).as_posix() for path in paths}


def test_without_git_the_ignored_folders_are_left_out(tree, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert _names(tree, tracked(tree)) == EXPECTED


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_with_git_its_list_counts_without_files_that_were_deleted(tree, write):
    write("text", "untracked.py")
    gone = write("text", "gone.py")
    subprocess.run(["git", "-C", str(tree), "init", "--quiet"], check=True)
    subprocess.run(["git", "-C", str(tree), "add", *EXPECTED, "gone.py"], check=True)
    gone.unlink()
    assert _names(tree, tracked(tree)) == EXPECTED


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_archive_unpacked_in_another_repository_is_walked(tree):
    inner = tree / "docs"
    subprocess.run(["git", "-C", str(tree), "init", "--quiet"], check=True)
    assert "b.md" in _names(inner, tracked(inner))


@pytest.mark.parametrize("folder", ["home", "Users", "root", "tmp", "mnt", "work"])
def test_absolute_paths_of_one_machine_are_reported(write, folder):
    path = write(f"first\ndata = '/{folder}/somebody/mnist'\n")
    (report,) = machine_paths(path)
    assert report.startswith(f"{path}:2:")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/page",
        "~/data/tmp/x",
        "../work/x and ./tmp/x and a/root/x",
        "$HOME/tmp/x ${FOLDER}/tmp/x",
        "#!/usr/bin/env bash",
        "pass/fail, N/A, home/work",
    ],
)
def test_other_slashes_are_no_machine_paths(write, text):
    assert machine_paths(write(text)) == []


def test_binary_files_have_no_lines(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff\xfe/home/x")
    assert machine_paths(tmp_path / "x.png") == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, cloudpickle as c",
        "def f():\n    from pickle import loads",
        "from joblib import load",
        "torch.load(path)",
        "from torch import load",
        "numpy.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=flag)",
    ],
)
def test_whatever_unpickles_is_reported(write, source):
    assert len(unpickling(write(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "x = 'torch.load(path)'  # torch.load(path)",
        "model.load(path)\nsafetensors.torch.load_file(path)",
        "numpy.load(path, allow_pickle=False)",
        "import picklefree",
    ],
)
def test_other_loads_pass(write, source):
    assert unpickling(write(source)) == []


def test_a_test_may_pickle_its_own_objects_but_not_load_files(write):
    source = "import pickle\npickle.loads(pickle.dumps(x))"
    assert len(unpickling(write(source))) == 1
    assert unpickling(write(source), own_objects=True) == []
    assert len(unpickling(write("torch.load(path)"), own_objects=True)) == 1


def test_assert_statements_are_reported_with_their_lines(write):
    path = write('"""assert nothing"""\n\n\ndef f(x):\n    assert x\n')
    assert assertions(path) == [f"{path}:5: assert"]


def test_stored_outputs_of_notebooks_are_reported(write):
    def cell(**fields):
        return {"cell_type": "code", "outputs": [], "execution_count": None, **fields}

    def notebook(*cells):
        return write(json.dumps({"cells": cells}), "a.ipynb")

    assert notebook_outputs(notebook({"cell_type": "markdown"}, cell())) == []
    path = notebook(cell(), cell(outputs=[{"text": "1"}]), cell(execution_count=3))
    assert notebook_outputs(path) == [
        f"{path}: cell 1 is stored with its output",
        f"{path}: cell 2 is stored with its output",
    ]


def test_files_above_the_limit_are_reported(write):
    path = write("x" * 11)
    assert too_large(path, limit=11) == []
    assert too_large(path, limit=10) == [f"{path}: 11 bytes, at most 10"]
