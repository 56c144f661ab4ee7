"""Which faults the tests notice: mutation testing of the arithmetic that results depend on.

mutmut (https://mutmut.readthedocs.io) changes one thing at a time in a module: an operator, a
number, an argument, a name or a word. The tests that reach the changed function are to fail, or
the fault has survived: a gap in the tests, or a change that makes no difference. Which modules,
and which tests, stands in pyproject.toml under [tool.mutmut].

    pip install -e ".[mutation]"
    python benchmarks/mutation.py --module gaussians --sample 60 --seed 0
    python benchmarks/mutation.py                        # every fault in every module: hours
    python benchmarks/mutation.py --report               # what is known so far; runs nothing

Verdicts are kept in the folder mutants/: after Ctrl-C the same command goes on where it stopped.
They are forgotten for functions that have changed since. After new tests, --again tries once more
those that none noticed. `mutmut browse` shows everything, `mutmut show NAME` a single fault, and
deleting the folder begins anew. It needs an operating system that forks, so not Windows.

A fault whose tests never end counts as noticed; they are stopped after five times as long as they
take without it, and fifty seconds. Of a sample, the share of all faults that would be noticed lies
in the stated interval with a probability of 95% (Wilson). Not changed are a module's constants,
decorated functions (properties) and docstrings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import binomtest

from captum_deduce.reports.tables import markdown

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = "mutants"
"""Where mutmut keeps changed copies and verdicts, below the repository."""

Verdicts = Mapping[str, int | None]
"""Name of a fault, and with which exit code its tests ended; None: not tried yet."""

_KINDS = {
    "killed": (1, 3),  # tests failed, or pytest itself did
    "timed_out": (-24, 24, 36, 152, 255),  # the kernel's limit of processor time, or mutmut's
    "crashed": (-11, -9, -6),
    "survived": (0,),
    "unreached": (5, 33),
}
_UNNOTICED = ("survived", "unreached")


@dataclass(frozen=True)
class Tally:
    """What became of the faults of a module.

    Args:
        module (str): Its name.
        mutants (int): Faults that mutmut knows to make.
        tried (int): Of these, how many were.
        killed (int): A test failed.
        timed_out (int): The tests did not end.
        crashed (int): The interpreter did not survive.
        survived (int): All tests passed.
        unreached (int): No test runs the function.
    """

    module: str
    mutants: int
    tried: int
    killed: int
    timed_out: int
    crashed: int
    survived: int
    unreached: int

    @property
    def noticed(self) -> int:
        """Killed, timed out or crashed."""
        return self.killed + self.timed_out + self.crashed

    @property
    def share(self) -> float:
        """How many of those tried were noticed; NaN where none was tried."""
        return self.noticed / self.tried if self.tried else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the share; the share itself where all were tried."""
        if not self.tried:
            return 0.0, 1.0
        if self.tried == self.mutants:
            return self.share, self.share
        found = binomtest(self.noticed, self.tried).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def tally(module: str, verdicts: Verdicts, chosen: Iterable[str]) -> Tally:
    """Count the verdicts of those that were chosen.

    Args:
        module (str): What they are of.
        verdicts (dict[str, int or None]): Of all the module's faults.
        chosen (Iterable[str]): Names of some.

    Returns:
        Tally: Of those that were tried.

    Raises:
        ValueError: An exit code of another kind, such as that of tests which could not be run.
    """
    tried = {name: verdicts[name] for name in chosen if verdicts[name] is not None}
    counts = Counter(kind_of(name, code) for name, code in tried.items())
    return Tally(module, len(verdicts), len(tried), **{kind: counts[kind] for kind in _KINDS})


def kind_of(name: str, exit_code: int | None) -> str | None:
    """What an exit code says of a fault; None where it was not tried.

    Args:
        name (str): Of the fault, for the error.
        exit_code (int or None): Of its tests.

    Returns:
        str or None: One of the kinds that :class:`Tally` counts.

    Raises:
        ValueError: It says nothing, as where the tests were interrupted.
    """
    if exit_code is None:
        return None
    for kind, codes in _KINDS.items():
        if exit_code in codes:
            return kind
    raise ValueError(f"{name}: its tests ended with exit code {exit_code}, which says nothing")


def sample(names: Iterable[str], size: int | None, seed: int) -> list[str]:
    """Choose faults at random: the same for the same seed, and a larger sample holds the smaller.

    Args:
        names (Iterable[str]): Of a module's faults.
        size (int or None): How many; None for all.
        seed (int): Of the choice.

    Returns:
        list[str]: Some of the names.
    """
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:size]


