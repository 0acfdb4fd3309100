"""Compositional rendering without a photograph: text on a wall, or on a thing that hangs or lies there."""

from __future__ import annotations

import numpy as np

from glyphflow.render import captions
from glyphflow.render.compositional import compose
from glyphflow.render.layout import join_lines
from glyphflow.render.media import MEDIA, PLACES, find_medium
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered
from glyphflow.render.textures import TEXTURES


def draw(scene: Scene) -> Rendered:
    """One to three lines written, printed, carved or lit on ``params.medium``; everything in the picture is procedural."""
    rng = scene.rng
    medium = find_medium(scene.params.medium) if scene.params.medium is not None else rng.choice(MEDIA)
    place = rng.choice(PLACES) if medium.loose and rng.random() < 0.6 else None
    stream = np.random.Generator(np.random.PCG64(rng.getrandbits(63)))
    backdrop = None
    if place is not None:
        unit = max(1.0, min(scene.width, scene.height) / 300)
        backdrop = TEXTURES[place[2]](stream, scene.height, scene.width, place[3], unit)
    made = compose(scene, medium, backdrop)
    text = join_lines(made.text)
    result = {}
    for language in ("en", "zh"):
        slots = {
            "q": captions.quote(rng, [text], language)[0],
            "fg": getattr(made.colour, language),
            "medium": getattr(medium, language),
            "unit": medium.unit,
            "manner": made.manner[language == "zh"],
        }
        patterns = captions.SURFACE[language]
        if place is not None:
            slots["place"], patterns = place[language == "zh"], captions.PLACED[language]
        result[language] = captions.phrase(rng, patterns, **slots)
    subject = {
        "text": made.text,
        "text_colour": made.colour.en,
        "fonts": [line.font for line in made.lines],
        "medium": medium.en,
        "manner": made.manner[0],
        "place": place[0] if place is not None else None,
        "path": made.path,
        "effects": made.effects,
        "contrast": made.contrast,
    }
    return Rendered(made.image, made.lines, result, "photograph", "realistic", subject)
