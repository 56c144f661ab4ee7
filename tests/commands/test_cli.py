from __future__ import annotations

import re
import runpy
import subprocess
import sys
import warnings

import pytest

from captum_deduce import __version__, explainers
from captum_deduce.commands import demo
from captum_deduce.commands.cli import main
from captum_deduce.models import ARCHITECTURES
from tests.commands.conftest import COMMANDS


def help_of(*words, capsys):
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_help_names_the_commands(capsys):
    text = help_of(capsys=capsys)
    assert all(re.search(rf"^ +{name.split()[0]}\s+\w", text, re.MULTILINE) for name in COMMANDS)
    assert "captum-deduce demo" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_teaches(name, capsys):
    text = help_of(*name.split(), capsys=capsys)
    assert max(map(len, text.splitlines())) <= 90
    assert re.search(rf"^Examples?:\n  captum-deduce {name}", text, re.MULTILINE)
    assert "default:" in text
    # a folder, and files of answers, are what these take
    assert "safetensors" in text or name in ("report", "study analyse")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo", ["mistakes.png", "CAPTUM_DEDUCE_CACHE", "captum-deduce-demo", "--retrain"]),
        ("demo", ["--compare", *explainers.METHODS, "compare.md", "L0", "L1"]),
        ("train", [*ARCHITECTURES, "CAPTUM_DEDUCE_DATA", "--overwrite"]),
        ("reproduce", ["table1", "fig5", "oracle p", "--full", "Reduced", "goes on", "NAME.json"]),
        ("study make", ["key", "hand it out", "1, 2, 3", "failures", "half", "--names"]),
        ("study analyse", ["study.key.json", "captum-deduce[study]", "--incomplete", "Wilson"]),
        ("explain", ["8 bits", "FAILED", "exit status is 0", "--resize", "IMAGE-to-CLASS.png"]),
    ],
)
def test_each_help_says_what_matters(name, words, capsys):
    text = help_of(*name.split(), capsys=capsys)
    assert [word for word in words if word not in text] == []


def test_examples_in_the_help_can_be_parsed(recorded, capsys):
    for name in COMMANDS:
        text = help_of(*name.split(), capsys=capsys).replace("\\\n", "")
        examples = re.findall(r"^  captum-deduce (\w.*)$", text, re.MULTILINE)
        assert examples
        for example in examples:
            assert main(example.split()) == 0
            assert recorded[-1][0] == name


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
        (["report", "run", "--device", "cpu"], "unrecognized arguments: --device cpu"),
        (["study", "analyse", "a.json", "--quiet"], "unrecognized arguments: --quiet"),
        (
            ["demo", "--images", "-1"],
            "--images: must be at least 0, got -1 (see captum-deduce demo",
        ),
        (
            ["explain", "--images", "a.png"],
            "one of the arguments --checkpoint --weights is required (see captum-deduce explain",
        ),
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


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("max_iterations must be 1, got 0", "--max-iterations must be 1, got 0"),
        ("none found; more max_iterations may help", "none found; more --max-iterations may help"),
        ("confidence must be a number", "--confidence must be a number"),
        ("the confidence is a number", "the confidence is a number"),
        ("no image at my_max_iterations.png", "no image at my_max_iterations.png"),
        ("no image at a/max_iterations.png", "no image at a/max_iterations.png"),
        ("--max-iterations is 0", "--max-iterations is 0"),
        ("data_root must be a folder", "data_root must be a folder"),  # no option of explain
    ],
)
def test_messages_name_options_as_they_are_typed(said, printed, monkeypatch, capsys):
    def run(**arguments):
        warnings.warn(said, UserWarning, stacklevel=1)
        raise ValueError(said)

    monkeypatch.setattr(COMMANDS["explain"], "run", run)
    assert main(["explain", "--checkpoint", "c", "--images", "a"]) == 2
    assert capsys.readouterr().err == (
        f"captum-deduce: warning: {printed}\ncaptum-deduce: error: {printed}\n"
    )


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


@pytest.mark.parametrize(
    "words", [[], ["study"], *(name.split() for name in COMMANDS)], ids=" ".join
)
def test_help_is_answered_without_importing_torch(words):
    script = (
        "import sys; from captum_deduce.commands import main; "
        f"status = main({[*words, '--help']}); print(); "
        "print('imported:', *sorted(sys.modules)); sys.exit(status)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    imported = {name.split(".")[0] for name in run.stdout.splitlines()[-1].split()[1:]}
    heavy = {"torch", "numpy", "matplotlib", "sklearn", "scipy", "captum", "pandas", "PIL", "tqdm"}
    assert "captum_deduce" in imported
    assert not imported & heavy
