"""The driver of mutation testing, benchmarks/mutation.py, on a package of one function."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "mutation.py"

SETTINGS = """
[tool.mutmut]
source_paths = ["sums"]
only_mutate = ["sums/plain.py", "sums/other.py"]
pytest_add_cli_args_test_selection = ["tests"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
"""
PLAIN = "def add(a, b):\n    return a + b\n\n\ndef unused(a):\n    return -a\n"
OTHER = "def least(a, b):\n    return a if a < b else b\n"
TEST = "from sums.plain import add\n\n\ndef test_add():\n    assert add(2, {b}) == 2\n"


@pytest.fixture(scope="module")
def mutation():
    spec = importlib.util.spec_from_file_location("mutation_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def package(tmp_path, monkeypatch, mutation):
    """A package with mutmut's settings, in which the driver works."""
    configuration = pytest.importorskip("mutmut.configuration")
    for name, text in {
        "pyproject.toml": SETTINGS,
        "sums/__init__.py": "",
        "sums/plain.py": PLAIN,
        "sums/other.py": OTHER,
        "tests/test_plain.py": TEST.format(b=0),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    configuration.reset_config()
    yield tmp_path
    configuration.reset_config()


def test_exit_codes_are_counted_by_what_they_say(mutation):
    codes = {"a": 1, "b": 3, "c": 0, "d": -24, "e": 36, "f": 33, "g": None, "h": -11, "i": 0}
    found = mutation.tally("m", codes, codes)
    assert (found.mutants, found.tried) == (9, 8)
    assert (found.killed, found.timed_out, found.crashed) == (2, 2, 1)
    assert (found.survived, found.unreached) == (2, 1)
    assert found.share == 5 / 8


def test_only_those_that_were_chosen_count(mutation):
    found = mutation.tally("m", {"a": 1, "b": 0, "c": None}, ["a", "c"])
    assert (found.mutants, found.tried, found.killed, found.survived) == (3, 1, 1, 0)


@pytest.mark.parametrize("code", [2, 4, 34])
def test_tests_that_were_not_run_are_no_verdict(mutation, code):
    with pytest.raises(ValueError, match=f"a fault.*exit code {code}"):
        mutation.tally("m", {"a fault": code}, ["a fault"])


@pytest.mark.parametrize(("killed", "tried"), [(0, 10), (54, 60), (60, 60)])
def test_the_interval_of_a_sample_is_wilsons(mutation, killed, tried):
    codes = dict.fromkeys(map(str, range(tried)), 0) | dict.fromkeys(map(str, range(killed)), 1)
    found = mutation.tally("m", codes | {"not tried": None}, codes)
    expected = proportion_confint(killed, tried, method="wilson")
    assert found.interval == pytest.approx(expected, abs=1e-9)


def test_without_a_sample_there_is_no_doubt(mutation):
    codes = {"a": 1, "b": 0}
    row = mutation.tally("m", codes, codes)
    assert row.interval == (0.5, 0.5)
    assert "50.0% |" in mutation.table([row])
    assert mutation.tally("m", {"a": None}, ["a"]).interval == (0, 1)


def test_samples_are_the_seeds_own_and_grow(mutation):
    names = [f"fault {number}" for number in range(200)]
    few, many = (mutation.sample(names, size, seed=3) for size in (20, 60))
    assert many[:20] == few
    assert mutation.sample(reversed(names), 20, seed=3) == few
    assert mutation.sample(names, 20, seed=4) != few
    assert len(set(many)) == 60
    assert set(mutation.sample(names, None, seed=3)) == set(names)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--module", "plain", "missing"], "missing not among plain, other"),
        (["--sample", "0"], "--sample must be at least 1, got 0"),
        (["--workers", "-1"], "--workers must be at least 1, got -1"),
    ],
)
def test_what_can_not_be_is_refused(mutation, package, capsys, argv, message):
    with pytest.raises(SystemExit):
        mutation.main(argv)
    assert message in capsys.readouterr().err
    assert not (package / "mutants").exists()


def test_help_needs_no_mutmut(mutation, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mutmut.configuration", None)
    monkeypatch.chdir(Path.cwd())  # it goes elsewhere
    with pytest.raises(SystemExit, match="0"):
        mutation.main(["--help"])
    assert "--again" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        mutation.main(["--report"])
    assert 'pip install -e ".[mutation]"' in capsys.readouterr().err


@pytest.mark.slow
def test_faults_are_tried_once_and_survivors_again_when_asked(mutation, package, capsys):
    # 2 - 0 is 2, too: this test does not tell + from -
    figures = package / "figures.json"
    mutation.main(["--module", "plain", "--json", "figures.json"])
    (row,) = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert row["tried"] == row["mutants"] > 1
    assert (row["survived"], row["unreached"]) == (1, row["mutants"] - 1)
    shown = (package / "mutants" / "survivors.diff").read_text(encoding="utf-8")
    assert "+    return a - b" in shown
    assert "+    return +a" in shown

    capsys.readouterr()
    tried = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutation, "try_out", lambda names, workers: tried.extend(names))
        mutation.main(["--module", "plain"])
        assert tried == []
        mutation.main(["--module", "plain", "--again"])
        assert len(tried) == row["mutants"]  # one that survived, others that nothing reached
        (package / "sums" / "plain.py").write_text(PLAIN.replace("-a", "-a - 1"), encoding="utf-8")
        tried.clear()
        mutation.main(["--module", "plain", "--report"])
        assert tried == []
        mutation.main(["--module", "plain"])
        assert tried
        assert all("unused" in name for name in tried)  # only that has changed

    (package / "tests" / "test_plain.py").write_text(
        TEST.format(b=0) + "    assert add(1, 1) == 2\n"
    )
    (package / "sums" / "plain.py").write_text(PLAIN, encoding="utf-8")
    mutation.main(["--module", "plain", "--again", "--json", str(figures)])
    (row,) = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert (row["killed"], row["survived"]) == (1, 0)
