"""What ``captum-deduce`` does: a module for each command, with a ``run`` that the parser calls."""

from captum_deduce.commands.cli import main

__all__ = ["main"]
