"""The page of what the project survives says what was measured, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield pytest.importorskip("reliability_page")
    sys.modules.pop("reliability_page", None)


@pytest.fixture
def record():
    return json.loads((ROOT / "benchmarks" / "reliability.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_command_writes(module, record):
    assert (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8") == module.page(record)


def test_nothing_that_failed_is_kept(record):
    for name, part in record.items():
        assert part["status"] == 0, name
        assert not part["figures"].get("failed"), name
