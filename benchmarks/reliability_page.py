"""docs/reliability.md, from the figures that `reliability.py` keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from captum_deduce.reports.tables import Column, markdown
from captum_deduce.testing import DENSITY_CHECKS, EXPLAINER_CHECKS, METRIC_CHECKS

Record = Mapping[str, Any]
"""A part's commit, command, versions and figures."""

HEAD = """# Reliability

An explainer that silently returns a wrong answer is worse than none. This page describes how the
package is tested against that, and what the tests found. Each figure comes with the commit at which
it was measured and the command that measures it again. The page itself is written by
`python benchmarks/reliability.py page`, and a test fails if it differs from what that command
writes.
"""


def page(record: Mapping[str, Record]) -> str:
    """Write the page.

    Args:
        record (Mapping[str, Mapping]): Parts by name; the page leaves out those that are missing.

    Returns:
        str: Markdown.
    """
    sections = [HEAD.strip(), contract()]
    for name, (title, words) in SECTIONS.items():
        if name in record:
            part = record[name]
            sections += [f"## {title}", words(part["figures"]), _source(part)]
    return "\n\n".join(sections) + "\n"


def contract() -> str:
    counts = [len(checks) for checks in (EXPLAINER_CHECKS, DENSITY_CHECKS, METRIC_CHECKS)]
    table = markdown(
        [
            ("for", ["explainers", "densities", "metrics"]),
            ("checks", [str(count) for count in counts]),
            ("function that runs them", [_code(f"check_{each}") for each in _KINDS]),
        ]
    )
    return f"""## A contract that anyone can run

The promises of this package's explainers, densities and metrics are written down as checks. They
cover targets in all their forms, masks, bounds with equal ends, saturated and constant models, NaN
in the middle of a search, Ctrl-C, threads and forked processes. The tests run them on all classes
of this package, and {{doc}}`guide/testing` says how to run them on a class of your own.

{table}"""


_KINDS = ("explainer", "density", "metric")


def _suite(figures: Record) -> str:
    least = _and([f"`{name}` ({_percent(share)})" for name, share in figures["least covered"][:3]])
    return f"""{_passed(figures)} They cover {_percent(figures["branches"])} of the
{figures["number of branches"]:,} branches of the code and {_percent(figures["statements"])} of its
statements. Code that runs in separate processes is not counted. Among the modules with ten branches
or more, the least covered are {least}."""


def _properties(figures: Record) -> str:
    return f"""A property says what holds for *any* image, mask, batch, order or unit. For example,
merging the densities of two halves of the data gives the density of all the data. The tests try
each property on 20 examples. For this page each was tried on 1,000 new ones.
{_passed(figures, "property has held", "properties have held")}"""


def _files(figures: Record) -> str:
    recorded = figures["recorded"]
    counts = recorded.values()
    total = sum(sum(each["outcomes"].values()) for each in counts)
    rows = [
        ("what is read", list(recorded)),
        ("files", [f"{sum(each['outcomes'].values()):,}" for each in counts]),
        ("refused with an error", [f"{each['outcomes'].get('refused', 0):,}" for each in counts]),
        ("read correctly", [f"{each['outcomes'].get('read', 0):,}" for each in counts]),
        ("faults", [str(_faults(each["outcomes"])) for each in counts]),
        ("slowest (s)", [f"{each['slowest']:.1f}" for each in counts]),
    ]
    return f"""{total:,} damaged files were read. They had flipped bits, were cut or spliced, had
the headers of other files or absurd shapes, were decompression bombs, or named paths outside their
folder. Each was read in a process that may use little memory beyond what the file can claim.
The reader must return a correct result or raise an error that names the file. Anything else, such
as a crash, a hang, another exception or too much memory, is a fault. A separate test makes sure
that nothing is ever unpickled.

{markdown(rows)}"""


def _faults(outcomes: Mapping[str, int]) -> int:
    return sum(count for outcome, count in outcomes.items() if outcome not in ("read", "refused"))


def _killed(figures: Record) -> str:
    return f"""Runs over a whole data set are ended by `kill -9`, a closed terminal or Ctrl-C, are
killed twenty times in a row, or meet a full disk or a truncated shard. Then they are started
again. Every pair must be there exactly once and must equal that of an undisturbed run.
{_passed(figures)}"""


