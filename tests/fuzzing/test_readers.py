"""No damaged or hostile file crashes, hangs, takes much memory, or is read as something it isn't.

`CAPTUM_DEDUCE_DAMAGED_FILES` says how many there are in all where the long form runs (`-m slow`);
it is tried with 100,000 before a release.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fuzzing.readers import READERS

pytest.importorskip("resource")

ROOT = Path(__file__).resolve().parents[2]
IN_CI = 1000
AT_LENGTH = 20_000
OF_A_PROCESS = 2000


@dataclass
class Outcomes:
    """What became of the files of one reader."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run_trial(
    parts: list[tuple[str, int, int]], folder: Path
) -> Iterator[tuple[str, list[object]]]:
    """Try files in processes of their own; one that a process died of is a fault."""
    while parts:
        words = [json.dumps(parts), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-m", "tests.fuzzing.trial", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
        yield from ((line[0], line[1:]) for line in lines if len(line) > 3)
        if run.returncode == 0:
            return
        if not lines or len(lines[-1]) > 3:
            raise RuntimeError(f"no file was tried: {run.stderr[-2000:]}")
        name, number, how = lines[-1]
        yield name, [number, how, "died", f"{run.returncode}: {run.stderr[-1500:]}", 0.0]
        (place,) = [place for place, part in enumerate(parts) if part[0] == name]
        parts = [(name, number + 1, parts[place][2]), *parts[place + 1 :]]


def tried(total: int, folder: Path) -> dict[str, Outcomes]:
    each = -(-total // len(READERS))
    found = {reader.name: Outcomes() for reader in READERS}
    for first in range(0, each, OF_A_PROCESS):
        parts = [(reader.name, first, min(first + OF_A_PROCESS, each)) for reader in READERS]
        for name, (number, how, outcome, words, seconds) in run_trial(parts, folder):
            own = found[name]
            own.counts[str(outcome)] += 1
            own.slowest = max(own.slowest, float(str(seconds)))
            if outcome not in ("read", "refused"):
                own.faults.append(f"file {number} ({how}): {outcome}: {words}")
    return found


@pytest.fixture(scope="module")
def in_ci(tmp_path_factory) -> dict[str, Outcomes]:
    return tried(IN_CI, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_files_are_read_right_or_refused_in_words(in_ci, name):
    found = in_ci[name]
    assert not found.faults, "\n".join(found.faults[:10])
    # not so damaged that nothing beyond the head of a file is ever looked at
    assert found.counts["read"] >= 1
    assert found.counts["refused"] >= 5


@pytest.mark.slow
def test_many_more_files_are_read_right_or_refused(tmp_path, record_property):
    total = int(os.environ.get("CAPTUM_DEDUCE_DAMAGED_FILES", AT_LENGTH))
    found = tried(total, tmp_path)
    for name, own in found.items():
        print(f"{name}: {dict(own.counts)}, the slowest took {own.slowest:.1f} s")
        outcome = {"outcomes": dict(own.counts), "slowest": round(own.slowest, 1)}
        record_property(name, json.dumps(outcome))
    faults = [f"{name}: {fault}" for name, own in found.items() for fault in own.faults]
    assert sum(sum(own.counts.values()) for own in found.values()) >= total
    assert not faults, "\n".join(faults)
