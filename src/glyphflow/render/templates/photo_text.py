"""Compositional rendering: a sign, a sheet of paper or a board with text, set into a photograph in perspective."""

from __future__ import annotations

from glyphflow.core.errors import InputError
from glyphflow.render import captions
from glyphflow.render.compositional import compose
from glyphflow.render.layout import join_lines
from glyphflow.render.media import MEDIA, find_medium
from glyphflow.render.photos import PHOTOS, find_photo, load_photo
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered


def draw(scene: Scene) -> Rendered:
    """One to three lines on a medium that covers a third or more of a packaged photograph (``params.photos``)."""
    rng, canvas = scene.rng, scene.canvas
    photo = find_photo(rng.choice(scene.params.photos or tuple(photo.name for photo in PHOTOS)))
    canvas.picture(load_photo(photo.name))
    medium = rng.choice([medium for medium in MEDIA if medium.loose])
    if scene.params.medium is not None:
        medium = find_medium(scene.params.medium)
        if not medium.loose:
            raise InputError(f"{medium.en!r} cannot stand in front of a photograph; the template 'surface' has it.")
    made = compose(scene, medium, canvas.image())
    text = join_lines(made.text)
    result = {}
    for language, patterns in (("en", captions.PHOTO_EN), ("zh", captions.PHOTO_ZH)):
        result[language] = captions.phrase(
            rng,
            patterns,
            q=captions.quote(rng, [text], language)[0],
            fg=getattr(made.colour, language),
            medium=getattr(medium, language),
            place=getattr(photo, language),
            unit=medium.unit,
        )
    subject = {
        "text": made.text,
        "text_colour": made.colour.en,
        "fonts": [line.font for line in made.lines],
        "medium": medium.en,
        "photo": photo.name,
        "photo_package": photo.pip,
        "path": made.path,
        "effects": made.effects,
        "contrast": made.contrast,
    }
    return Rendered(made.image, made.lines, result, "photograph", "realistic", subject)
