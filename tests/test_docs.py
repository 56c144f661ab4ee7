"""The documentation names everything public, and its tables are of real results."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from captum_deduce import ClassGaussianMixture, DeDUCE, explainers
from captum_deduce.explainers.deduce import PRESETS

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module", autouse=True)
def _docs_extensions():
    """Make the modules of docs/_ext importable while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "_ext"))
        yield
    for module in (DOCS / "_ext").glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def public_names():
    return importlib.import_module("public_names")


def documented(pages: list[Path], names_of) -> set[str]:
    """What the directives of autodoc on some pages describe."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = set(re.findall(r"^\.\. auto(?:class|function|data):: ([\w.]+)", text, re.MULTILINE))
    for module in re.findall(r"^\.\. automodule:: ([\w.]+)", text, re.MULTILINE):
        found |= {f"{module}.{name}" for name in names_of(module)}
    return found


def test_the_api_pages_name_everything_public(public_names):
    pages = [*sorted((DOCS / "api").rglob("*.md")), DOCS / "command-line.md"]
    missing = set(public_names.public_names()) - documented(pages, public_names.names_of)
    assert not missing, f"on no page of docs/api: {sorted(missing)}"


def test_a_missing_name_is_noticed(public_names, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        ".. automodule:: captum_deduce.metrics\n\n.. autoclass:: captum_deduce.DeDUCE\n",
        encoding="utf-8",
    )
    named = documented([page], public_names.names_of)
    assert {"captum_deduce.DeDUCE", "captum_deduce.metrics.l0"} <= named
    assert "captum_deduce.Counterfactuals" in set(public_names.public_names()) - named


def test_what_is_public(public_names):
    modules = public_names.public_modules()
    assert {"captum_deduce", "captum_deduce.explainers", "captum_deduce.search"} <= set(modules)
    for private in ("captum_deduce._version", "captum_deduce.__main__"):
        assert private not in modules
    assert "load_digits" in public_names.names_of("captum_deduce.datasets")
    assert "DATASETS" in public_names.names_of("captum_deduce.datasets")  # a string describes it
    assert "Tensor" not in public_names.names_of("captum_deduce.datasets")  # only imported there
    assert "sheet" not in public_names.names_of("captum_deduce.visualization")  # private to it
    names = public_names.public_names()
    assert "captum_deduce.DeDUCE" in names
    assert "captum_deduce.explainers.DeDUCE" not in names  # the same by a longer path
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("captum_deduce.counterfactuals.Counterfactuals", "captum_deduce.Counterfactuals"),
        ("captum_deduce.explainers.deduce.DeDUCE", "captum_deduce.DeDUCE"),
        ("Counterfactuals.save", "captum_deduce.Counterfactuals.save"),
        ("captum_deduce.JSMA.generate", "captum_deduce.CounterfactualExplainer.generate"),
        ("captum_deduce.metrics.distance.l0", "captum_deduce.metrics.l0"),
        ("spectral_norms", "captum_deduce.spectral.spectral_norms"),
        ("captum_deduce.no_such_thing", None),
        ("no_such_thing", None),
    ],
)
def test_references_find_the_documented_name(public_names, target, name):
    assert public_names.canonical(target) == name


def test_notebooks_are_copied_once_and_stale_copies_go(tmp_path):
    copy_notebooks = importlib.import_module("more_pages").copy_notebooks
    source, pages = tmp_path / "source", tmp_path / "pages"
    source.mkdir()
    (source / "one.ipynb").write_text("1", encoding="utf-8")
    (source / "two.ipynb").write_text("2", encoding="utf-8")
    (source / "README.md").write_text("no notebook", encoding="utf-8")
    copy_notebooks(source, pages)
    before = (pages / "two.ipynb").stat().st_mtime_ns
    (source / "one.ipynb").unlink()
    copy_notebooks(source, pages)
    assert [path.name for path in pages.iterdir()] == ["two.ipynb"]
    assert (pages / "two.ipynb").stat().st_mtime_ns == before
    (source / "two.ipynb").write_text("changed", encoding="utf-8")
    copy_notebooks(source, pages)
    assert (pages / "two.ipynb").read_text(encoding="utf-8") == "changed"


def test_patterns_without_pages_are_left_out():
    without_empty_patterns = importlib.import_module("more_pages").without_empty_patterns
    words = "Words, *emphasised words*\nor *one*\n\n"
    text = f"{words}```{{toctree}}\nguide/*\napi/index\ntutorials/*\n```\n"
    assert without_empty_patterns(text, {"guide/start"}) == text.replace("tutorials/*\n", "")
    assert without_empty_patterns(text, {"guide/start", "tutorials/1"}) == text


def test_the_help_of_every_command_is_shown():
    pytest.importorskip("sphinx")
    command_line = importlib.import_module("command_line")
    text = command_line.help_text()
    assert text.startswith("usage: captum-deduce")
    names = command_line.commands(text)
    assert {"demo", "train", "explain"} <= set(names)
    assert command_line.help_text("train").startswith("usage: captum-deduce train")
    assert command_line.commands(command_line.help_text("train")) == []
    assert command_line.commands(command_line.help_text("study")) == ["make", "analyse"]


def test_the_contract_is_shown_for_every_explainer():
    contract = importlib.import_module("contract")
    assert sorted(contract.BUILDERS) == sorted(explainers.METHODS)


@pytest.mark.slow
def test_the_contract_tables_are_complete():
    contract = importlib.import_module("contract")
    bench = contract.workbench()
    for table, rows in (
        (contract.tools(bench), contract.TOOLS),
        (contract.calls(bench), contract.CALLS),
    ):
        assert table.columns == list(contract.BUILDERS)
        assert list(table.rows) == list(rows)
        assert all(len(cells) == len(table.columns) for cells in table.rows.values())
        assert all(cell for cells in table.rows.values() for cell in cells)
        lines = table._repr_markdown_().splitlines()
        assert len(lines) == len(rows) + 2
        assert {line.count("|") for line in lines} == {len(table.columns) + 2}


def test_a_result_that_breaks_the_contract_is_no_cell():
    contract = importlib.import_module("contract")
    with pytest.raises(contract.ContractError, match="a difference"):
        contract._require(False, "a difference")


@pytest.mark.parametrize("name", list(PRESETS))
def test_what_a_preset_sets_stands_in_its_docstring_and_in_the_guide(name):
    preset, text = PRESETS[name], inspect.getdoc(getattr(DeDUCE, name))
    said = set(re.findall(r"``(\w+=[^`]+)``", text)) - {"noise"}
    assert said == {
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value!r}"
        for key, value in preset.items()
    }
    guide = (DOCS / "guide" / "beyond.md").read_text(encoding="utf-8")
    table = re.search(r"^\| \| default \|.*?\n\n", guide, re.MULTILINE | re.DOTALL)[0]
    rows = [re.split(r" *\| *", line)[1:-1] for line in table.splitlines() if line[:2] == "| "]
    header = [cell.strip("`") for cell in rows[0]]
    defaults = inspect.signature(DeDUCE).parameters
    shown = {}
    for setting, default, *values in rows[1:]:
        key = setting.strip("`")
        assert ast.literal_eval(default) == defaults[key].default
        shown[key] = values[header.index(name) - 2].strip("`")
    assert {key: ast.literal_eval(cell) for key, cell in shown.items() if cell} == preset


def test_broken_links_are_found(tmp_path):
    links = importlib.import_module("internal_links")
    tmp_path = tmp_path / "_static" / "html"  # only its own such folder is left out
    tmp_path.mkdir(parents=True)
    (tmp_path / "api").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "theme.html").write_text('<a href="gone.html">', encoding="utf-8")
    (tmp_path / "a picture.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        '<h1 id="top"><a href="#top"><a href="#bottom"><a href="api/x.html#here"><a href="api/">'
        '<a href="api/x.html#there"><a href="y.html"><img src="a%20picture.png"><img src="b.png">'
        '<a href="https://example.org/y.html#z"><meta name="viewport"><a href="#viewport">'
        '<a name="old"><a href="#old"><a href="/"><a href="..">',
        encoding="utf-8",
    )
    (tmp_path / "api" / "x.html").write_text(
        '<p id="here"><a href="../index.html?q=1#top"><a href="../index.html#middle">',
        encoding="utf-8",
    )
    assert list(links.broken_links(tmp_path)) == [
        ("api/x.html", "../index.html#middle"),
        ("index.html", "#bottom"),
        ("index.html", "api/x.html#there"),
        ("index.html", "y.html"),
        ("index.html", "b.png"),
        ("index.html", "#viewport"),
        ("index.html", "/"),
        ("index.html", ".."),
    ]


def test_modules_without_a_source_are_left_out_of_the_list_of_sources():
    links = importlib.import_module("internal_links")
    environment = SimpleNamespace(_viewcode_modules={"captum_deduce.a": ("text",), "other": False})
    links._without_missing_sources(None, environment)
    assert list(environment._viewcode_modules) == ["captum_deduce.a"]
    links._without_missing_sources(None, SimpleNamespace())


def test_links_back_from_source_lead_to_what_the_package_exports():
    links = importlib.import_module("internal_links")
    back = '<a class="viewcode-back" href="../../api/{}">[docs]</a>'
    body = "".join(
        back.format(f"x.html#captum_deduce.{name}")
        for name in ("prototypes.PrototypeIndex.nearest", "prototypes.encode", "unknown")
    )
    places = {
        "captum_deduce.PrototypeIndex.nearest": "../../api/e.html#captum_deduce.nearest",
        "captum_deduce.prototypes.encode": "../../api/e.html#encode",
    }
    repaired = links.repaired(body, "captum_deduce.prototypes", places)
    assert repaired == back.format("e.html#captum_deduce.nearest") + back.format("e.html#encode")


REFUSED_BY_BOTH = {
    "Hugging Face, as it is": "got ModelOutput",
    "several outputs, as it is": "got tuple",
    "softmax at the end": "must return logits or log-probabilities",
    "binary, one logit, as it is": "C at least 2",
    "multi-label, sigmoids as they are": "must return logits or log-probabilities",
    "half precision": "parameters are torch.bfloat16",
    "quantised": "do not depend on the inputs",
}
LAYERS_REFUSED = {
    "scripted": "scripted or traced",
    "traced": "scripted or traced",
    "exported": "layer ran 0 times",
}


def test_your_model_is_explained_or_refused_with_the_reason():
    your_model = importlib.import_module("your_model")
    forms = list(your_model.forms())
    assert len({form.name for form in forms}) == len(forms) >= 20
    for form in forms:
        for deduce in (False, True):
            said = your_model.outcome(form, deduce)
            reason = REFUSED_BY_BOTH.get(form.name)
            if deduce and form.name in LAYERS_REFUSED:
                reason = LAYERS_REFUSED[form.name]
            if form.name == "compiled" and deduce and "ran 0 times" in said:
                # before 2.6, torch.compile overlooks hooks that come later; it is refused in words
                assert not hasattr(torch.compiler, "set_stance")
                continue
            if reason is None:
                assert said == "works", form.name
            else:
                assert said.startswith("refused: ")
                assert reason in said


def test_a_wrong_answer_is_never_printed():
    your_model = importlib.import_module("your_model")
    form = next(your_model.forms())
    wrong = dataclasses.replace(form, plain=lambda x: -form.plain(x))
    with pytest.raises(your_model.WrongAnswerError, match="a module, in train mode"):
        your_model.outcome(wrong, False)


def test_the_function_for_quantus_takes_and_returns_arrays():
    """It is called as Quantus calls an ``explain_func``."""
    page = (DOCS / "guide" / "faq.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(^def explain_func.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("flatten", torch.nn.Flatten())
    model.add_module("avgpool", torch.nn.Linear(16, 4))
    model.add_module("fc", torch.nn.Linear(4, 3))
    batches = [(torch.rand(60, 1, 4, 4), torch.arange(60) % 3)]
    density = ClassGaussianMixture.fit_loader(model, model.avgpool, batches)
    names = {"torch": torch, "DeDUCE": DeDUCE, "density": density}
    exec(code, names)
    inputs = np.random.default_rng(0).random((5, 1, 4, 4))
    with torch.no_grad():
        scores = model(torch.from_numpy(inputs).float())
    found = names["explain_func"](
        model=model, inputs=inputs, targets=scores.argmax(1).numpy(), device="cpu", normalise=True
    )
    assert isinstance(found, np.ndarray)
    assert found.shape == inputs.shape
    runner_up = scores.topk(2).indices[:, 1]
    explainer = DeDUCE(model, "avgpool", density)
    expected = explainer.attribute(torch.from_numpy(inputs).float(), target=runner_up)
    np.testing.assert_array_equal(found, expected.numpy())
    assert found.any()
