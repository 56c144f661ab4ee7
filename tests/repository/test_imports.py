from __future__ import annotations

from pathlib import Path

import pytest

from tests.repository.imports import (
    Order,
    circles,
    imports,
    modules,
    private_imports,
    wrong_imports,
)

ORDER = Order(
    core=[["low"], ["twin_a", "twin_b"], ["high"], ["plugins.*"], ["plugins"], [""]],
    guests=[["gauges"], ["pictures"], ["app"]],
    lazy={"low": ["pictures"]},
    barred={"gauges": ["high", "plugins", ""]},
    granted={"gauges": ["plugins.two"]},
    heavy=["matplotlib"],
)


@pytest.fixture
def house(tmp_path: Path):
    """Write a package `house` from sources by file name, the other modules empty."""

    def write(**sources: str) -> Path:
        package = tmp_path / "house"
        empty = ["__init__", "low", "twin_a", "twin_b", "high", "pictures", "app"]
        empty += ["plugins/__init__", "plugins/one", "plugins/two"]
        empty += ["gauges/__init__", "gauges/ruler", "gauges/scale"]
        files = dict.fromkeys(empty, "") | {
            name.replace("__in__", "/"): source for name, source in sources.items()
        }
        for name, source in files.items():
            path = package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return package

    return write


def test_modules_are_found_by_their_names_inside_the_package(house):
    found = modules(house())
    assert set(found) == {
        *("", "low", "twin_a", "twin_b", "high", "pictures", "app"),
        *("plugins", "plugins.one", "plugins.two", "gauges", "gauges.ruler", "gauges.scale"),
    }
    assert found["plugins"].name == "__init__.py"


@pytest.mark.parametrize(
    ("module", "statement", "expected"),
    [
        ("high", "import house.low", "house.low"),
        ("high", "import house.low as base", "house.low"),
        ("high", "from house.low import name", "house.low"),
        ("high", "from house import low", "house.low"),
        ("high", "from house import name", "house"),
        ("high", "from .low import name", "house.low"),
        ("high", "from . import low", "house.low"),
        ("plugins.one", "from ..low import name", "house.low"),
        ("plugins.one", "from . import two", "house.plugins.two"),
        ("plugins", "from .one import name", "house.plugins.one"),
        ("plugins", "from ..low import name", "house.low"),
        ("high", "import importlib\nimportlib.import_module('house.low')", "house.low"),
        ("high", "__import__('house.low')", "house.low"),
        ("high", "try:\n    import numpy.linalg\nexcept ImportError:\n    pass", "numpy.linalg"),
        ("high", "class A:\n    from house.low import name", "house.low"),
    ],
)
def test_every_form_of_import_is_resolved(house, module, statement, expected):
    file = module.replace(".", "__in__") if module != "plugins" else "plugins__in____init__"
    package = house(**{file: statement})
    assert expected in [found.module for found in imports(package, module)]


def test_imports_know_whether_they_run(house):
    package = house(
        high="from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "def f():\n    if f:\n        import c\n"
        "g = lambda: __import__('d')\n"
    )
    seen = {i.module: (i.in_function, i.for_types) for i in imports(package, "high")}
    assert seen == {
        "typing": (False, False),
        "a": (False, True),
        "b": (False, False),
        "c": (True, False),
        "d": (True, False),
    }


