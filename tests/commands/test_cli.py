from __future__ import annotations

import inspect
import re
import runpy
import subprocess
import sys
import warnings

import pytest

from captum_deduce import DeDUCE, __version__, explainers
from captum_deduce.cli import main
from captum_deduce.commands import demo, explain, reproduce, train
from captum_deduce.datasets import DATASETS
from captum_deduce.explainers.deduce import PRESETS
from captum_deduce.models import ARCHITECTURES

COMMANDS = {"demo": demo, "train": train, "explain": explain, "reproduce": reproduce}


def help_of(*words, capsys):
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def recorded(monkeypatch):
    """Replace the commands by ones that note what they are called with."""
    calls = []
    for name, module in COMMANDS.items():
        signature = inspect.signature(module.run)

        def record(*arguments, name=name, signature=signature, **keywords):
            signature.bind(*arguments, **keywords)  # as the command itself would
            calls.append((name, keywords))

        monkeypatch.setattr(module, "run", record)
    return calls


def test_help_names_the_commands(capsys):
    text = help_of(capsys=capsys)
    assert all(re.search(rf"^ +{name}\s+\w", text, re.MULTILINE) for name in COMMANDS)
    assert "captum-deduce demo" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_teaches(name, capsys):
    text = help_of(name, capsys=capsys)
    assert max(map(len, text.splitlines())) <= 90
    assert re.search(rf"^Examples?:\n  captum-deduce {name}", text, re.MULTILINE)
    assert "default:" in text
    assert "safetensors" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo", ["mistakes.png", "CAPTUM_DEDUCE_CACHE", "captum-deduce-demo", "--retrain"]),
        ("demo", ["--compare", *explainers.__all__, "compare.md", "L0", "L1"]),
        ("train", [*ARCHITECTURES, "CAPTUM_DEDUCE_DATA", "--overwrite"]),
        ("reproduce", ["table1", "fig5", "oracle p", "--full", "Reduced", "goes on", "NAME.json"]),
        ("explain", ["8 bits", "FAILED", "exit status is 0", "--resize", "IMAGE-to-CLASS.png"]),
    ],
)
def test_each_help_says_what_matters(name, words, capsys):
    text = help_of(name, capsys=capsys)
    assert [word for word in words if word not in text] == []


def test_examples_in_the_help_can_be_parsed(recorded, capsys):
    for name in COMMANDS:
        text = help_of(name, capsys=capsys).replace("\\\n", "")
        examples = re.findall(r"^  captum-deduce (\w.*)$", text, re.MULTILINE)
        assert examples
        for example in examples:
            assert main(example.split()) == 0
            assert recorded[-1][0] == name


def test_every_option_reaches_the_command(recorded):
    arguments = "demo --dataset mnist --data-root d --images 4 --width 2 --epochs 3 --seed 5"
    assert main([*arguments.split(), "--smoke", "--retrain", "--compare", "--device", "cpu"]) == 0
    ((_, given),) = recorded
    assert given["output"].name == "captum-deduce-demo"
    expected = {"dataset": "mnist", "data_root": "d", "images": 4, "width": 2, "epochs": 3}
    expected |= {"seed": 5, "smoke": True, "retrain": True, "compare": True, "device": "cpu"}
    assert given | expected == given


def test_data_sets_are_those_that_can_be_loaded(recorded):
    for name in DATASETS:
        assert main(["demo", "--dataset", name]) == 0
        assert main(["train", "--dataset", name]) == 0
    assert main(["demo", "--dataset", "imagenet"]) == 2