def _numerics(figures: Record) -> str:
    searches, densities = figures["searches"], figures["densities"]
    quiet = [row for row in densities if not row["warned"] and row["condition"] < _ILL]
    worst = max(row["error"] for row in quiet)
    ill = [row for row in densities if not row["warned"] and row["condition"] >= _ILL]
    table: list[Column] = [
        ("explainer", [_code(row["explainer"]) for row in searches]),
        ("pairs", [str(row["pairs"]) for row in searches]),
        ("same entries changed", [str(row["same_entries"]) for row in searches]),
        ("found in float32", [str(row["found"][0]) for row in searches]),
        ("in float64", [str(row["found"][1]) for row in searches]),
        ("mean L1 in float32", [f"{row['l1_mean'][0]:.2f}" for row in searches]),
        ("in float64", [f"{row['l1_mean'][1]:.2f}" for row in searches]),
    ]
    return f"""The same MNIST pairs were searched in float32 and in float64, with the same weights
and the same density:

{markdown(table)}

Wachter moves every entry, and rounding decides which of them end exactly at their original value.
The realistic preset goes on after its first success, so once rounding has changed one step,
everything after that may differ.

Log-densities of extreme features were compared with arithmetic of 60 digits. The features have
units from 1e-30 to 1e30, means 1e8 standard deviations from 0, constant and repeated columns, or
classes with three samples or none. Errors are relative to the log-density, or in nats where it is
between -1 and 1. Where the fit did not warn and the covariance's condition number was below
{_ILL:.0e}, the largest error was {worst:.0e}. In the other fits without a warning, with condition
numbers up to {max(row["condition"] for row in ill):.0e}, it was
{max(row["error"] for row in ill):.0e}. A fit warns if features depend on one another too closely,
or if there are too few samples."""


_ILL = 1e5
"""From this condition on digits are lost in proportion to it."""


def _mutants(figures: Record) -> str:
    rows = [
        (row["module"], row["tried"], row["killed"] + row["timed_out"] + row["crashed"])
        for row in figures["rows"]
    ]
    table: list[Column] = [
        ("module", [_code(module) for module, _, _ in rows]),
        ("faults", [str(tried) for _, tried, _ in rows]),
        ("noticed", [str(noticed) for _, _, noticed in rows]),
        ("share", [_percent(noticed / tried) for _, tried, noticed in rows]),
    ]
    tried, noticed = (sum(row[place] for row in rows) for place in (1, 2))
    sample = figures["sample"]
    drawn = f"For each module {sample} were drawn at random" if sample else "All of them were tried"
    return f"""Tests that can't fail prove nothing. So faults were put into the code one at a time,
and the tests had to notice them. A fault is, for example, another operator, another number or a
reversed condition. {drawn}. The tests noticed {_percent(noticed / tried)} of {tried:,} faults.
`benchmarks/README.md` discusses each of the others. Some tests were written for faults of this very
sample, so another sample may give a lower share.

{markdown(table)}"""


def _lowest(figures: Record) -> str:
    return f"""The tests also run with the lowest version of every requirement that `setup.cfg`
allows, on the oldest Python available. {_passed(figures)}"""


SECTIONS: Mapping[str, tuple[str, Callable[[Record], str]]] = {
    "suite": ("Tests", _suite),
    "mutants": ("Faults put into the code", _mutants),
    "properties": ("Properties", _properties),
    "files": ("Damaged and hostile files", _files),
    "faults": ("Interrupted runs", _killed),
    "numerics": ("Rounding", _numerics),
    "lowest": ("Old versions", _lowest),
}


def _passed(figures: Record, one: str = "test has passed", many: str = "tests have passed") -> str:
    count = figures["passed"]
    words = f"{count:,} {one if count == 1 else many}"
    if figures["failed"]:
        words += f", {figures['failed']:,} failed"
    if figures["skipped"]:
        words += f", and {figures['skipped']:,} were skipped for lack of data, a GPU or a browser"
    return words + "."


def _source(record: Record) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"*Commit {record['commit']}, `{record['command']}`, {versions}.*"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _code(name: str) -> str:
    return f"`{name}`"


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]