def test_an_import_by_a_computed_name_is_refused(house):
    package = house(high="import importlib\n\ndef f(x):\n    importlib.import_module(x)\n")
    with pytest.raises(ValueError, match=r"house\.high:4: .*computed name"):
        imports(package, "high")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("high", "from house.low import name\nfrom house import twin_a"),
        ("plugins__in__one", "from house.high import name"),
        ("plugins__in____init__", "from house.plugins.one import name"),
        ("__init__", "from house.plugins import name"),
        ("low", "def draw():\n    from house.pictures import plot"),
        ("gauges__in__ruler", "from house.low import name\nfrom house.gauges.scale import name"),
        ("pictures", "import matplotlib.pyplot\nfrom house import name"),
        ("high", "def draw():\n    import matplotlib.pyplot"),
        ("high", "import numpy, torch"),
        ("gauges__in__ruler", "from house.plugins.two import name"),
        ("app", "from house import gauges, pictures, name"),
    ],
)
def test_what_keeps_the_order_passes(house, file, source):
    assert wrong_imports(house(**{file: source}), ORDER) == []


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("low", "import house.high", "low imports house.high, which is not left"),
        ("low", "from .high import name", "low imports house.high, which is not left"),
        ("low", "def f():\n    from house import high", "low imports house.high"),
        ("low", "from house import name", "low imports house, which is not left"),
        ("twin_a", "from house.twin_b import name", "twin_a imports house.twin_b"),
        ("high", "from house.plugins.one import name", "high imports house.plugins.one"),
        ("plugins__in__one", "from .two import name", "plugins.one imports house.plugins.two"),
        ("plugins__in__one", "from house.plugins import x", "plugins.one imports house.plugins"),
        ("plugins__in__one", "def f():\n    from house import gauges", "imports house.gauges"),
        ("__init__", "from house.app import main", "house imports house.app"),
        ("low", "from house.pictures import plot", "low imports house.pictures"),
        ("low", "def f():\n    from house.app import main", "low imports house.app"),
        ("gauges__in__ruler", "from house.high import name", "gauges.ruler may not import"),
        ("gauges__in__ruler", "from house import name", "gauges.ruler may not import house"),
        ("gauges__in__ruler", "from house.pictures import x", "imports house.pictures"),
        ("high", "import matplotlib.pyplot as plt", "high imports matplotlib.pyplot as soon"),
        ("cellar", "", "module 'cellar' stands in no row"),
        ("plugins__in__deep__in__er", "from house.plugins.one import x", "house.plugins.one"),
        ("plugins__in__deep__in__er", "from ..two import x", "house.plugins.two"),
        (
            "low",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.high import name",
            "low imports house.high",
        ),
    ],
)
def test_what_breaks_the_order_is_reported_once_with_its_place(house, file, source, words):
    package = house(**{file: source})
    (report,) = wrong_imports(package, ORDER)
    assert words in report
    assert file.replace("__in__", "/") + ".py" in report


def test_an_import_of_a_module_without_a_place_is_reported_at_both_ends(house):
    reports = wrong_imports(house(cellar="", app="import house.cellar"), ORDER)
    assert len(reports) == 2
    assert "app imports house.cellar, which stands in no row" in reports[0]


@pytest.mark.parametrize(
    ("statement", "private"),
    [
        ("from house.plugins import shown", None),
        ("from house.plugins.one import shown", None),
        ("from house.plugins import one", None),
        ("from house.plugins import hidden", "hidden"),
        ("from house.plugins.two import hidden", "hidden"),
        ("from house.plugins import two", "hidden"),
        ("def f():\n    from house.plugins.two import hidden", "hidden"),
    ],
)
def test_what_a_room_does_not_export_is_private_to_it(house, statement, private):
    package = house(
        plugins__in____init__="from house.plugins.one import shown\n__all__ = ['shown']",
        plugins__in__one="def shown(): ...\ndef _helper(): ...",
        plugins__in__two="from house.plugins.one import shown\nclass hidden: ...",
        app=statement,
    )
    reports = private_imports(package)
    if private is None:
        assert reports == []
    else:
        (report,) = reports
        assert "app.py" in report
        assert report.endswith(f"{private} is private to plugins")


def test_modules_that_import_one_another_are_reported_once_each(house):
    package = house(
        low="from house.twin_a import name",
        twin_a="import house.twin_b",
        twin_b="import house.low",
        high="import house.low",
    )
    assert [report.split(": ")[1].split()[0] for report in circles(package)] == [
        "low",
        "twin_a",
        "twin_b",
    ]
    assert circles(house(low="def f():\n    import house.twin_a", twin_a="import house.low")) == []
