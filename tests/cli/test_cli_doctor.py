"""The doctor names what is missing, what is broken and how to get it, and says "ok" only for what works."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from glyphflow.cli import doctor, extras

REQUIRES = [
    "torch",
    'duckdb>=1; extra == "corpus"',
    'glyphflow[corpus]; extra == "train"',
    'nowhere<2; extra == "train"',
    'elsewhere; sys_platform == "nowhere" and extra == "train"',
]


def names(extra: str) -> list[str]:
    return [requirement.name for requirement in extras.requirements(extra)]


def test_every_subject_is_reported() -> None:
    subjects = [finding.subject for finding in doctor.findings()]
    for subject in (
        "GlyphFlow",
        "processor",
        "memory",
        "disk",
        "PyTorch",
        "[corpus]",
        "[curate]",
        "[demo]",
        "fonts",
        "nano weights",
    ):
        assert subject in subjects


def test_every_extra_of_the_package_has_its_line() -> None:
    assert set(importlib.metadata.metadata("glyphflow").get_all("Provides-Extra") or ()) == set(doctor.EXTRAS)


def test_requirements_follow_extras_that_include_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
    assert names("train") == ["duckdb", "nowhere"]  # no base package, and nothing that another system needs
    assert names("corpus") == ["duckdb"]
    assert names("demo") == []


def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRES)
    lines = {finding.subject: finding for finding in doctor._extras()}
    assert lines["[train]"].mark == "missing"
    assert "nowhere: not installed" in lines["[train]"].text
    assert 'pip install -c constraints.txt ".[train]"' in lines["[train]"].text
    assert lines["[corpus]"].mark == lines["[demo]"].mark == "ok"


def test_what_is_installed_and_does_not_work_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {"good": "print('a library that talks')", "raises": "raise OSError('libGL.so.1 is missing')"}
    bodies |= {"crashes": "import os; os._exit(9)", "late": ""}
    for name, body in bodies.items():
        (tmp_path / f"probe_{name}.py").write_text(body, encoding="utf-8")
        folder = tmp_path / f"probe_{name}-2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: probe-{name}\nVersion: 2.0\n", encoding="utf-8")
        (folder / "top_level.txt").write_text(f"probe_{name}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wanted = ["probe-good>=1", "probe-raises", "probe-crashes", "probe-late>=3", "probe-absent"]
    found = extras.problems(map(Requirement, wanted))
    assert "probe-good" not in found
    assert "libGL.so.1" in found["probe-raises"]
    assert "ends the process" in found["probe-crashes"]
    assert "2.0" in found["probe-late"] and ">=3" in found["probe-late"]
    assert found["probe-absent"] == "not installed"
    assert not [
        module for module in sys.modules.values() if isinstance(module, types.ModuleType) and module.__name__ == "probe_good"
    ]
