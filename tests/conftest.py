"""What every test has: a memory of its own for where files lie, so that no test finds another's (or the user's) by its hash."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = tmp_path_factory.getbasetemp() / "own-cache"
    monkeypatch.setenv("GLYPHFLOW_CACHE", str(own))
    return own
