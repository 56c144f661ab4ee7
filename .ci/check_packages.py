"""Whether an sdist and a wheel hold what they should: run with the folder that they are in."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "captum_deduce/"


def tracked() -> set[str]:
    """Name the files of the repository."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    )
    return {name for name in listed.stdout.decode().split("\0") if name}


def problems(wheel: set[str], sdist: set[str], files: set[str]) -> list[str]:
    """Name what is missing or too much.

    Args:
        wheel: names in the wheel.
        sdist: names in the sdist, without its top folder.
        files: names in the repository.
    """
    own = {name for name in files if name.startswith(PACKAGE)}
    packed = {name for name in wheel if ".dist-info/" not in name}
    found = [f"the wheel lacks {name}" for name in sorted(own - packed)]
    found += [f"the wheel should not hold {name}" for name in sorted(packed - own)]
    found += [f"the sdist lacks {name}" for name in sorted(files - sdist)]
    if not any(name.endswith("LICENSE") for name in wheel - packed):
        found.append("the wheel lacks its licence")
    return found


def main(folder: Path) -> None:
    """Hold the two in a folder against the repository, and exit with what is wrong."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2] for member in archive if member.isfile()}
    if found := problems(in_wheel, members, tracked()):
        sys.exit("\n".join(found))
    print(f"{wheel.name}: {len(in_wheel)} files; {sdist.name}: {len(members)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
