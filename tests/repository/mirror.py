"""Tests mirror the package, and every test asserts something."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.repository.imports import modules

Function = ast.FunctionDef | ast.AsyncFunctionDef


def untested(package: Path, tests: Path) -> list[str]:
    """Modules without a test file of their own: a/b.py -> tests/a/test_b.py.

    Exempt are modules that define no function and no class: names, versions, entry points.
    """
    missing = []
    for name, path in modules(package).items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        if not any(isinstance(node, Function | ast.ClassDef) for node in ast.walk(tree)):
            continue
        *folders, stem = (name or package.name).split(".")
        expected = tests.joinpath(*folders, f"test_{stem}.py")
        if not expected.is_file():
            missing.append(f"{path}: no {expected}")
    return missing


def silent_tests(path: Path) -> list[str]:
    """Test functions in which nothing is asserted, and test files without a test function.

    A test asserts with `assert`, with `pytest.raises`, `warns` or `fail`, or by calling something
    named `assert...` or `check...`, or a function of its own file that asserts.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    asserting = {node.name for node in functions if _asserts(node)}
    while True:
        reached = {node.name for node in functions if asserting & set(_calls(node))}
        if reached <= asserting:
            break
        asserting |= reached
    tests = [node for node in functions if node.name.startswith("test")]
    if not tests:
        return [f"{path}: no test in it"]
    return [
        f"{path}:{node.lineno}: {node.name} asserts nothing"
        for node in tests
        if node.name not in asserting
    ]


def _calls(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rsplit(".", 1)[-1]


def _asserts(function: ast.AST) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(function)) or any(
        name in ("raises", "warns", "fail") or name.lstrip("_").startswith(("assert", "check"))
        for name in _calls(function)
    )
