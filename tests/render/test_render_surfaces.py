"""Compositional rendering: effects are named, seeded and measured; quads follow the text; media and paths do as they say."""

from __future__ import annotations

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import FontLibrary, RenderSpec, render
from glyphflow.render.canvas import Canvas
from glyphflow.render.curves import PATHS, bend, draw_curved
from glyphflow.render.effects import EFFECTS, INKS, LENSES, WEARS, parse_effects
from glyphflow.render.media import MEDIA
from glyphflow.render.palette import MIN_CONTRAST, contrast
from glyphflow.render.textures import TEXTURES


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest(["noto-sans-cjk-sc-bold", "lato-bold"])


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    canvas = Canvas(160, 120)
    canvas.fill((0, 0, 0))
    canvas.rectangle((40, 30, 120, 90), (255, 255, 255))
    return canvas.image()[..., 0]


def stream(seed: int = 5) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_keep_their_colour_and_are_functions_of_the_stream(name: str) -> None:
    made = TEXTURES[name](stream(), 150, 200, (150, 110, 80), 1.0)
    assert made.shape == (150, 200, 3) and made.dtype == np.uint8 and made.std() > 0.3
    assert np.abs(made.mean(axis=(0, 1)) - (150, 110, 80)).max() < 20
    assert np.array_equal(made, TEXTURES[name](stream(), 150, 200, (150, 110, 80), 1.0))
    assert not np.array_equal(made, TEXTURES[name](stream(6), 150, 200, (150, 110, 80), 1.0))


@pytest.mark.parametrize("name", INKS)
def test_inks_colour_the_text_and_leave_the_rest(name: str, mask: np.ndarray) -> None:
    surface = TEXTURES["paper"](stream(), 120, 160, (60, 60, 64), 1.0)
    for strength in (0.1, 1.0):
        made = INKS[name](surface, mask, (250, 212, 40), strength, stream(), 60.0)
        assert np.array_equal(made, INKS[name](surface, mask, (250, 212, 40), strength, stream(), 60.0))
        core, far = made[45:75, 55:105].reshape(-1, 3), np.abs(made[:6].astype(int) - surface[:6])
        red, green, blue = (int(value) for value in np.median(core, axis=0))
        assert contrast((red, green, blue), (60, 60, 64)) > MIN_CONTRAST
        assert far.mean() < (25 if name == "glow" else 1)


@pytest.mark.parametrize("name", [*WEARS, *LENSES])
def test_changes_grow_with_their_strength(name: str, mask: np.ndarray) -> None:
    picture = np.repeat(np.where(mask > 0, 30, 200).astype(np.uint8)[..., None], 3, axis=2)
    change = {**WEARS, **LENSES}[name]
    weak, strong = (np.abs(change(picture, s, stream()).astype(int) - picture).mean() for s in (0.1, 1.0))
    assert 0 < strong < 80 and weak < strong
    assert np.array_equal(change(picture, 0.7, stream()), change(picture, 0.7, stream()))


def test_effects_are_parsed_with_one_sentence_for_each_mistake() -> None:
    assert parse_effects(("chalk", "blur:0.5")) == {"chalk": None, "blur": 0.5}
    for names, words in ((("blr",), "no effect 'blr'"), (("blur:2",), "strength '2'"), (("chalk", "glow"), "one ink")):
        with pytest.raises(InputError, match=words):
            parse_effects(names)


def test_the_effects_of_the_spec_are_used_and_recorded(library: FontLibrary) -> None:
    params = {"text": "你好 Sea", "medium": "dark screen", "path": "straight", "palette": ["white"]}
    plain = render(RenderSpec("surface", 1, 200, 160, {**params, "effects": ["print:0.5"]}), library)
    for name in EFFECTS:
        inks = [] if name in INKS else ["print:0.5"]
        made = render(RenderSpec("surface", 1, 200, 160, {**params, "effects": [*inks, f"{name}:0.8"]}), library)
        assert not np.array_equal(made.image, plain.image), name
        assert made.subject["effects"][name] > 0 and made.subject["contrast"] >= MIN_CONTRAST
        assert name == "print" or set(made.subject["effects"]) == {name, *(one.partition(":")[0] for one in inks)}


