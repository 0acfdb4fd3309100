from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from corpus_pictures import encoded, photo


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder with ``count`` good pictures and captions."""

    def make(count: int = 10, name: str = "pictures") -> Path:
        place = tmp_path / name
        place.mkdir()
        for number in range(count):
            (place / f"picture-{number:03d}.jpg").write_bytes(encoded(photo(number, 200, 160)))
            (place / f"picture-{number:03d}.txt").write_text(f"picture number {number}", encoding="utf-8")
        return place

    return make
