"""What is public, where the API pages show it, and links to it by any of its names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

PACKAGE = "captum_deduce"


def public_modules() -> list[str]:
    """The package, its modules, and its subpackages; not what is inside those.

    A subpackage shows what its ``__all__`` exports, and one without exports nothing. Names that
    start with an underscore are private.
    """
    package = importlib.import_module(PACKAGE)
    names = [PACKAGE]
    for found in pkgutil.iter_modules(package.__path__, f"{PACKAGE}."):
        if not found.name.rsplit(".", 1)[-1].startswith("_"):
            names.append(found.name)
    return [name for name in names if names_of(name)]


def names_of(module_name: str) -> list[str]:
    """Public names of a module: ``__all__``, else what it defines and documents itself."""
    module = importlib.import_module(module_name)
    if hasattr(module, "__all__"):
        return sorted(name for name in module.__all__ if not name.startswith("_"))
    if hasattr(module, "__path__"):
        return []
    return sorted(name for name in _defined(module) if not name.startswith("_"))


def _defined(module: ModuleType) -> Iterator[str]:
    """Functions, classes, and constants that a string below them documents."""
    body = ast.parse(inspect.getsource(module)).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _is_string(following):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _is_string(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def public_names() -> list[str]:
    """Every public name once, by the shortest path that it is exported under."""
    return sorted(_exported().values())


@cache
def _exported() -> dict[tuple[str, str], str]:
    """Of each public thing where it is defined, to its shortest public path."""
    shortest: dict[tuple[str, str], str] = {}
    for module_name in sorted(public_modules(), key=lambda name: name.count(".")):
        module = importlib.import_module(module_name)
        for name in names_of(module_name):
            shortest.setdefault(_definition(module, name), f"{module_name}.{name}")
    return shortest


def _definition(module: ModuleType, name: str) -> tuple[str, str]:
    """Where an object was defined; a constant, which doesn't know, is where it was found."""
    found = getattr(module, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        return found.__module__, found.__qualname__
    return module.__name__, name


def canonical(target: str) -> str | None:
    """The documented name of something that a reference names in another way.

    Names of the module that defines a thing stand for those that it is exported under, an
    inherited method is that of the class which defines it, and a bare name is that of the only
    public thing so called.

    Args:
        target: A dotted name, or the end of one.
    """
    parts = target.split(".")
    if parts[0] != PACKAGE:
        called_so = [p for p in public_names() if p.rsplit(".", 1)[-1] == parts[0]]
        if len(called_so) != 1:
            return None
        parts = [*called_so[0].split("."), *parts[1:]]
    for length in range(len(parts) - 1, 0, -1):
        module_name, rest = ".".join(parts[:length]), parts[length:]
        try:
            module = importlib.import_module(module_name)
            found = getattr(module, rest[0])
        except (ImportError, AttributeError):
            continue
        path = _exported().get(_definition(module, rest[0]))
        if path is None or len(rest) == 1:
            return path
        owners = [c for c in inspect.getmro(found) if rest[1] in vars(c)] if len(rest) == 2 else []
        owner = _exported().get((owners[0].__module__, owners[0].__qualname__)) if owners else None
        return f"{owner or path}.{'.'.join(rest[1:])}"
    return None


# Short names, or beginnings of names, of other packages in the types of docstrings.
EXTERNAL = {
    "Axes": "matplotlib.axes.Axes",
    "Callable": "collections.abc.Callable",
    "Figure": "matplotlib.figure.Figure",
    "Iterable": "collections.abc.Iterable",
    "Mapping": "collections.abc.Mapping",
    "NDArray": "numpy.typing.NDArray",
    "Path": "pathlib.Path",
    "Sequence": "collections.abc.Sequence",
    "Tensor": "torch.Tensor",
    "nn": "torch.nn",
    "np": "numpy",
}


def _resolve(app: Sphinx, env: BuildEnvironment, node: Element, content: Element) -> Element | None:
    from docutils.utils import get_source_line

    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    first, *rest = target.split(".")
    if first in EXTERNAL:
        node["reftarget"] = ".".join([EXTERNAL[first], *rest])  # for intersphinx
        return None
    name = canonical(target)
    if name is None:
        # A docstring may name something of its own module that is not public: shown, not linked.
        return content if _is_internal(target, get_source_line(node)[0] or "") else None
    if name == target:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", name, node, content
    )


def _is_internal(target: str, source: str) -> bool:
    """Whether a name exists in the module whose docstring refers to it."""
    found = re.search(rf"docstring of ({PACKAGE}[\w.]*)", source)
    parts = found.group(1).split(".") if found else []
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    names = [target] if target.startswith(f"{PACKAGE}.") else [f"{p}.{target}" for p in prefixes]
    return any(_exists(name) for name in names)


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def _describe_constants(app: Sphinx) -> None:
    """Give the constants that a room exports the strings below them, which only their modules have.

    Classes and functions carry their docstrings along.
    """
    from sphinx.pycode import ModuleAnalyzer

    for room in public_modules():
        shown = ModuleAnalyzer.for_module(room)
        shown.analyze()
        for origin in _origins(room):
            source = ModuleAnalyzer.for_module(origin)
            source.analyze()
            for (owner, name), comment in source.attr_docs.items():
                if not owner and name in names_of(room):
                    shown.attr_docs.setdefault(("", name), comment)


def _origins(room: str) -> list[str]:
    """The modules from which a room's ``__init__`` takes what it exports, of inner rooms too."""
    tree = ast.parse(inspect.getsource(importlib.import_module(room)))
    taken = (node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    own = [module for module in taken if module and module.startswith(f"{room}.")]
    return own + [origin for module in own for origin in _origins(module)]


def _check_completeness(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page describes."""
    from sphinx.util import logging

    missing = set(public_names()) - set(env.domains["py"].data["objects"])
    for name in sorted(missing):
        logging.getLogger(__name__).warning("%s is public and on no page of the API", name)


def _documented_elsewhere(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out of a module's page what the package itself exports: that has a place of its own.

    And the fields of named tuples, which the docstrings of their classes describe.
    """
    if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    if what != "module" or not (inspect.isclass(obj) or inspect.isfunction(obj)):
        return None
    path = _exported().get((obj.__module__, obj.__qualname__), "")
    return True if path == f"{PACKAGE}.{name}" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", _describe_constants)
    app.connect("env-check-consistency", _check_completeness)
    app.connect("autodoc-skip-member", _documented_elsewhere)
    app.connect("missing-reference", _resolve, priority=400)  # before intersphinx
    return {"parallel_read_safe": True, "parallel_write_safe": True}
