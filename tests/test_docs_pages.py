"""The pages keep their form: one for each method and explainer, with code that fits."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from captum_deduce import explainers

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)

WIDTH = 86
"""Columns of code that a page shows without a scroll bar."""

KINDS = r"\{code-cell\}[^\n]*|python|bash|text"
BLOCK = re.compile(rf"^```({KINDS})\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _docs_extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    yield
    for extension in (DOCS / "_ext").glob("*.py"):
        sys.modules.pop(extension.stem, None)


def code(page: Path) -> Iterator[str]:
    """The lines of code on a page."""
    for _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield from block.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_fits_into_the_page(page):
    assert [line for line in code(page) if len(line) > WIDTH] == []


def test_code_is_found_in_every_kind_of_block(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "prose\n```{code-cell} ipython3\na = 1\n```\nprose\n```python\nb = 2\n```\n"
        "```text\nc\n```\n```{image} d.png\n```\n",
        encoding="utf-8",
    )
    assert list(code(page)) == ["a = 1", "b = 2", "c"]


def test_the_benchmarks_commands_fit_into_their_page():
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}(.*python benchmarks/.*)$", readme, re.MULTILINE)
    assert len(commands) > 20
    assert [line for line in commands if len(line) > WIDTH] == []


@pytest.mark.parametrize("folder", ["methods", "api/explainers"])
def test_every_method_has_its_page(folder):
    named = {page.stem for page in (DOCS / folder).glob("*.md")}
    assert named - {"CounterfactualExplainer"} == set(explainers.METHODS)


@pytest.mark.parametrize("method", explainers.METHODS)
def test_a_method_s_page_says_what_a_user_asks(method):
    page = (DOCS / "methods" / f"{method}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert {"What it needs", "What it costs", "When it fails"} <= set(headings)
    assert re.search(r"\{cite:p\}|no paper", page)
    assert f"{{class}}`captum_deduce.{method}`" in page
    assert re.search(r"^\$\$\n|^\| `distance`", page, re.MULTILINE), "no formula"


def test_pages_that_use_a_class_are_found(tmp_path):
    pytest.importorskip("sphinx")
    pages_using = import_module("examples_using").pages_using
    for folder in ("methods", "guide", "tutorials"):
        (tmp_path / folder).mkdir()
    shown = "```{code-cell} ipython3\n:tags: [wrap]\n\nresult = JSMA(model)\n```\n"
    (tmp_path / "methods" / "a.md").write_text(shown, encoding="utf-8")
    (tmp_path / "guide" / "b.md").write_text("Not code: JSMA(model)\n", encoding="utf-8")
    (tmp_path / "guide" / "c.md").write_text(
        "```{code-cell} ipython3\nx = 1\n```\nJSMA(model)\n```python\ny = DeDUCE.closest(m)\n```\n",
        encoding="utf-8",
    )
    cells = [
        {"cell_type": "markdown", "source": ["DeDUCE(model)"]},
        {"cell_type": "code", "source": ["JSMA(model)\n", "z = 1"]},
    ]
    (tmp_path / "tutorials" / "1.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")

    def names(name):
        return [page.name for page in pages_using(name, tmp_path)]

    assert names("JSMA") == ["a.md", "1.ipynb"]
    assert names("DeDUCE") == ["c.md"]


def test_a_tutorial_s_page_links_to_its_notebook():
    with_download = import_module("more_pages").with_download
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "\n", "Words."]},
        {"cell_type": "code", "source": ["x = 1"]},
    ]
    shown = json.loads(with_download(json.dumps({"cells": cells, "nbformat": 4}), "1.ipynb"))
    title, _, link, *rest = shown["cells"][0]["source"].split("\n")
    assert title == "# A title"
    assert link == "{download}`Download this tutorial as a notebook <1.ipynb>`"
    assert rest == ["", "Words."]
    assert shown["cells"][1] == cells[1]
    assert shown["nbformat"] == 4


def test_examples_that_pages_load_are_there_and_parse():
    loaded = set()
    for page in DOCS.rglob("*.md"):
        for path in re.findall(r"^:load: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            loaded.add((page.parent / path).resolve())
    assert DOCS / "_examples" / "methods.py" in loaded
    for path in loaded:
        ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Sphinx:
    """What pages are made of, and an empty page."""

    nodes: ModuleType
    addnodes: ModuleType
    page: Any


@pytest.fixture
def sphinx() -> Sphinx:
    addnodes = pytest.importorskip("sphinx.addnodes")
    nodes, utils = import_module("docutils.nodes"), import_module("docutils.utils")
    return Sphinx(nodes, addnodes, utils.new_document("page"))


def test_short_names_are_marked_to_stay_on_one_line(sphinx):
    nodes, page = sphinx.nodes, sphinx.page
    keep_whole = import_module("unbroken_names").keep_whole
    texts = ["--help", "generate(images, target)", "x" * 25, "captum_deduce.ClassGaussianMixture"]
    page += nodes.paragraph("", "", *[nodes.literal(text=text) for text in texts])
    keep_whole(page)
    whole = [literal.astext() for literal in page.findall(nodes.literal) if literal["classes"]]
    assert whole == texts[:2]


def test_a_page_of_several_names_begins_with_links_to_them():
    pytest.importorskip("sphinx")
    nodes, addnodes = import_module("docutils.nodes"), import_module("sphinx.addnodes")
    new_document = import_module("docutils.utils").new_document

    def entry(name, *members):
        signature = addnodes.desc_signature(name, "", ids=[name])
        return addnodes.desc("", signature, addnodes.desc_content("", *members))

    def page(*entries):
        document = new_document("page")
        document += nodes.section("", nodes.title(text="Density"), *entries)
        import_module("names_on_page").add_links(document)
        return document

    several = page(entry("house.Density", entry("house.Density.fit")), entry("house.room.LIMIT"))
    title, line, *_ = several[0]
    assert isinstance(title, nodes.title)
    assert line.astext() == "On this page: Density, LIMIT"
    links = [link["refid"] for link in line.findall(nodes.reference)]
    assert links == ["house.Density", "house.room.LIMIT"]
    alone = page(entry("house.Density", entry("house.Density.fit")))
    assert not list(alone.findall(nodes.reference))


def test_pictures_without_an_alternative_text_are_found(sphinx):
    nodes, page = sphinx.nodes, sphinx.page
    without_text = import_module("picture_texts").without_text
    page += nodes.image(uri="a.png", alt="A digit")
    page += nodes.paragraph("", "", nodes.image(uri="b.png"), nodes.image(uri="c.png", alt=" "))
    assert [picture["uri"] for picture in without_text(page)] == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (":param num_images: N.", r":param num_images: \N."),
        ("   C. Default: None", r"   \C. Default: None"),
        (":returns: K. The nearest first.", r":returns: \K. The nearest first."),
        (":param size: N x C.", ":param size: N x C."),
        ("1. A numbered list", "1. A numbered list"),
        ("A.ny", "A.ny"),
    ],
)
def test_a_letter_that_is_a_sentence_starts_no_list(line, shown):
    pytest.importorskip("sphinx")
    assert import_module("readable_docstrings").without_lists(line) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{'DeDUCE': <class 'house.methods.DeDUCE'>}", "{'DeDUCE': DeDUCE}"),
        ("{'L1': <function Counterfactuals.l1>, 'a_b': 1}", "{'L1': l1, 'a_b': 1}"),
        ("(<function _check_fit>, <function _check_integral>)", None),
        (str(list(range(200))), None),
    ],
)
def test_values_are_readable(sphinx, value, shown):
    nodes, addnodes, page = sphinx.nodes, sphinx.addnodes, sphinx.page
    name = addnodes.desc_name("LIMIT", "LIMIT")
    annotation = addnodes.desc_annotation("", "", nodes.Text(" = "), nodes.Text(value))
    page += addnodes.desc("", addnodes.desc_signature("", "", name, annotation))
    import_module("readable_docstrings").shorten_values(page)
    assert page.astext() == ("LIMIT" if shown is None else f"LIMIT = {shown}")


@pytest.mark.parametrize(("pages", "processes"), [(0, 2), (1, 2), (7, 3), (100, 2), (101, 16)])
def test_every_process_that_reads_pages_gets_some_of_every_folder(pages, processes):
    make_chunks = pytest.importorskip("sphinx.util.parallel").make_chunks
    dealt = import_module("shared_reading").dealt
    names = [f"{number:03}" for number in range(pages)]
    found = dealt(names, processes)
    assert sorted(found) == names
    chunks = make_chunks(found, processes)
    for start in range(0, pages - pages // 4, max(pages // 4, 1)):
        folder = set(names[start : start + len(chunks)])
        assert sum(bool(folder & set(chunk)) for chunk in chunks) >= min(len(chunks), 2)


def test_warnings_are_shown_without_the_machine_s_paths():
    pytest.importorskip("sphinx")
    without_place = import_module("printed_warnings").without_place
    given = (
        "/kernel/2.py:3: UserWarning: few samples\n  density = fit(\n"
        "/package/b.py:14: FutureWarning: old\n  warnings.warn(\n"
    )
    assert without_place(given) == "UserWarning: few samples\nFutureWarning: old\n"
    assert without_place("Traceback:\n  line") == "Traceback:\n  line"


@pytest.mark.parametrize(
    ("default", "shown"),
    [("<class 'torch.nn.ReLU'>", "kind=ReLU"), ("(1, 2)", "kind=(1, 2)"), ("'x y'" * 9, "kind=…")],
)
def test_defaults_fit_on_a_line(sphinx, default, shown):
    nodes, addnodes, page = sphinx.nodes, sphinx.addnodes, sphinx.page
    value = nodes.inline("", default, classes=["default_value"])
    argument = addnodes.desc_parameter("", "", nodes.Text("kind="), value)
    page += addnodes.desc("", addnodes.desc_signature("", "", argument))
    import_module("readable_docstrings").shorten_values(page)
    assert argument.astext() == shown