def test_text_is_legible_on_every_medium_by_measurement(library: FontLibrary) -> None:
    for seed, medium in enumerate(MEDIA * 2):
        made = render(RenderSpec("surface", seed, 224, 168, {"medium": medium.en}), library)
        assert made.subject["contrast"] >= MIN_CONTRAST, (medium.en, seed, made.subject)
        for caption, name in ((made.captions["en"], medium.en), (made.captions["zh"], medium.zh)):
            assert name in caption


def test_quads_follow_the_text_through_the_warp(library: FontLibrary) -> None:
    """Black on a white wall without any other effect: the dark pixels lie in the quads, and reach all their sides."""
    import cv2

    for seed in range(6):
        params = {"text": "HILL\n你好", "medium": "white wall", "palette": ["black"], "effects": ["print", "perspective"]}
        made = render(RenderSpec("surface", seed, 400, 320, {**params, "path": "straight"}), library)
        dark = (made.image.max(axis=2) < 90).astype(np.uint8)
        inside = np.zeros_like(dark)
        for line in made.lines:
            assert line.quad is not None and len(line.quad) == 4
            xs, ys = [x for x, _ in line.quad], [y for _, y in line.quad]
            assert line.box[0] <= min(xs) and max(xs) <= line.box[2] and line.box[1] <= min(ys) and max(ys) <= line.box[3]
            cv2.fillConvexPoly(inside, np.array(line.quad).round().astype(np.int32), 1)
            flat = cv2.getPerspectiveTransform(
                np.array(line.quad, np.float32), np.array([(0, 0), (100, 0), (100, 40), (0, 40)], np.float32)
            )
            straightened = cv2.warpPerspective(dark, flat, (100, 40))
            assert (
                straightened[:4].any() and straightened[-4:].any() and straightened[:, :5].any() and straightened[:, -5:].any()
            )
        wider = cv2.dilate(inside, np.ones((3, 3), np.uint8))
        assert dark.any() and not (dark & ~wider).any(), seed


@pytest.mark.parametrize("path", ["arch", "bowl", "wave"])
def test_curved_glyphs_stay_apart_and_in_their_corners(library: FontLibrary, path: str) -> None:
    import random

    for seed, text in enumerate(("Curved words here", "弯曲的文字在这里", "ABC")):
        font = library.font("noto-sans-cjk-sc-bold")
        curved = bend(font.shape_text(text, False), path, random.Random(seed))
        left, top, right, bottom = curved.bounds()
        canvas = Canvas(int((right - left) * 40) + 20, int((bottom - top) * 40) + 20)
        canvas.fill((255, 255, 255))
        quad = draw_curved(canvas, curved, 10 - left * 40, 10 - top * 40, 40, (0, 0, 0))
        ink = np.argwhere((canvas.image() < 128).any(axis=2))
        assert abs(ink[:, 1].min() - 10) <= 12 and abs(ink[:, 0].max() - (bottom - top) * 40 - 10) <= 12
        assert len(quad) == 4
        middles = curved.corners[~np.isnan(curved.corners[:, 0, 0])].mean(axis=1)
        steps = np.hypot(*np.diff(middles, axis=0).T)
        assert steps.min() > 0.2, "no glyph upon another"
        turned = np.unique(np.round(curved.places[:, 1], 3))
        assert len(turned) > 1, "glyphs turn with the curve"


def test_paths_and_media_are_checked(library: FontLibrary) -> None:
    assert set(PATHS) >= {"straight", "vertical"}
    for params, words in (
        ({"path": "spiral"}, "no path 'spiral'"),
        ({"medium": "moon"}, "no medium 'moon'"),
        ({"path": "vertical", "text": "Hello"}, "cannot follow the path 'vertical'"),
    ):
        with pytest.raises(InputError, match=words):
            render(RenderSpec("surface", 0, 128, 128, params), library)
    with pytest.raises(InputError, match="cannot stand in front of a photograph"):
        render(RenderSpec("photo_text", 0, 128, 128, {"medium": "brick wall"}), library)
    for seed in range(4):
        made = render(RenderSpec("surface", seed, 160, 160, {"path": "vertical"}), library)
        assert all(line.vertical for line in made.lines) and made.subject["path"] == "vertical"
