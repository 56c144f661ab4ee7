"""What stands in the repository, and what must not: one machine's paths, pickles, outputs, bulk."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# A path below one of these folders is somebody's own. What precedes tells it from a URL or from
# a relative path.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/:}-])/(?:home|root|Users|mnt|tmp|work|workspace|scratch|opt|srv)/[\w.]"
)
UNPICKLING_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}


def tracked(root: Path) -> list[Path]:
    """The repository's files: git's list, or where there is no git what `.gitignore` lets pass."""
    git = ["git", "-C", str(root)]
    try:
        top = subprocess.run(
            [*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True
        )
        # an unpacked archive may lie inside some other repository
        if Path(top.stdout.strip()) == root.resolve():
            listed = subprocess.run([*git, "ls-files", "-z"], capture_output=True, check=True)
            names = listed.stdout.decode().split("\0")
            return [root / name for name in names if name and (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        pass
    return sorted(_walk(root))


def _walk(root: Path) -> Iterator[Path]:
    ignore = root / ".gitignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [".git", *(line.strip().rstrip("/") for line in lines if line.strip())]

    def ignored(path: Path) -> bool:
        relative = path.relative_to(root).as_posix()
        return any(
            fnmatch.fnmatch(f"/{relative}" if "/" in pattern else path.name, _rooted(pattern))
            for pattern in patterns
        )

    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not ignored(Path(folder, name))]
        yield from (path for name in files if not ignored(path := Path(folder, name)))


def _rooted(pattern: str) -> str:
    return f"/{pattern.lstrip('/')}" if "/" in pattern else pattern


def machine_paths(path: Path) -> list[str]:
    """Lines of a text file that name an absolute path of one machine."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    return [
        f"{path}:{number}: an absolute path of one machine: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


def unpickling(path: Path, own_objects: bool = False) -> list[str]:
    """What reads pickles: modules for it, `torch.load`, numpy's `allow_pickle`.

    Args:
        path: a Python file.
        own_objects: whether the modules are allowed, as in tests that pickle an object of their own
            and take it back, or write a hostile file.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if modules == ["torch"] and any(alias.name == "load" for alias in node.names):
                found.append(f"{path}:{node.lineno}: imports torch.load")
        elif isinstance(node, ast.Call):
            if ast.unparse(node.func) == "torch.load":
                found.append(f"{path}:{node.lineno}: calls torch.load")
            found += [
                f"{path}:{node.lineno}: allow_pickle"
                for keyword in node.keywords
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
            ]
        if not own_objects and UNPICKLING_MODULES & {name.split(".")[0] for name in modules}:
            found.append(f"{path}:{node.lineno}: imports {', '.join(modules)}")
    return found


def assertions(path: Path) -> list[str]:
    """`assert` statements: they vanish under `python -O`, so no user's mistake may rest on one."""
    return [
        f"{path}:{node.lineno}: assert"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if isinstance(node, ast.Assert)
    ]


def notebook_outputs(path: Path) -> list[str]:
    """Code cells of a notebook that are stored with outputs or execution counts."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        f"{path}: cell {number} is stored with its output"
        for number, cell in enumerate(cells)
        if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"] is not None)
    ]


def too_large(path: Path, limit: int = 1_000_000) -> list[str]:
    """The file with its size in bytes, if it is above the limit."""
    size = path.stat().st_size
    return [f"{path}: {size} bytes, at most {limit}"] if size > limit else []
