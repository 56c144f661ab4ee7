"""What the project survives: it is measured, and docs/reliability.md is written of the figures.

    python benchmarks/reliability.py suite        # the README's tests, with their branch coverage
    python benchmarks/reliability.py properties   # 1,000 examples of each; an hour
    python benchmarks/reliability.py files        # 100,000 damaged files; a quarter of an hour
    python benchmarks/reliability.py faults       # runs over a whole data set, killed
    python benchmarks/reliability.py numerics --checkpoint CACHED.safetensors --data-root DIR
    python benchmarks/reliability.py mutants      # faults put into the code; an hour
    python benchmarks/reliability.py lowest       # the lowest versions of all requirements
    python benchmarks/reliability.py page         # nothing is measured, the page is written anew

Each part goes into reliability.json with the commit, the command and the versions it was measured
with, so that parts can be measured on different days. A tree with changes has no commit to be
named, and is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import reliability_page

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"

DAMAGED_FILES = 100_000

Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One of the measurements.

    Args:
        words (tuple[str, ...]): The command, after `python`; FOLDER stands for the folder that its
            output goes into.
        read (Callable[[Path], Figures]): Reads the figures out of that folder.
        settings (Mapping[str, str]): Environment variables of the command, with FOLDER likewise.
        takes (tuple[str, ...]): Arguments of this script that are handed on.
    """

    words: tuple[str, ...]
    read: Callable[[Path], Figures]
    settings: Mapping[str, str] | None = None
    takes: tuple[str, ...] = ()


def outcomes(folder: Path) -> Figures:
    """Count the tests of a JUnit file, and collect the properties that they recorded."""
    suite = ElementTree.parse(folder / "tests.xml").getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    # Hypothesis writes statistics of its own as properties.
    recorded = {
        each.get("name"): json.loads(each.get("value"))
        for each in suite.iter("property")
        if not each.get("name").startswith("hypothesis")
    }
    seconds = round(float(suite.get("time")))
    return {
        "passed": total - skipped - failed,
        "skipped": skipped,
        "failed": failed,
        "seconds": seconds,
        **({"recorded": recorded} if recorded else {}),
    }


def covered(folder: Path) -> Figures:
    """Add what the tests reach to their outcomes."""
    found = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))
    totals = found["totals"]
    least = sorted(
        (file["summary"]["covered_branches"] / file["summary"]["num_branches"], name)
        for name, file in found["files"].items()
        if file["summary"]["num_branches"] >= 10
    )
    return outcomes(folder) | {
        "statements": totals["covered_lines"] / totals["num_statements"],
        "branches": totals["covered_branches"] / totals["num_branches"],
        "number of branches": totals["num_branches"],
        "least covered": [[name, share] for share, name in least[:5]],
    }


def printed(folder: Path) -> Figures:
    """Read what a benchmark wrote with `--json`."""
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=FOLDER/tests.xml")

PARTS = {
    "suite": Part(
        (*PYTEST, "-n", "auto", "--cov", "--cov-report=json:FOLDER/coverage.json"), covered
    ),
    "properties": Part((*PYTEST, "tests/properties", "--hypothesis-profile=long"), outcomes),
    "files": Part(
        (*PYTEST, "-m", "slow", "tests/fuzzing"),
        outcomes,
        {"CAPTUM_DEDUCE_DAMAGED_FILES": str(DAMAGED_FILES)},
    ),
    "faults": Part((*PYTEST, "-m", "slow or not slow", "tests/bulk/test_faults.py"), outcomes),
    "numerics": Part(
        ("benchmarks/numerics.py", "--json=FOLDER/figures.json"),
        printed,
        takes=("checkpoint", "data_root"),
    ),
    "mutants": Part(
        ("benchmarks/mutation.py", "--sample=60", "--again", "--json=FOLDER/figures.json"), printed
    ),
    "lowest": Part(
        (".ci/lowest", "-q", "--junitxml=FOLDER/tests.xml"),
        outcomes,
        {"LOWEST_VERSIONS": "FOLDER/versions.txt"},
    ),
}


def commit() -> str:
    """Name the commit that is measured.

    Raises:
        SystemExit: Where tracked files have changed since.
    """

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    changed = git("diff", "--name-only", "HEAD")
    record = RECORD.relative_to(ROOT).as_posix()
    kept = (record, PAGE.relative_to(ROOT).as_posix())
    others = [name for name in changed.splitlines() if name not in kept]
    if others:
        sys.exit("these changes have no commit yet:\n" + "\n".join(others))
    return git("rev-parse", "--short=10", "HEAD")


def measure(name: str, given: argparse.Namespace) -> Figures:
    """Run a part in a process of its own.

    Args:
        name (str): One of :data:`PARTS`.
        given (Namespace): With what the part takes.

    Returns:
        dict: Its figures, and what they were measured with.
    """
    part, measured = PARTS[name], commit()
    handed = [
        f"--{each.replace('_', '-')}={getattr(given, each)}"
        for each in part.takes
        if getattr(given, each) is not None
    ]
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("FOLDER", folder) for word in part.words]
        program = [] if words[0].startswith(".ci/") else [sys.executable]
        own = {name: word.replace("FOLDER", folder) for name, word in (part.settings or {}).items()}
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
        run = subprocess.run([*program, *words, *handed], cwd=ROOT, env=environment, check=False)
        figures = part.read(Path(folder))
        versions = versions_used(Path(folder))
    return {
        "commit": measured,
        "command": f"python benchmarks/reliability.py {name}",
        "status": run.returncode,
        "versions": versions,
        "figures": figures,
    }


def versions_used(folder: Path) -> dict[str, str]:
    """Name the versions that a part was measured with: this environment's, or those it listed."""
    listed = folder / "versions.txt"
    known = {}
    if listed.exists():
        lines = listed.read_text(encoding="utf-8").splitlines()
        known = dict(line.split("==") for line in lines if "==" in line)
    here = {"Python": platform.python_version()}
    here |= {each: version(each) for each in ("torch", "captum", "numpy")}
    return {name: known.get(name, number) for name, number in here.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*PARTS, "page"), help="what is measured")
    parser.add_argument("--checkpoint", type=Path, help="numerics: a trained MNIST classifier")
    parser.add_argument("--data-root", help="numerics: the folder of MNIST")
    given = parser.parse_args(argv)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if given.part != "page":
        record[given.part] = measure(given.part, given)
        record = {name: record[name] for name in PARTS if name in record}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(reliability_page.page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
