"""Imports go one way: what each module imports, and whether it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@dataclass(frozen=True)
class Import:
    """One import statement, resolved.

    Attributes:
        module: full dotted name of what is imported.
        line: where.
        in_function: executed only when a function is called.
        for_types: under `if TYPE_CHECKING`, never executed.
    """

    module: str
    line: int
    in_function: bool
    for_types: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its name inside it, "" for the package itself."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path, name: str) -> list[Import]:
    """What a module imports, in functions and for types too; packages' own names stay as written.

    Args:
        package: the folder of the package.
        name: the module's name inside the package.

    Raises:
        ValueError: if a module is imported by a name that is computed, which nobody can check.
    """
    known = modules(package)
    path = known[name]
    is_package = path.name == "__init__.py"
    here = ".".join(filter(None, (package.name, name)))
    found: list[Import] = []
    for node, in_function, for_types in statements(
        ast.parse(path.read_text(encoding="utf-8"), str(path))
    ):
        for module in _imported(node, here, is_package, known, package.name):
            found.append(Import(module, node.lineno, in_function, for_types))
    return found


def statements(
    node: ast.AST, in_function: bool = False, for_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom | ast.Call, bool, bool]]:
    """Imports and calls below a node, whether each is in a function and whether only for types."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child, in_function, for_types
        if isinstance(child, ast.If) and ast.unparse(child.test) in TYPE_CHECKING:
            for statement in child.body:
                yield from statements(ast.Module([statement], []), in_function, True)
            for statement in child.orelse:
                yield from statements(ast.Module([statement], []), in_function, for_types)
            continue
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(child, in_function or inner, for_types)


def _imported(
    node: ast.Import | ast.ImportFrom | ast.Call,
    here: str,
    is_package: bool,
    known: Mapping[str, Path],
    package: str,
) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            anchor = here.split(".")
            anchor = anchor[: len(anchor) - node.level + is_package]
            base = ".".join([*anchor, *filter(None, [node.module])])
        # `from package import module` imports the module, `from package import name` the package
        return [
            f"{base}.{alias.name}" if _inside(f"{base}.{alias.name}", package) in known else base
            for alias in node.names
        ]
    if ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
        if not (node.args and isinstance(node.args[0], ast.Constant)):
            raise ValueError(f"{here}:{node.lineno}: a module is imported by a computed name")
        module = str(node.args[0].value)
        return [f"{package}{module}" if module.startswith(".") else module]
    return []


def _inside(module: str, package: str) -> str | None:
    """A full dotted name as a name inside the package; None for what lies outside."""
    if module == package:
        return ""
    return module.removeprefix(f"{package}.") if module.startswith(f"{package}.") else None


@dataclass(frozen=True)
class Order:
    """Who may import whom.

    Attributes:
        core: rows of modules; each may import from the rows before its own. An entry "a" is module
            or package a, whose modules may import one another; "a.*" stands for each module of
            package a, none of which may import another.
        guests: the rows after them, which the core doesn't know.
        lazy: of a core module, the guests that it may import inside its functions and for types.
        barred: of a guest, the modules before it that it may not import all the same.
        granted: of these the parts that it may.
        heavy: packages that no core module imports when it is itself imported.
    """

    core: Sequence[Sequence[str]]
    guests: Sequence[Sequence[str]]
    lazy: Mapping[str, Sequence[str]]
    barred: Mapping[str, Sequence[str]]
    granted: Mapping[str, Sequence[str]]
    heavy: Sequence[str]

    def place(self, name: str) -> tuple[int, str] | None:
        """Row and room of a module: the modules of one room may import one another."""
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        patterns = {name: name}
        patterns |= {f"{parent}.*": _child(parent, name) for parent in parents}
        patterns |= {parent: parent for parent in parents}
        rows = [*self.core, *self.guests]
        for pattern, room in patterns.items():
            for row, entries in enumerate(rows):
                if pattern in entries:
                    return row, room
        return None


