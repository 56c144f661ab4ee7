"""The tutorials run, from the first cell to the last, and what ends a cell can be drawn."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
SMOKE = "CAPTUM_DEDUCE_SMOKE"
"""The environment variable that makes the longest parts of the tutorials shorter."""

WIDEST = 85
"""Characters of a line of code that a page shows without scrolling."""

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def imported(cells: list[str]) -> set[str]:
    """The top-level packages that the cells import."""
    statements = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    names = [
        name.name for node in statements if isinstance(node, ast.Import) for name in node.names
    ]
    names += [node.module or "" for node in statements if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def run_cell(source: str, place: str, names: dict[str, Any]) -> None:
    """Do as a notebook does: run the statements, then draw the value of a last expression."""
    body = ast.parse(source, place).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), place, "exec"), names)
    if last is None:
        return
    value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    for form in ("_repr_html_", "_repr_markdown_", "_repr_png_"):
        if hasattr(value, form):
            getattr(value, form)()


def test_tutorials_are_numbered_in_their_order():
    numbers = [int(notebook.stem.split("_")[0]) for notebook in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))
    assert len(NOTEBOOKS) >= 6


def test_code_fits_a_page():
    wide = [
        f"{notebook.name}: {line}"
        for notebook in NOTEBOOKS
        for cell in code_cells(notebook)
        for line in cell.splitlines()
        if len(line) > WIDEST
    ]
    assert not wide, "\n".join(wide)


def test_cells_that_pages_leave_out_check_something():
    """They hold the sentences of a page to its output."""
    hidden = [
        "".join(cell["source"])
        for notebook in NOTEBOOKS
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if "remove-cell" in cell["metadata"].get("tags", [])
    ]
    assert hidden
    for source in hidden:
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def test_an_error_in_a_cell_or_in_its_picture_is_noticed():
    names: dict[str, Any] = {}
    run_cell("class Broken:\n    def _repr_html_(self):\n        return 1 / 0", "place", names)
    with pytest.raises(ZeroDivisionError):
        run_cell("broken = Broken()\nbroken", "place", names)
    with pytest.raises(NameError):
        run_cell("missing = absent", "place", names)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_tutorial_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv(SMOKE, "1")
    monkeypatch.chdir(tmp_path)
    cells = code_cells(notebook)
    assert len(cells) > 5
    for package in sorted(imported(cells)):
        pytest.importorskip(package, reason=f"the extra `docs` installs {package}")
    names: dict[str, Any] = {}
    try:
        for number, source in enumerate(cells, 1):
            run_cell(source, f"{notebook.name}, code cell {number}", names)
    finally:
        plt.close("all")
