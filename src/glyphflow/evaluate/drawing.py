"""Pictures that benchmarks and judges draw: what a model is given, what it should have made, what that is held against.

Those that a model is given must be files. They are a function of what ships, so they lie in a folder of the user's cache, are
drawn where they are missing, and may be deleted at any time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path
from glyphflow.core.hashing import fingerprint
from glyphflow.evaluate.folder import load_picture

if TYPE_CHECKING:
    from glyphflow.render import FontLibrary, Rendered, RenderSpec

ATTEMPTS = 64  # seeds for two colours, whose order each seed chooses like a coin


@cache
def library() -> FontLibrary:
    """Every typeface of the manifest, opened once in a process."""
    from glyphflow.render import FontLibrary

    return FontLibrary.from_manifest()


def in_colours(spec: RenderSpec, ink: str, ground: str) -> Rendered:
    """``spec`` ("word" or "emoji") drawn in two colours of the palette, with the first seed from its own on that does so.

    Two colours that are too alike to be read on one another are an :class:`InputError`.
    """
    from glyphflow.render import render

    for seed in range(spec.seed, spec.seed + ATTEMPTS):
        made = render(replace(spec, seed=seed, params={**spec.params, "palette": [ink, ground]}), library())
        if (made.subject.get("text_colour", made.subject.get("emoji_colour")), made.subject["background"]) == (ink, ground):
            return made
    raise InputError(f"The template {spec.template!r} was not drawn in {ink} on {ground} by {ATTEMPTS} seeds; use another.")


def cache_folder(name: str) -> Path:
    """The folder ``name`` of what this user's evaluations can make again: below $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "glyphflow" / "evaluate" / name


def folder_of(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Where the pictures of a benchmark's rows lie: another folder as soon as a row is another."""
    return cache_folder(name) / fingerprint(list(rows))


def keep(spec: RenderSpec, path: Path) -> None:
    """Draw ``spec`` to ``path`` where it is missing."""
    from glyphflow.render import render

    if not path.is_file():
        write_png(path, render(spec, library()).image)


def keep_pair(spec: RenderSpec, source: Path, mask: Path, target: Path) -> None:
    """Draw the three pictures of an edit pair where one is missing."""
    from glyphflow.render import render_edit

    if not all(path.is_file() for path in (source, mask, target)):
        pair = render_edit(spec, library())
        for path, image in ((source, pair.source.image), (mask, pair.mask), (target, pair.target.image)):
            write_png(path, image)


def keep_square(photograph: Path, side: int, path: Path) -> None:
    """Write the middle square of a picture, shrunk by area to ``side`` pixels, to ``path`` where it is missing."""
    if not path.is_file():
        image = load_picture(photograph)
        whole = min(image.shape[:2])
        top, left = (image.shape[0] - whole) // 2, (image.shape[1] - whole) // 2
        square = Image.fromarray(image[top : top + whole, left : left + whole])
        write_png(path, np.asarray(square.resize((side, side), Image.Resampling.BOX)))


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) or (H, W) uint8 to ``path`` atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
