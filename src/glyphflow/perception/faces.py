"""Faces, by the Haar cascades that OpenCV carries: frontal ones well, profiles and tilted heads often not."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file
from glyphflow.perception.packaged import check_picture

CASCADE = "haarcascade_frontalface_alt2.xml"
LONG_SIDE = 640  # px: larger pictures are searched at this size
SMALLEST = 0.05  # of the short side: smaller faces are not looked for
STEP = 1.1  # between the scales that are tried
NEIGHBOURS = 5  # overlapping finds that make a face; 3 is OpenCV's own, which takes leaves and bricks for faces


@dataclass(frozen=True)
class Face:
    """A face's square box in pixels of the picture; ``certainty`` is the sum of the cascade's last stage (higher: surer)."""

    x: int
    y: int
    width: int
    height: int
    certainty: float


class Faces:
    """Finds faces. One instance may be used from several threads (a cascade may not, so each thread loads its own)."""

    def __init__(self) -> None:
        self._cv2 = require("cv2", "corpus")
        if not hasattr(self._cv2, "CascadeClassifier"):
            raise MissingError(
                f"OpenCV {self._cv2.__version__} has no cascade classifiers (5 dropped them); "
                "run: pip install 'opencv-python-headless<5'"
            )
        self._path = Path(self._cv2.data.haarcascades) / CASCADE
        if not self._path.is_file():
            raise MissingError(f"this OpenCV carries no {CASCADE}; run: pip install 'opencv-python-headless<5'")
        self._own = threading.local()

    @functools.cached_property
    def identity(self) -> str:
        """Names the cascade, OpenCV's version, and how it is searched."""
        return f"opencv-{self._cv2.__version__}+{sha256_file(self._path)[:8]}/{LONG_SIDE}-{SMALLEST}-{STEP}-{NEIGHBOURS}"

    def find(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in an (H, W, 3) uint8 RGB picture, the largest first."""
        check_picture(image)
        cv2 = self._cv2
        height, width = image.shape[:2]
        gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        scale = min(1.0, LONG_SIDE / max(height, width))
        if scale < 1:
            gray = cv2.resize(gray, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
        least = max(20, round(SMALLEST * min(gray.shape)))  # 20 px is what the cascade was trained on
        boxes, _, weights = self._cascade().detectMultiScale3(
            cv2.equalizeHist(gray), STEP, NEIGHBOURS, minSize=(least, least), outputRejectLevels=True
        )
        faces = []
        for box, weight in zip(boxes, np.ravel(weights), strict=True):
            x, y, wide, tall = (round(float(value) / scale) for value in box)
            faces.append(Face(x, y, wide, tall, float(weight)))
        return sorted(faces, key=lambda face: (-face.width * face.height, face.y, face.x))

    def _cascade(self) -> Any:
        if not hasattr(self._own, "cascade"):
            self._own.cascade = self._cv2.CascadeClassifier(str(self._path))
        return self._own.cascade