def test_the_help_names_the_explainers_defaults(capsys):
    assert main(["explain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    parameters = inspect.signature(DeDUCE).parameters
    for name in ("confidence", "step_size", "max_changes", "pixels_per_step", "max_iterations"):
        option = name.replace("_", "-")
        (said,) = re.findall(rf"--{option} X [^(]*\(default: ([\d.]+)\)", text)
        assert float(said) == parameters[name].default, name
    assert re.search(r"--pixel {entry,site} [^(]*\(default: entry\)", text)
    assert parameters["pixel"].default == "entry"


def test_only_settings_that_were_given_reach_the_explainer(recorded):
    words = ["explain", "--checkpoint", "c", "--images", "a", "--preset", "realistic"]
    assert main(words) == 0
    assert main([*words, "--confidence", "0.9", "--pixel", "site"]) == 0
    (_, none), (_, some) = recorded
    parameters = inspect.signature(DeDUCE).parameters
    assert not [name for name in none if name in parameters]
    assert none["preset"] == some["preset"] == "realistic"
    assert {name: some[name] for name in some if name in parameters} == {
        "confidence": 0.9,
        "pixel": "site",
    }


def test_presets_are_the_explainers_own(recorded, capsys):
    words = ["explain", "--checkpoint", "c", "--images", "a", "--preset"]
    for name in PRESETS:
        assert main([*words, name]) == 0
        assert recorded[-1][1]["preset"] == name
    assert main([*words, "other"]) == 2
    (choices,) = re.findall(r"choose from (.*)\)", capsys.readouterr().err)
    assert set(re.findall(r"\w+", choices.split(" (see")[0])) == set(PRESETS)


@pytest.mark.parametrize(
    ("quiet", "terminal", "shown"),
    [([], True, True), ([], False, False), (["--quiet"], True, False)],
)
def test_progress_is_shown_on_a_terminal_only(recorded, monkeypatch, quiet, terminal, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for words in (["demo"], ["train", "--dataset", "digits"]):
        assert main([*words, *quiet]) == 0
        assert recorded[-1][1]["show_progress"] is shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND (see captum-deduce --help)"),
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--fly"], "unrecognized arguments: --fly"),
        (
            ["demo", "--images", "-1"],
            "--images: must be at least 0, got -1 (see captum-deduce demo",
        ),
        (["explain", "--images", "a.png"], "required: --checkpoint (see captum-deduce explain"),
        (["train"], "required: --dataset (see captum-deduce train --help)"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(words, message, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert line.startswith("captum-deduce: error: ")
    assert message in line


def raising(error):
    def run(**arguments):
        raise error

    return run


@pytest.mark.parametrize(
    "error", [ValueError("x is 3"), TypeError("x is 3"), FileNotFoundError("x is 3")]
)
def test_the_librarys_errors_are_said_without_a_traceback(error, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run", raising(error))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "captum-deduce: error: x is 3\n"


def test_other_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(demo, "run", raising(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        main(["demo"])


def test_ctrl_c_ends_with_one_line_and_130(monkeypatch, capsys):
    monkeypatch.setattr(demo, "run", raising(KeyboardInterrupt()))
    assert main(["demo"]) == 130
    assert capsys.readouterr().err.strip() == "captum-deduce: interrupted"


def test_warnings_are_said_without_a_place_in_the_code(monkeypatch, capsys):
    def run(**arguments):
        warnings.warn("few samples", UserWarning, stacklevel=1)

    monkeypatch.setattr(demo, "run", run)
    before = warnings.showwarning
    assert main(["demo"]) == 0
    assert warnings.showwarning is before
    assert capsys.readouterr().err == "captum-deduce: warning: few samples\n"


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"captum-deduce {__version__}\n"


def test_the_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "demo", "--epochs", "0"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("captum_deduce", run_name="__main__")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("captum-deduce: error: argument --epochs: must be at least 1")


def test_help_imports_nothing_that_the_package_does_not():
    script = (
        "import sys, captum_deduce; before = set(sys.modules); import captum_deduce.cli as cli; "
        "status = cli.main(['explain', '--help']); print(); "
        "print('new:', *sorted(set(sys.modules) - before)); sys.exit(status)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    new = run.stdout.splitlines()[-1].split()[1:]
    own = {name for name in new if name.startswith("captum_deduce")}
    assert own == {
        "captum_deduce.cli",
        "captum_deduce.commands",
        "captum_deduce.commands.recipes",
    }
    assert {name.split(".")[0] for name in new} <= {"captum_deduce", *sys.stdlib_module_names}
