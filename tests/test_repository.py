"""The house rules, held against the repository; `tests/repository` states and proves them."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.docstrings import undocumented
from tests.repository.files import (
    assertions,
    machine_paths,
    notebook_outputs,
    too_large,
    tracked,
    unpickling,
)
from tests.repository.imports import Order, circles, modules, private_imports, wrong_imports
from tests.repository.mirror import silent_tests, untested
from tests.repository.requirements import requirements, unrequired

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "captum_deduce"
TESTS = ROOT / "tests"

# Each row may import from the rows above it; `tests/repository/imports.py` says what else counts.
ORDER = Order(
    core=[
        ["_version", "checks", "progress"],
        ["storage", "feature_masks"],
        ["datasets"],
        ["spectral", "counterfactuals"],
        ["classifiers"],
        ["density", "prototypes", "search", "models"],
        ["explainers.base", "explainers.guidance", "explainers.latent_space"],
        ["explainers.patches"],
        ["explainers.pixelwise", "explainers.stream", "explainers.swapping"],
        ["explainers.*"],
        ["explainers"],
        [""],  # captum_deduce/__init__.py
    ],
    guests=[
        ["metrics", "training", "visualization"],
        ["testing"],
        ["zoo"],
        ["reports"],
        ["bulk", "experiments"],
        ["explorer", "study"],
        ["commands"],
        ["__main__"],
    ],
    # Counterfactuals.l0(), .plot() and _repr_html_() are worth the exception, and so is that the
    # page in the browser is opened by captum_deduce.explore
    lazy={"counterfactuals": ["metrics", "visualization"], "": ["explorer"]},
    # metrics take tensors, whoever made them; of a search its losses and steps
    barred={"metrics": ["search", "explainers", ""]},
    granted={"metrics": ["search.losses", "search.steps"]},
    heavy=[
        "choix",
        "gradio",
        "matplotlib",
        "pandas",
        "pyarrow",
        "ray",
        "scipy",
        "sklearn",
        "statsmodels",
        "torchvision",
    ],
)

PUBLIC_MODULES = sorted(
    name for name in modules(PACKAGE) if not any(part.startswith("_") for part in name.split("."))
)
FILES = tracked(ROOT)


def _report(problems: list[str]) -> str:
    return "\n".join(["", *(problem.replace(f"{ROOT}/", "") for problem in problems)])


def _assert_none(problems: list[str]) -> None:
    assert not problems, _report(problems)


def _python_files(*folders: Path) -> list[Path]:
    return [
        path
        for path in FILES
        if path.suffix == ".py" and any(path.is_relative_to(folder) for folder in folders)
    ]


def test_imports_go_one_way():
    _assert_none(wrong_imports(PACKAGE, ORDER))


def test_rooms_keep_what_they_do_not_export_to_themselves():
    _assert_none(private_imports(PACKAGE))


def test_no_modules_import_one_another():
    _assert_none(circles(PACKAGE))


def test_importing_the_package_imports_nothing_heavy_that_captum_does_not():
    script = (
        "import sys, captum.attr, captum.robust; before = set(sys.modules); import captum_deduce; "
        f"new = {{m.split('.')[0] for m in set(sys.modules) - before}} & {set(ORDER.heavy)}; "
        "sys.exit(str(sorted(new)) if new else 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_public_names_are_documented(name):
    _assert_none(undocumented(PACKAGE, name))


ROOMS = sorted({name for name, path in modules(PACKAGE).items() if path.name == "__init__.py"})


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_in_a_sentence_what_it_is_for(room):
    said = (importlib.import_module(f"captum_deduce.{room}".rstrip(".")).__doc__ or "").strip()
    assert said.split("\n")[0].endswith(".")


@pytest.mark.parametrize("module", ["captum_deduce", "captum_deduce.explainers"])
def test_exported_names_exist_and_have_docstrings(module):
    exporting = importlib.import_module(module)
    for name in exporting.__all__:
        exported = getattr(exporting, name)
        if callable(exported):
            assert (exported.__doc__ or "").strip(), f"{module}.{name} has no docstring"
    assert exporting.__all__


def test_every_module_has_its_test_file():
    _assert_none(untested(PACKAGE, TESTS))


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_every_test_asserts_something(path):
    _assert_none(silent_tests(path))


def test_no_file_names_a_path_of_one_machine():
    # this rule's own test has to spell some out
    exempt = TESTS / "repository" / "test_files.py"
    _assert_none([line for path in FILES if path != exempt for line in machine_paths(path)])


def test_nothing_is_ever_unpickled():
    problems = [
        problem
        for path in _python_files(ROOT)
        for problem in unpickling(path, own_objects=path.is_relative_to(TESTS))
    ]
    _assert_none(problems)


def test_the_package_asserts_nothing():
    _assert_none([line for path in _python_files(PACKAGE) for line in assertions(path)])


def test_notebooks_are_stored_without_outputs():
    notebooks = [path for path in FILES if path.suffix == ".ipynb"]
    _assert_none([line for path in notebooks for line in notebook_outputs(path)])


def test_no_file_is_large():
    _assert_none([line for path in FILES for line in too_large(path)])


def test_the_version_is_the_same_everywhere():
    version = importlib.import_module("captum_deduce._version").__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [version]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0] == version


def test_every_import_is_required():
    required = requirements(ROOT / "setup.cfg")
    own = ["captum_deduce", "tests"]
    package = set().union(*required.values())
    problems = [
        problem for path in _python_files(PACKAGE) for problem in unrequired(path, package, own)
    ]
    tested = required[""] | required["test"]
    problems += [
        problem
        for path in [*_python_files(TESTS), ROOT / "conftest.py"]
        for problem in unrequired(path, tested, own)
    ]
    _assert_none(problems)


def test_a_skip_fails_where_nothing_may_be_skipped(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import pytest\npytest.importorskip('no_such_package')\n", encoding="utf-8"
    )
    (tmp_path / "test_two.py").write_text(
        "import pytest\ndef test_skips():\n    pytest.skip('no data')\n"
        "def test_may():\n    pytest.skip('mounting is not permitted')\n",
        encoding="utf-8",
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "."]
    for strict, outcome in (("", "3 skipped"), ("1", "1 failed, 1 skipped, 1 error")):
        run = subprocess.run(
            [*words, "--continue-on-collection-errors"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CAPTUM_DEDUCE_NO_SKIP": strict},
            capture_output=True,
            text=True,
        )
        assert outcome in run.stdout, run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_gate_is_an_executable_script():
    gate = ROOT / ".ci" / "run"
    assert gate.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(gate)], check=True)


def test_the_gate_takes_its_test_command_from_the_readme():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".ci/readme_block.py tests" in gate
    # but for two rooms, whose tests need more than the README installs
    rooms = ("tests/bulk", "tests/explorer")
    commands = [line for line in gate.splitlines() if "pytest" in line]
    others = [line for line in commands if not any(room in line for room in rooms)]
    assert not others