def _child(parent: str, name: str) -> str:
    return f"{parent}.{name.removeprefix(parent + '.').split('.')[0]}"


def _within(name: str, entries: Sequence[str]) -> bool:
    return any(name == entry or (entry and name.startswith(f"{entry}.")) for entry in entries)


def wrong_imports(package: Path, order: Order) -> list[str]:
    """Every import against the order, and every module that has no place in it.

    Imports under `if TYPE_CHECKING` keep the order too: a module that names the types of its users
    depends on them, whether or not the interpreter follows.
    """
    wrong = []
    for name, path in modules(package).items():
        place = order.place(name)
        if place is None:
            wrong.append(f"{path}: module {name!r} stands in no row of the order")
            continue
        for found in imports(package, name):
            reason = _objection(name, place, found, package.name, order)
            if reason:
                wrong.append(f"{path}:{found.line}: {reason}")
    return wrong


def _objection(
    name: str, place: tuple[int, str], found: Import, package: str, order: Order
) -> str | None:
    row, room = place
    core = row < len(order.core)
    target = _inside(found.module, package)
    if target is None:
        heavy = found.module.split(".")[0] in order.heavy
        if core and heavy and not (found.in_function or found.for_types):
            return f"{name or package} imports {found.module} as soon as it is imported itself"
        return None
    target_place = order.place(target)
    if target_place is None:
        return f"{name or package} imports {found.module}, which stands in no row of the order"
    granted = _within(target, order.granted.get(room, ()))
    if not granted and _within(target, order.barred.get(room, ())):
        return f"{name} may not import {found.module}"
    if target_place[0] < row or target_place[1] == room:
        return None
    if (found.in_function or found.for_types) and _within(target, order.lazy.get(name, ())):
        return None
    return f"{name or package} imports {found.module}, which is not left of it"


def private_imports(package: Path) -> list[str]:
    """What a module takes from another room that the room's ``__init__`` does not export.

    A room is a sub-package with an ``__all__``. From outside it one imports names that this lists,
    or one of its modules whose own names all are: what is private to a room can change unseen.
    """
    exported = {
        name: names
        for name, path in modules(package).items()
        if name and path.name == "__init__.py" and (names := _exports(path)) is not None
    }
    wrong = []
    for name, path in modules(package).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            target = _inside(node.module, package.name)
            room = next((r for r in exported if target and _within(target, [r])), None)
            if room is None or _within(name, [room]) or not name:
                continue
            for alias in node.names:
                known = modules(package)
                module = f"{target}.{alias.name}"
                taken = _defined(known[module]) if module in known else {alias.name}
                if private := sorted(taken - exported[room]):
                    wrong.append(f"{path}:{node.lineno}: {', '.join(private)} is private to {room}")
    return wrong


def _exports(path: Path) -> set[str] | None:
    """The literal ``__all__`` of a module; None where there is none."""
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def _defined(path: Path) -> set[str]:
    """Public functions and classes of a module."""
    body = ast.parse(path.read_text(encoding="utf-8"), str(path)).body
    return {
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


def circles(package: Path) -> list[str]:
    """Modules that import one another in a circle as soon as they are imported.

    A package's own ``__init__`` imports its modules and is left out; what it re-exports is
    followed to where it comes from only by name of the package, so that a room stands for all.
    """
    known = modules(package)
    arrows = {
        name: {
            target
            for found in imports(package, name)
            if not (found.in_function or found.for_types)
            and (target := _inside(found.module, package.name)) in known
            and known[target].name != "__init__.py"
        }
        for name in known
    }
    wrong: list[str] = []
    for name in arrows:
        seen, waiting = set(), list(arrows[name])
        while waiting:
            reached = waiting.pop()
            if reached == name:
                wrong.append(f"{known[name]}: {name} imports itself by way of others")
                break
            if reached not in seen:
                seen.add(reached)
                waiting += arrows[reached]
    return wrong
