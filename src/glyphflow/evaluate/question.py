"""A case before its pictures are read: a benchmark asks about files, which may be missing, and a judge sees pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import sha256_file
from glyphflow.evaluate.case import Case, Kind, Verdict, failed
from glyphflow.evaluate.folder import load_picture


@dataclass(frozen=True)
class Question:
    """One question about files.

    ``pictures`` are the paths whose pixels the judge sees, in order; with ``same_size`` all are brought to the first one's
    size (bicubic), with ``size_of`` to that of a picture which the judge does not see. A question of kind "pixels" hands its
    files on unread, because depth maps are no pictures.
    """

    id: str
    kind: Kind
    pictures: tuple[Path, ...]
    request: Mapping[str, Any] = field(default_factory=dict)
    same_size: bool = False
    size_of: Path | None = None

    def load(self, identity: str) -> Case | Verdict:
        """The case to ask the judge ``identity``, or the verdict "missing_image" when a file is missing or broken.

        A case of kind "pixels" carries no image; its request gains ``files`` (paths) and ``sha256`` (of their bytes).
        """
        try:
            if self.kind == "pixels":
                files = [path for path in self.pictures if not path.is_file()]
                if files:
                    raise InputError(f"{files[0]} is missing; make it, or score without it.")
                found = {
                    "files": [str(path) for path in self.pictures],
                    "sha256": [sha256_file(path) for path in self.pictures],
                }
                return Case(self.id, self.kind, (), {**self.request, **found})
            images = [load_picture(path) for path in self.pictures]
            model = images[0] if self.same_size else load_picture(self.size_of) if self.size_of else None
        except InputError as error:
            return failed(identity, "missing_image", str(error))
        if model is not None:
            images = [resize(image, model.shape[1], model.shape[0]) for image in images]
        return Case(self.id, self.kind, tuple(images), self.request)


def resize(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The picture at another size (bicubic, smoothed first where it shrinks); itself where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
