"""One emoji, large, in a stated colour on a stated ground."""

from __future__ import annotations

from glyphflow.render import captions
from glyphflow.render.canvas import outward
from glyphflow.render.palette import colours, pick_pair
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered

_MARGIN = 0.06


def draw(scene: Scene) -> Rendered:
    """A single glyph of the first font in ``params.fonts`` (default: noto-emoji); a colour font brings its own colours."""
    rng, canvas = scene.rng, scene.canvas
    font = scene.fonts.font((scene.params.fonts or ("noto-emoji",))[0])
    coloured = font.entry.style == "colour"
    one = scene.pick_emoji(font)
    ink_colour, ground = pick_pair(rng, scene.params.palette)
    if coloured:
        light = [c for c in colours(scene.params.palette) if c.en in ("white", "beige", "light blue", "gray")]
        ground = rng.choice(light or [ground])
    facts = scene.paint_ground(ground, ground.rgb if coloured else ink_colour.rgb)

    run = font.shape(one.text)
    # A bitmap font has no outline: its ink is taken to be the em square over the baseline.
    x0, y0, x1, y1 = run.ink if run.ink[2] > run.ink[0] else (0.0, -font.ascent, run.advance, font.descent)
    low, high = scene.params.sizes(0.55, 0.9)
    share = rng.uniform(low, high)
    # Of the shorter side, so that an emoji is as large on a strip as on the square of which the strip is the middle.
    size = share * min(scene.width, scene.height) / max(x1 - x0, y1 - y0)
    width, height = (x1 - x0) * size, (y1 - y0) * size
    left = scene.width * _MARGIN + (scene.width * (1 - 2 * _MARGIN) - width) * (
        0.5 + 0.25 * scene.params.jitter * rng.uniform(-1, 1)
    )
    top = scene.height * _MARGIN + (scene.height * (1 - 2 * _MARGIN) - height) * (
        0.5 + 0.25 * scene.params.jitter * rng.uniform(-1, 1)
    )
    box = canvas.run(run, left - x0 * size, top - y0 * size, size, ink_colour.rgb)
    if coloured:
        box = outward((left, top, left + width, top + height))

    patterns = (captions.COLOUR_EMOJI_EN, captions.COLOUR_EMOJI_ZH) if coloured else (captions.EMOJI_EN, captions.EMOJI_ZH)
    caption_en = captions.phrase(rng, patterns[0], name=one.name_en, fg=ink_colour.en, bg=ground.en)
    caption_zh = captions.phrase(rng, patterns[1], name=one.name_zh, fg=ink_colour.zh, bg=ground.zh)
    subject = {
        "emoji": one.codepoints,
        "name_en": one.name_en,
        "name_zh": one.name_zh,
        "emoji_colour": None if coloured else ink_colour.en,
        "emoji_box": list(box),
        "fonts": [font.name],
        **facts,
    }
    return Rendered(canvas.image(), (), {"en": caption_en, "zh": caption_zh}, "icon", "flat", subject)
