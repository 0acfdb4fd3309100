"""What ink, light, lens and time do to text: each effect is a named function of a picture, a strength and a random stream.

*Inks* bring text onto a surface: they take the text's coverage mask and its colour. *Wears* change the finished surface.
*Lenses* change the whole picture after the surface has been set into it. A strength is in (0, 1]: at 0 an effect would do
nothing, at 1 it does as much as leaves ordinary text legible. The same stream gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.render.palette import RGB
from glyphflow.render.textures import Picture, Plane, noise

Mask = npt.NDArray[np.uint8]
"""(height, width): 255 where a glyph covers the pixel."""
Ink = Callable[[Picture, Mask, RGB, float, np.random.Generator, float], Picture]
"""(surface, mask, colour, strength, random stream, pixels of an em) -> surface with text."""
Change = Callable[[Picture, float, np.random.Generator], Picture]
"""(picture, strength, random stream) -> picture."""


def _cv() -> Any:
    return require("cv2", "corpus")


def _blend(surface: Picture, cover: Plane, rgb: RGB) -> Picture:
    """``rgb`` over ``surface`` where ``cover`` (height, width) in [0, 1] says so."""
    ground = surface.astype(np.float32)
    mixed: Picture = (ground + (np.array(rgb, np.float32) - ground) * cover[..., None] + 0.5).astype(np.uint8)
    return mixed


def _soft(plane: npt.NDArray[Any], sigma: float) -> Plane:
    blurred: Plane = _cv().GaussianBlur(plane.astype(np.float32), (0, 0), max(sigma, 0.15))
    return blurred


def print_(surface: Picture, mask: Mask, rgb: RGB, strength: float, rng: np.random.Generator, em: float) -> Picture:
    """Printed or painted: full cover, through which a little of the surface's grain shows."""
    return _blend(surface, mask.astype(np.float32) * ((1 - 0.12 * strength) / 255), rgb)


def bleed(surface: Picture, mask: Mask, rgb: RGB, strength: float, rng: np.random.Generator, em: float) -> Picture:
    """Ink that runs into the fibres: edges frayed and grown by up to 3 % of an em, cover uneven."""
    cover = _soft(mask, 0.012 * em * (0.5 + strength)) / 255
    height, width = mask.shape
    frayed = cover + 0.22 * strength * noise(rng, height, width, 0.03 * em, 0.03 * em)
    sharp = np.clip((frayed - 0.38) * 4, 0, 1)
    pools = 1 - 0.18 * strength * (0.5 + 0.5 * noise(rng, height, width, 0.5 * em, 0.5 * em))
    return _blend(surface, (sharp * pools).astype(np.float32), rgb)


def chalk(surface: Picture, mask: Mask, rgb: RGB, strength: float, rng: np.random.Generator, em: float) -> Picture:
    """Chalk: strokes with grains left out and dust around them."""
    height, width = mask.shape
    grain = noise(rng, height, width, max(1.0, 0.02 * em), max(1.0, 0.02 * em))
    cover = mask.astype(np.float32) / 255 * np.clip(1.1 - 0.75 * strength * np.clip(grain - 0.05, 0, 1), 0, 1)
    dust = 0.1 * strength * _soft(mask, 0.06 * em) / 255
    return _blend(surface, np.maximum(cover, dust), rgb)


def emboss(surface: Picture, mask: Mask, rgb: RGB, strength: float, rng: np.random.Generator, em: float) -> Picture:
    """Carved and filled with colour: one edge in shade, the other in light, from the upper left."""
    depth = max(1.0, 0.03 * em)
    height = _soft(mask, 0.4 * depth) / 255
    move = np.array([[1, 0, depth], [0, 1, depth]], np.float32)
    behind: Plane = _cv().warpAffine(height, move, (mask.shape[1], mask.shape[0]))
    filled = _blend(surface, mask.astype(np.float32) * (0.92 / 255), rgb).astype(np.float32)
    shade = np.clip(1 - behind, 0, 1) * (mask.astype(np.float32) / 255)  # the wall that hides the light
    rim = np.clip(behind - height, 0, 1)  # the far edge, which catches it
    carved = filled * (1 - 0.45 * strength * shade[..., None]) + 90 * strength * rim[..., None]
    done: Picture = np.clip(carved, 0, 255).astype(np.uint8)
    return done


def glow(surface: Picture, mask: Mask, rgb: RGB, strength: float, rng: np.random.Generator, em: float) -> Picture:
    """Light tubes: bright strokes in a halo of their colour."""
    halo = np.clip((_soft(mask, 0.08 * em) * 0.7 + _soft(mask, 0.3 * em) * 0.8) / 255, 0, 1)
    lit = surface.astype(np.float32) + halo[..., None] * strength * 0.6 * np.array(rgb, np.float32)
    core = tuple(round(c + (255 - c) * (0.15 + 0.45 * strength)) for c in rgb)
    cover: Plane = mask.astype(np.float32) * np.float32(1 / 255)
    return _blend(np.clip(lit, 0, 255).astype(np.uint8), cover, (core[0], core[1], core[2]))


