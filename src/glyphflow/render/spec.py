"""What a rendered picture is made from, and what is known about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError

VERSIONS: dict[str, int] = {"paragraph": 2, "photo_text": 2, "poster": 2, "slide": 2}
"""Templates whose pictures are no longer those of the first version."""


@dataclass(frozen=True)
class RenderSpec:
    """A picture as a recipe of a few hundred bytes: template, seed, size in pixels and the template's parameters.

    Drawing takes less time than decoding a PNG of the same picture, so a corpus stores this and renders when it reads.
    ``params`` holds JSON values only; what a template understands is in :class:`glyphflow.render.params.Params`. ``version``
    (default: the template's current one) is part of the spec's text from 2 on, so that whatever is kept by that text notices
    when a template draws other pictures.
    """

    template: str
    seed: int
    width: int
    height: int
    params: dict[str, Any] = field(default_factory=dict)
    version: int = 0

    def __post_init__(self) -> None:
        if not self.version:
            object.__setattr__(self, "version", VERSIONS.get(self.template, 1))

    def to_json(self) -> str:
        """One line of JSON, keys sorted: equal specs give equal text."""
        data = asdict(self)
        if self.version == 1:
            del data["version"]
        return json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RenderSpec:
        """The inverse of :meth:`to_json`; anything else raises :class:`InputError`."""
        try:
            data = json.loads(text)
            return cls(
                template=str(data["template"]),
                seed=int(data["seed"]),
                width=int(data["width"]),
                height=int(data["height"]),
                params=dict(data.get("params", {})),
                version=int(data.get("version", 1)),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{text[:80]!r} is not a render spec ({type(error).__name__}: {error}); "
                "it needs template, seed, width and height."
            ) from error


@dataclass(frozen=True)
class TextLine:
    """One line of text as drawn.

    ``box`` is the *ink* box (x0, y0, x1, y1) in pixels, rounded outwards: every pixel that the line's glyphs touch lies in
    [x0, x1) x [y0, y1). ``quad`` holds the line's four (x, y) corners, clockwise from the top left of the text, where it does
    not stand upright; ``box`` is then the upright box around them. Light around glyphs (a glow) is not ink. ``size_px`` is the
    em size before any perspective, ``colour`` the (R, G, B) of the fill, 0..255.
    """

    text: str
    box: tuple[int, int, int, int]
    font: str
    size_px: float
    colour: tuple[int, int, int]
    vertical: bool = False
    quad: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Rendered:
    """A picture with everything known about it.

    ``image`` is (height, width, 3) uint8 RGB. ``captions`` has the keys "en" and "zh". ``subject`` states in JSON values what
    the picture shows (colours by name, emoji, photograph, medium), for annotation.
    """

    image: npt.NDArray[np.uint8]
    lines: tuple[TextLine, ...]
    captions: dict[str, str]
    image_type: str
    image_style: str
    subject: dict[str, Any]
