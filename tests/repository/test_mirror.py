from __future__ import annotations

import pytest

from tests.repository.mirror import silent_tests, untested


def test_each_module_with_code_needs_its_test_file(tmp_path):
    package, tests = tmp_path / "house", tmp_path / "tests"
    sources = {
        "__init__.py": '"""Names only."""\nfrom house.a import f\n',
        "_version.py": "__version__ = '1'\n",
        "a.py": "def f(): ...\n",
        "rooms/__init__.py": "class C: ...\n",
        "rooms/b.py": "def f(): ...\n",
        "rooms/c.py": "if True:\n    def f(): ...\n",
    }
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source, encoding="utf-8")
    present = ["test_a.py", "test_rooms.py", "rooms/test_b.py"]
    for name in present:
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).write_text("", encoding="utf-8")

    (report,) = untested(package, tests)
    assert report.endswith(str(tests / "rooms" / "test_c.py"))
    (tests / "rooms" / "test_b.py").unlink()
    assert len(untested(package, tests)) == 2


@pytest.mark.parametrize(
    "body",
    [
        "assert x",
        "with pytest.raises(ValueError):\n        f()",
        "torch.testing.assert_close(a, b)",
        "helper(a)",
        "for a in b:\n        indirect(a)",
        "_check_parity(a)",
    ],
)
def test_tests_that_assert_pass(tmp_path, body):
    path = tmp_path / "test_x.py"
    path.write_text(
        f"def helper(a):\n    assert a\n\n\ndef indirect(a):\n    helper(a)\n\n\n"
        f"def test_something():\n    {body}\n",
        encoding="utf-8",
    )
    assert silent_tests(path) == []


@pytest.mark.parametrize("body", ["f(x)", "print(helper)", "x = 'assert y'", "silent(x)"])
def test_tests_that_cannot_fail_are_reported(tmp_path, body):
    path = tmp_path / "test_x.py"
    path.write_text(
        f"def helper(a):\n    assert a\n\n\ndef silent(a):\n    pass\n\n\n"
        f"class TestIt:\n    def test_something(self):\n        {body}\n",
        encoding="utf-8",
    )
    (report,) = silent_tests(path)
    assert report == f"{path}:10: test_something asserts nothing"


def test_a_test_file_without_tests_is_reported(tmp_path):
    path = tmp_path / "test_x.py"
    path.write_text("assert True\n", encoding="utf-8")
    assert silent_tests(path) == [f"{path}: no test in it"]