def scratches(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Thin bright and dark lines, straight or nearly so."""
    opencv, worn = _cv(), picture.copy()
    height, width = picture.shape[:2]
    side = max(height, width)
    for _ in range(int(4 + 22 * strength)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.05, 0.4) * side
        end = (int(x + length * np.cos(angle)), int(y + length * np.sin(angle)))
        level = int(rng.choice((30, 60, 200, 235)))
        layer = worn.copy()
        opencv.line(layer, (int(x), int(y)), end, (level, level, level), max(1, side // 500), opencv.LINE_AA)
        worn = opencv.addWeighted(layer, 0.55, worn, 0.45, 0)
    return worn


def stains(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Brownish blotches and a darkened rim."""
    height, width = picture.shape[:2]
    blotch = np.clip(noise(rng, height, width, height / 3, width / 3) - 0.15, 0, 1)
    y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None]
    x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None, :]
    dirt = strength * (0.35 * blotch + 0.3 * np.maximum(x, y) ** 8)
    dirty: Picture = (picture * (1 - dirt[..., None] * np.array([0.35, 0.5, 0.75], np.float32))).astype(np.uint8)
    return dirty


def shading(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Light that falls off from one side."""
    height, width = picture.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    fall = 0.5 + 0.35 * (x * np.cos(angle) + y * np.sin(angle))
    shaded: Picture = (picture * (1 - 0.5 * strength * np.clip(fall, 0, 1))[..., None]).astype(np.uint8)
    return shaded


def shadow(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """The soft shadow of something outside the picture: a half-plane of darkness with a blurred edge."""
    height, width = picture.shape[:2]
    angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    edge = np.clip((x * np.cos(angle) + y * np.sin(angle) - place) / 0.12 + 0.5, 0, 1)
    dark: Picture = (picture * (1 - 0.5 * strength * edge)[..., None]).astype(np.uint8)
    return dark


def blur(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Out of focus: a Gaussian of up to 0.3 % of the longer side."""
    soft: Picture = _cv().GaussianBlur(picture, (0, 0), max(0.3, strength * 0.003 * max(picture.shape[:2])))
    return soft


def grain(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Sensor noise, standard deviation up to 14 of 255."""
    speckle = rng.standard_normal(picture.shape, dtype=np.float32) * (14 * strength)
    noisy: Picture = np.clip(picture + speckle, 0, 255).astype(np.uint8)
    return noisy


def jpeg(picture: Picture, strength: float, rng: np.random.Generator) -> Picture:
    """Compressed and read back, at a quality from 80 down to 25."""
    opencv = _cv()
    quality = int(80 - 55 * strength)
    _, data = opencv.imencode(".jpg", picture[..., ::-1], [opencv.IMWRITE_JPEG_QUALITY, quality])
    restored: Picture = np.ascontiguousarray(opencv.imdecode(data, opencv.IMREAD_COLOR)[..., ::-1])
    return restored


INKS: dict[str, Ink] = {"print": print_, "bleed": bleed, "chalk": chalk, "emboss": emboss, "glow": glow}
WEARS: dict[str, Change] = {"scratches": scratches, "stains": stains}
LENSES: dict[str, Change] = {"shading": shading, "shadow": shadow, "blur": blur, "grain": grain, "jpeg": jpeg}
EFFECTS: tuple[str, ...] = (*INKS, *WEARS, *LENSES, "perspective")
"""Names that a spec's ``effects`` may have; "perspective" turns and tilts the surface."""


def parse_effects(names: tuple[str, ...]) -> dict[str, float | None]:
    """``names`` of a spec, each alone or with its strength ("blur:0.5"), as {name: strength or None}."""
    found: dict[str, float | None] = {}
    for entry in names:
        name, _, amount = entry.partition(":")
        if name not in EFFECTS:
            raise InputError(f"There is no effect {name!r}; there are {', '.join(EFFECTS)}.")
        try:
            strength = float(amount) if amount else None
        except ValueError:
            strength = -1.0
        if strength is not None and not 0 < strength <= 1:
            raise InputError(f"The strength {amount!r} of the effect {name!r} is not a number above 0 and up to 1.")
        found[name] = strength
    if len(inks := [name for name in found if name in INKS]) > 1:
        raise InputError(f"Text has one ink, and effects names {' and '.join(inks)}; keep one of them.")
    return found
