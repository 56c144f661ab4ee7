"""Everything that is imported is required: in `install_requires`, or in an extra."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Mapping
from configparser import ConfigParser
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

from tests.repository.imports import statements


def requirements(setup_cfg: Path) -> dict[str, set[str]]:
    """Names of the required distributions: "" for the package's own, then by extra."""
    config = ConfigParser()
    config.read(setup_cfg, encoding="utf-8")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: {_normalised(re.split(r"[^\w.-]", line)[0]) for line in text.split("\n") if line}
        for extra, text in lists.items()
    }


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def _distributions() -> Mapping[str, list[str]]:
    known = dict(packages_distributions())
    # Python 3.10 looks for a list of modules that newer build tools no longer write.
    for distribution in distributions():
        for file in distribution.files or ():
            if len(file.parts) == 2 and file.name == "__init__.py":
                known.setdefault(file.parts[0], [distribution.metadata["Name"]])
    return known


def unrequired(path: Path, required: Collection[str], own: Collection[str]) -> list[str]:
    """Imports of a file, in functions too, that no required distribution provides.

    Imports for types alone are mypy's business, which fails where it can't follow them.

    Args:
        path: a Python file.
        required: names of distributions.
        own: top-level modules of the repository itself.
    """
    known = {*sys.stdlib_module_names, *own}
    missing = []
    for node, _, for_types in statements(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for module in {name.split(".")[0] for name in names} - known:
            provided = set(map(_normalised, _distributions().get(module, [module])))
            if not for_types and not provided & set(required):
                missing.append(f"{path}:{node.lineno}: {module} is required nowhere")
    return missing
