"""Every public name is documented: its purpose, its arguments, what it raises."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.repository.imports import modules

Function = ast.FunctionDef | ast.AsyncFunctionDef

REFERENCE = re.compile(r":(?:func|meth|class):`~?([\w.]+)`")


def undocumented(package: Path, name: str) -> list[str]:
    """What a module's docstrings leave out, for each public function, class and method.

    A docstring has a section `Args:` that names every argument (a class's constructor: in the
    class's docstring or in that of `__init__`; a dataclass: its fields, in `Attributes:` or
    `Args:`), and a section `Raises:` that names what the function's own body raises. Instead of
    repeating an entry it may refer to the function, method or class of the package that has it.

    Args:
        package: the folder of the package.
        name: the module's name inside the package.
    """
    path = modules(package)[name]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    docstrings = _Docstrings(package, name)
    gaps = [] if ast.get_docstring(tree) else ["the module: no docstring"]
    for node in tree.body:
        if isinstance(node, Function) and _is_public(node):
            gaps += _function_gaps(node, node.name, docstrings)
        elif isinstance(node, ast.ClassDef) and _is_public(node):
            gaps += _class_gaps(node, docstrings)
    return [f"{path}: {gap}" for gap in gaps]


class _Docstrings:
    """All docstrings of a package, looked up by the names that one module's docstrings use."""

    def __init__(self, package: Path, name: str) -> None:
        self.here = ".".join(filter(None, (package.name, name)))
        self.by_name = _docstrings(package)

    def referred(self, documentation: str) -> list[str]:
        """Docstrings of what a docstring refers to, by a full name or one of its own module."""
        names = REFERENCE.findall(documentation)
        found = [
            self.by_name.get(candidate) for n in names for candidate in (n, f"{self.here}.{n}")
        ]
        return [docstring for docstring in found if docstring]


@cache
def _docstrings(package: Path) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for module, path in modules(package).items():
        prefix = ".".join(filter(None, (package.name, module)))
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            if not isinstance(node, Function | ast.ClassDef):
                continue
            found[f"{prefix}.{node.name}"] = ast.get_docstring(node) or ""
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, Function):
                    found[f"{prefix}.{node.name}.{member.name}"] = ast.get_docstring(member) or ""
    return {**found, **_exported(package, found)}


def _exported(package: Path, found: Mapping[str, str]) -> dict[str, str]:
    """The same docstrings by the names under which rooms export what their modules define."""
    exported = {}
    for module, path in modules(package).items():
        room = ".".join(filter(None, (package.name, module)))
        for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
            if path.name != "__init__.py" or not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                origin = f"{node.module}.{alias.name}"
                for name, docstring in found.items():
                    if name == origin or name.startswith(f"{origin}."):
                        exported[f"{room}.{alias.name}{name.removeprefix(origin)}"] = docstring
    return exported


def _is_public(node: Function | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and not {"overload", "override", "setter", "deleter"} & {
        _last_name(decorator) for decorator in node.decorator_list
    }


def _last_name(expression: ast.expr) -> str:
    if isinstance(expression, ast.Call):
        expression = expression.func
    return ast.unparse(expression).rsplit(".", 1)[-1]


def _class_gaps(node: ast.ClassDef, docstrings: _Docstrings) -> list[str]:
    documentation = ast.get_docstring(node) or ""
    gaps = [] if documentation else [f"{node.name}: no docstring"]
    if "dataclass" in map(_last_name, node.decorator_list):
        described = section(documentation, "Attributes") + section(documentation, "Args")
        gaps += [
            f"{node.name}: field {field} stands in no Attributes: or Args:"
            for field in _fields(node)
            if not describes(described, field)
        ]
    for member in node.body:
        if not isinstance(member, Function):
            continue
        if member.name in ("__init__", "__post_init__"):
            gaps += _contents_gaps(member, node.name, docstrings, documentation)
        elif _is_public(member):
            gaps += _function_gaps(member, f"{node.name}.{member.name}", docstrings)
    return gaps


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for member in node.body:
        if (
            isinstance(member, ast.AnnAssign)
            and isinstance(member.target, ast.Name)
            and not member.target.id.startswith("_")
            and "ClassVar" not in ast.unparse(member.annotation)
        ):
            yield member.target.id


def _function_gaps(node: Function, name: str, docstrings: _Docstrings) -> list[str]:
    if not ast.get_docstring(node):
        return [f"{name}: no docstring"]
    return _contents_gaps(node, name, docstrings)


def _contents_gaps(
    node: Function, name: str, docstrings: _Docstrings, of_class: str = ""
) -> list[str]:
    """Arguments and exceptions in no docstring: its own, its class's, or one referred to."""
    own = ast.get_docstring(node) or ""
    sources = [own, of_class, *docstrings.referred(own + of_class)]
    arguments = "".join(section(source, "Args") for source in sources)
    raises = "".join(section(source, "Raises") for source in sources)
    gaps = [
        f"{name}: argument {argument} stands in no Args:"
        for argument in _arguments(node)
        if not describes(arguments, argument)
    ]
    for error in sorted(set(_raised(node))):
        if not re.search(rf"\b{error}\b", raises):
            gaps.append(f"{name}: {error or 'an exception'} is raised and stands in no Raises:")
    return gaps


def _arguments(node: Function) -> list[str]:
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg]
    names = [argument.arg for argument in every if argument is not None]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def _raised(node: ast.AST) -> Iterator[str]:
    """Names of the exceptions that a body raises, without its inner functions and re-raises."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            error = _last_name(child.exc)
            if error != "NotImplementedError":
                # a function made the exception: which one it is cannot be seen from here
                yield "" if error[0].islower() else error
        yield from _raised(child)


def section(documentation: str, title: str) -> str:
    """The indented lines below `title:` in a docstring of Google's form; empty where it is none."""
    found = re.search(
        rf"^{title}:\n((?:[ \t]+.*\n|\n)*)", inspect.cleandoc(documentation) + "\n", re.MULTILINE
    )
    return found.group(1) if found else ""


def describes(entries: str, name: str) -> bool:
    """Whether a section has an entry for a name, alone or in a list of names: `a, b (int): ...`."""
    one = r"\*{0,2}\w+"
    return bool(
        re.search(
            rf"^[ \t]+(?:{one}, )*\*{{0,2}}{name}(?:, {one})*\s*(?:\(|:)", entries, re.MULTILINE
        )
    )
