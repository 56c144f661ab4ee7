"""``captum-deduce study``: its two commands and its help."""

from captum_deduce.commands.parsers.study import analyse, make

LINE = "ask people what they see in counterfactuals, and analyse their answers"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Find out whether people see the same in counterfactuals as the classifier does.
Make a page that asks them without naming the methods, and analyse their answers.

Examples:
  captum-deduce study make deduce.safetensors jsma.safetensors
  captum-deduce study analyse answers-1.json answers-2.json answers-3.json

The --help of each command lists its options (default: shown there).
"""
"""What it does, in its own help."""

COMMANDS = {"make": make, "analyse": analyse}
"""The module that parses each of its commands, and runs it."""
