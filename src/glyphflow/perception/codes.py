"""QR codes and bar codes, by zxing-cpp."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.hardware import require
from glyphflow.perception.packaged import check_picture

# Formats whose check digits make a chance find unlikely. Left out: ITF, Codabar, Code 39, Telepen, the two- and five-digit
# add-ons and DX film edges, which stripes of any kind (railings, blinds, text) now and then spell.
FORMATS = ("QRCode", "MicroQRCode", "RMQRCode", "DataMatrix", "Aztec", "PDF417", "MaxiCode", "EAN13", "EAN8", "UPCA", "UPCE",
           "Code128", "Code93", "DataBar", "DataBarExpanded")  # fmt: skip

Corner = tuple[int, int]


@dataclass(frozen=True)
class Code:
    """One code: its format ("QRCode", "EAN13", ...), what it says, and its four (x, y) corners in pixels."""

    format: str
    text: str
    corners: tuple[Corner, ...]

    @property
    def area(self) -> float:
        """Of the quadrilateral, in square pixels."""
        xs, ys = (np.array(values, float) for values in zip(*self.corners, strict=True))
        return float(abs(xs @ np.roll(ys, -1) - ys @ np.roll(xs, -1)) / 2)


def find_codes(image: NDArray[np.uint8]) -> list[Code]:
    """The codes in an (H, W, 3) uint8 RGB picture that can be read, from the top down.

    A code that is blurred or cut beyond reading is not found. May be called from several threads.
    """
    check_picture(image)
    zxing = require("zxingcpp", "curate")
    found = zxing.read_barcodes(np.ascontiguousarray(image), formats=[getattr(zxing.BarcodeFormat, name) for name in FORMATS])
    codes = []
    for code in found:
        place = code.position
        corners = tuple(
            (point.x, point.y) for point in (place.top_left, place.top_right, place.bottom_right, place.bottom_left)
        )
        codes.append(Code(code.format.name, code.text, (corners[0], corners[1], corners[2], corners[3])))
    return sorted(codes, key=lambda code: (min(y for _, y in code.corners), min(x for x, _ in code.corners)))


def identity() -> str:
    """Names the reader's version and the formats."""
    require("zxingcpp", "curate")
    return f"zxing-cpp-{metadata.version('zxing-cpp')}/{'+'.join(FORMATS)}"
