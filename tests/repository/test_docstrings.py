from __future__ import annotations

import pytest

from tests.repository.docstrings import describes, section, undocumented

COMPLETE = '''\
"""A module."""

from dataclasses import dataclass

__all__ = ["shrink"]


def shrink(image, /, *sizes, mode="area", first=1, second=2, **options):
    r"""Shrink an image.

    Args:
        image (Tensor): the image, of shape
            channels x height x width.
        *sizes (int): new sizes.
        mode (str, optional): how. Default: "area"
        first, second (int): two of a kind.
        **options: the rest.

    Returns:
        Tensor: smaller.

    Raises:
        ValueError: if a size is negative.
    """
    if sizes[0] < 0:
        raise ValueError("negative")

    def inner():
        raise KeyError("not of the outer function's doing")

    try:
        return inner()
    except KeyError:
        raise


class Shrinker:
    """Shrinks.

    Args:
        size (int): new size.

    Raises:
        TypeError: if the size is none.
    """

    def __init__(self, size):
        if size is None:
            raise TypeError
        self.size = size

    def __call__(self, image):
        return image

    @property
    def half(self):
        """Half the size."""
        return self.size / 2

    @half.setter
    def half(self, value):
        self.size = 2 * value

    def abstract(self):
        """To be overridden."""
        raise NotImplementedError

    def _private(self, anything):
        raise ValueError


class Other:
    """Documents its constructor there."""

    def __init__(self, size):
        """Remember the size.

        Args:
            size (int): it.
        """


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        image (Tensor): the image.
        score: how good.

    Raises:
        KeyError: if the score is unknown.
    """

    image: object
    score: float
    _cache: object = None

    def __post_init__(self):
        if self.score is None:
            raise KeyError


def _private(anything):
    raise ValueError
'''


@pytest.fixture
def gaps(tmp_path):
    """Return what `undocumented` says of a module's source, without the path."""
    package = tmp_path / "house"

    def of(source: str, **others: str) -> list[str]:
        package.mkdir()
        for name, text in {"module": source, **others}.items():
            (package / f"{name}.py").write_text(text, encoding="utf-8")
        prefix = f"{package / 'module.py'}: "
        return [gap.removeprefix(prefix) for gap in undocumented(package, "module")]

    return of


def test_complete_documentation_passes(gaps):
    assert gaps(COMPLETE) == []


@pytest.mark.parametrize(
    ("present", "absent", "gap"),
    [
        ('"""A module."""\n', "", "the module: no docstring"),
        ("        image (Tensor): the image, of shape\n", "", "shrink: argument image"),
        ("        *sizes (int): new sizes.\n", "", "shrink: argument sizes"),
        ("        mode (str", "        made (str", "shrink: argument mode"),
        ("        first, second (int)", "        first (int)", "shrink: argument second"),
        ("        **options: the rest.\n", "", "shrink: argument options"),
        ("        ValueError: if", "        KeyError: if", "shrink: ValueError is raised"),
        ("    Raises:\n        ValueError", "    ValueError", "shrink: ValueError is raised"),
        ("    Args:\n        size (int): new size.\n", "", "Shrinker: argument size"),
        ("        TypeError: if the size is none.\n", "", "Shrinker: TypeError is raised"),
        ('        """Half the size."""\n', "", "Shrinker.half: no docstring"),
        ("            size (int): it.\n", "", "Other: argument size"),
        ("        score: how good.\n", "", "Result: field score"),
        ("        KeyError: if the score is unknown.\n", "", "Result: KeyError is raised"),
        ("\ndef _private", "\ndef public", "public: no docstring"),
        ("    def _private(self, anything)", "    def other(self)", "Shrinker.other: no docstring"),
        ('    """Documents its constructor there."""\n', "", "Other: no docstring"),
    ],
)
def test_each_omission_is_reported(gaps, present, absent, gap):
    assert COMPLETE.count(present) == 1
    reports = gaps(COMPLETE.replace(present, absent))
    assert len(reports) == 1
    assert reports[0].startswith(gap)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Do.", ["f: an exception is raised and stands in no Raises:"]),
        ("Do.\n\n    Raises:\n        OSError: often.\n    ", []),
    ],
)
def test_an_exception_that_a_function_makes_needs_some_entry(gaps, docstring, expected):
    assert (
        gaps(f'"""M."""\n\n\ndef f():\n    """{docstring}"""\n    raise refusal("x")\n') == expected
    )


OTHER = '''
def f(x):
    """Do.

    Args:
        x (int): it.

    Raises:
        OSError: often.
    """

class C:
    def g(self, x):
        """Do.

        Args:
            x (int): it.
        """
'''


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("see :func:`house.other.f`", []),
        ("see :func:`~house.other.f`", []),
        ("see :meth:`house.other.C.g`", ["h: OSError is raised and stands in no Raises:"]),
        ("see :func:`own`", ["h: OSError is raised and stands in no Raises:"]),
        (
            "see :func:`house.other.missing` and house.other.f",
            [
                "h: argument x stands in no Args:",
                "h: OSError is raised and stands in no Raises:",
            ],
        ),
    ],
)
def test_a_reference_counts_for_what_is_documented_there(gaps, reference, expected):
    source = (
        f'"""M."""\n\ndef h(x):\n    """Do, {reference}."""\n    raise OSError\n\n'
        'def own(x):\n    """Do.\n\n    Args:\n        x: it.\n    """\n'
    )
    assert gaps(source, other=OTHER) == expected


def test_sections_end_where_the_next_begins():
    documentation = "Do.\n\nArgs:\n    a: one.\n\n    b: two.\n\nRaises:\n    KeyError: three.\n"
    assert section(documentation, "Args").split() == ["a:", "one.", "b:", "two."]
    assert section(documentation, "Raises").split() == ["KeyError:", "three."]
    assert section(documentation, "Attributes") == ""


def test_a_name_in_the_prose_of_an_entry_is_no_entry():
    assert describes("    a: like b: two.\n", "a")
    assert not describes("    a: like b: two.\n", "b")