def modules() -> dict[str, Path]:
    """The modules that pyproject.toml lists, by their last name."""
    from mutmut.configuration import config

    return {Path(path).stem: Path(path) for path in config().only_mutate}


def verdicts(path: Path) -> dict[str, int | None]:
    """Every fault that can be made in a module, with what is known of it.

    Args:
        path (Path): The module, below the working folder.

    Returns:
        dict[str, int or None]: Exit codes by name.
    """
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name, mangled_name_from_mutant_name

    made = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
    kept = Path(MUTANTS, f"{path}.meta")
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    then, now = known.get("hash_by_function_name", {}), made.hash_by_function_name
    found: dict[str, int | None] = {}
    for each in made.mutant_names:
        function, name = mangled_name_from_mutant_name(each), get_mutant_name(path, each)
        same = function in now and then.get(function) == now[function]
        found[name] = known["exit_code_by_key"].get(name) if same else None
    return found


def try_out(names: Sequence[str], workers: int) -> None:
    """Let mutmut run the tests of some faults.

    Args:
        names (Sequence[str]): Which.
        workers (int): How many at a time.

    Raises:
        CalledProcessError: The tests fail without a fault, or can't be run.
    """
    mutmut = "from mutmut.__main__ import cli; cli()"
    command = [sys.executable, "-c", mutmut, "run", "--max-children", str(workers), *names]
    # mutmut is to find its changed package, wherever this one was found.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment | one_thread)


def differences(names: Iterable[str]) -> str:
    """What faults change, a paragraph for each."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    return "\n".join(f"# {name}\n{get_diff_for_mutant(name)}\n" for name in names)


def table(rows: Sequence[Tally]) -> str:
    def share(row: Tally) -> str:
        low, high = row.interval
        return f"{row.share:.1%}" + (f" ({low:.1%} to {high:.1%})" if low < high else "")

    counts = ("mutants", "tried", *_KINDS)
    numbers = [
        (name.replace("_", " "), [str(getattr(row, name)) for row in rows]) for name in counts
    ]
    names = ("module", [row.module for row in rows])
    return markdown([names, *numbers, ("noticed", [share(row) for row in rows])])


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--module", nargs="+", help="last names of modules, such as loop (default: all)")
    add("--sample", type=int, help="faults of each, drawn at random (default: all)")
    add("--seed", type=int, default=0, help="of the draw (default: 0)")
    add("--again", action="store_true", help="try once more those that no test noticed")
    add("--report", action="store_true", help="run nothing")
    add("--workers", type=int, default=1, help="faults at a time, of one thread each (default: 1)")
    add("--survivors", type=Path, help="file for their differences (default: in mutants/)")
    add("--json", type=Path, help="file for the figures")
    given = parser.parse_args(argv)
    for name in ("sample", "workers"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    try:
        known = modules()
    except ImportError as error:
        parser.error(f'{error}; pip install -e ".[mutation]"')
    given.module = given.module or list(known)
    if unknown := sorted(set(given.module) - set(known)):
        parser.error(f"--module: {', '.join(unknown)} not among {', '.join(known)}")
    return given


def main(argv: Sequence[str] | None = None) -> None:
    start = Path.cwd()
    os.chdir(ROOT)  # where mutmut finds its settings, and keeps its verdicts
    given = arguments(argv)
    paths = {name: path for name, path in modules().items() if name in given.module}
    found = {name: verdicts(path) for name, path in paths.items()}
    chosen = {name: sample(found[name], given.sample, given.seed) for name in found}

    def of_kind(*kinds: str | None) -> list[str]:
        named = [(name, each) for name, names in chosen.items() for each in names]
        return [each for name, each in named if kind_of(each, found[name][each]) in kinds]

    to_try = of_kind(None, *_UNNOTICED) if given.again else of_kind(None)
    if to_try and not given.report:
        try_out(to_try, given.workers)
        found = {name: verdicts(path) for name, path in paths.items()}
    rows = [tally(name, found[name], chosen[name]) for name in chosen]
    print(table(rows))
    if alive := of_kind(*_UNNOTICED):
        file = start / (given.survivors or ROOT / MUTANTS / "survivors.diff")
        file.write_text(differences(alive), encoding="utf-8")
        print(f"{len(alive)} that no test noticed: {file}")
    if given.json is not None:
        figures = {"sample": given.sample, "seed": given.seed, "rows": [asdict(r) for r in rows]}
        (start / given.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
