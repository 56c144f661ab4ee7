"""Many damaged files, one after the other, in a process that may die of one: run as a program.

It prints a line of JSON before each file and one after it, so that who started it knows which file
it died of, and how.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

from tests.fuzzing.mutations import mutate
from tests.fuzzing.readers import READERS, Reader

SECONDS = 20
"""That a file may take before its process is ended."""

CONSTANT = 48 * 2**20
"""Bytes of memory that any file may take, whatever its size."""

CEILING = 3 * 2**30
"""Bytes of address space beyond those of the process at its start: an absurd claim fails there."""


def memory(name: str) -> int:
    """A figure of `/proc/self/status`, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def judge(reader: Reader, path: Path) -> tuple[str, str]:
    """Read a file: "read", "refused" or a fault, and in which words."""
    started = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    try:
        reader.use(path)
        outcome, words = "read", ""
    except (ValueError, OSError) as error:
        words = f"{type(error).__name__}: {error}"
        named = not reader.named or path.name in words or str(path.parent) in words
        outcome = "refused" if named else "unnamed"
        if isinstance(error, UnicodeError) and reader.named:
            outcome = "unnamed"
    except BaseException as error:
        outcome, words = "fault", f"{type(error).__name__}: {error}"
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if frame is not None:
            words += f" @ {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
    grown = memory("VmHWM") - started
    allowed = 2 * reader.claim(path) + CONSTANT
    if grown > allowed:
        outcome, words = (
            "memory",
            f"{grown / 2**20:.0f} MiB, {allowed / 2**20:.0f} allowed; {words}",
        )
    return outcome, words


def try_files(reader: Reader, first: int, last: int, folder: Path) -> None:
    """Damage and read the files of these numbers, one after the other."""
    right, work = folder / "right", folder / "work"
    for place in (right, work):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    targets = [path.name for path in reader.write(right)]
    for target in targets:
        reader.use(right / target)  # also imports all that is needed
    for path in right.iterdir():
        shutil.copyfile(path, work / path.name)
    size = memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + CEILING, resource.RLIM_INFINITY))
    for number in range(first, last):
        rng = random.Random(f"{reader.name} {number}")
        target = targets[number % len(targets)]
        how, data = mutate((right / target).read_bytes(), reader.form, rng)
        (work / target).write_bytes(data)
        print(json.dumps([reader.name, number, how]), flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        began = time.monotonic()
        outcome, words = judge(reader, work / target)
        faulthandler.cancel_dump_traceback_later()
        seconds = round(time.monotonic() - began, 3)
        print(json.dumps([reader.name, number, how, outcome, words[:600], seconds]), flush=True)
        shutil.copyfile(right / target, work / target)


def main(parts: list[tuple[str, int, int]], folder: Path) -> None:
    """Try the readers that are named, each with files from one number to another."""
    readers = {reader.name: reader for reader in READERS}
    for name, first, last in parts:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try_files(readers[name], first, last, folder)


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
