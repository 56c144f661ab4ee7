"""The command line: ``captum-deduce demo``, ``train``, ``explain``, ``report`` and others.

Only what is needed to parse is imported here, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TextIO

from captum_deduce._version import __version__
from captum_deduce.commands.parsers import (
    demo,
    explain,
    explain_dataset,
    explore,
    report,
    reproduce,
    study,
    train,
)

_DESCRIPTION = """\
Counterfactual explanations for image classifiers: what would this image need
to look like to be seen as another class?

Start with
  captum-deduce demo
"""

_FORM = argparse.RawDescriptionHelpFormatter

_COMMANDS = {
    "demo": demo,
    "train": train,
    "explain": explain,
    "explain-dataset": explain_dataset,
    "report": report,
    "study": study,
    "explore": explore,
    "reproduce": reproduce,
}
"""The module that parses each command, and runs it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``captum-deduce``.

    Args:
        argv (Sequence[str], optional): The arguments. Default: None (those of the process)

    Returns:
        int: The exit status: 0, or what the command returns; 2 for a mistake in what was given; 130
        after Ctrl-C.
    """
    command: argparse.ArgumentParser = _parser()
    try:
        arguments = vars(command.parse_args(argv))
        command = arguments.pop("parser")
        run: Callable[..., int | None] = arguments.pop("run")
        if "quiet" in arguments:  # of commands that compute for long
            arguments["show_progress"] = not arguments.pop("quiet") and sys.stderr.isatty()
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, command)
            status = run(**arguments)
    except SystemExit as stop:  # argparse, after --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"captum-deduce: error: {_by_options(str(error), command)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("captum-deduce: interrupted", file=sys.stderr)
        return 130
    return status or 0


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _by_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Call arguments of Python by the options that a command has for them.

    Names with an underscore are replaced wherever they stand as a word; others, which may be any
    word, where a message begins with them: "confidence must be ...".
    """
    for option in re.findall(r"--[a-z][\w-]*", parser.format_usage()):
        name = option[2:].replace("-", "_")
        first = "" if "_" in name else "^"
        message = re.sub(rf"{first}(?<![\w./-]){name}(?![\w./-])", option, message)
    return message


def _show_warning(
    parser: argparse.ArgumentParser,
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the place in the code, which says nothing to a user."""
    print(f"captum-deduce: warning: {_by_options(str(message), parser)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="captum-deduce", description=_DESCRIPTION, formatter_class=_FORM)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        own = _add(commands, name, command)
        if command is study:
            parts = own.add_subparsers(title="commands", metavar="COMMAND", required=True)
            for part, module in study.COMMANDS.items():
                _add_options(_add(parts, part, module), module)
        else:
            _add_options(own, command)
    return parser


def _add(commands: Any, name: str, command: Any) -> argparse.ArgumentParser:
    own: argparse.ArgumentParser = commands.add_parser(
        name, help=command.LINE, description=command.DESCRIPTION, formatter_class=_FORM
    )
    return own


def _add_options(parser: argparse.ArgumentParser, command: Any) -> None:
    command.add_arguments(parser)
    parser.set_defaults(run=command.run, parser=parser)
