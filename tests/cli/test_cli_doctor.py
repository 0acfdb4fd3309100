"""The doctor names what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata

import pytest

from glyphflow.cli import doctor


def test_every_subject_is_reported() -> None:
    subjects = [finding.subject for finding in doctor.findings()]
    for subject in ("GlyphFlow", "processor", "memory", "disk", "PyTorch", "[corpus]", "[demo]", "fonts", "nano weights"):
        assert subject in subjects


def test_missing_packages_follow_extras_that_include_others(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["torch", 'duckdb>=1; extra == "corpus"', 'glyphflow[corpus]; extra == "train"', 'nowhere<2; extra == "train"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requires)
    monkeypatch.setattr(doctor, "_installed", lambda name: name == "torch")
    assert doctor.missing_packages("train") == ["duckdb", "nowhere"]


def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing_packages", lambda extra: ["duckdb"] if extra == "corpus" else [])
    lines = {finding.subject: finding for finding in doctor._extras()}
    assert lines["[corpus]"].mark == "missing"
    assert 'pip install "glyphflow[corpus]"' in lines["[corpus]"].text
    assert lines["[demo]"].mark == "ok"
