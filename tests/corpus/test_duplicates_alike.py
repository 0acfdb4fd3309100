"""One ground with other words is another picture; a copy that was compressed, scaled or cut is not."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from glyphflow.corpus.operators.alike import SIDE, alike, cells_of
from glyphflow.corpus.operators.duplicates import LOOKS, Candidate, group_duplicates

WORDS = ["apple", "river", "stone", "cloud", "tiger", "music", "paper", "light", "sugar", "green", "mouse", "house"]


def ground(seed: int, size: tuple[int, int] = (512, 384)) -> Image.Image:
    """Soft colours with some edges, another one for every seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for _ in range(6):
        left, top = rng.integers(0, size[0] - 60), rng.integers(0, size[1] - 60)
        box = [left, top, left + rng.integers(20, 200), top + rng.integers(20, 150)]
        ImageDraw.Draw(image).ellipse(list(map(int, box)), fill=tuple(map(int, rng.integers(0, 256, 3))))
    return image


def written(image: Image.Image, text: str, share: float = 0.1) -> Image.Image:
    image = image.copy()
    place = (0.1 * image.width, 0.45 * image.height)
    ImageDraw.Draw(image).text(place, text, font=ImageFont.load_default(share * image.height), fill="white")
    return image


def stored(image: Image.Image, quality: int = 90) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def same(one: Image.Image, other: Image.Image) -> bool:
    cells = [cells_of(np.asarray(image.convert("L"))) for image in (one, other)]
    return alike(cells[0], cells[1], min(*one.size, *other.size)) and alike(cells[1], cells[0], min(*one.size, *other.size))


@pytest.mark.parametrize("seed", range(3))
def test_copies_are_one_picture(seed: int) -> None:
    image = written(ground(seed), WORDS[seed])
    width, height = image.size
    copies = {
        "compressed": stored(image, 30),
        "half": stored(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS)),
        "third": stored(image.resize((width // 3, height // 3), Image.Resampling.BICUBIC)),
        "larger": stored(image.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.BICUBIC)),
        "grey": stored(image.convert("L").convert("RGB")),
        "contrast": stored(ImageEnhance.Contrast(image).enhance(0.9)),
        "cut 1 %": stored(image.crop((5, 0, width, height - 4))),
        "cut 4 %": stored(image.crop((0, 15, width - 20, height))),
        "cut 8 %": stored(image.crop((20, 10, width - 21, height - 20))),
        "cut and half": stored(image.crop((15, 10, width, height)).resize((width // 2, height // 2))),
    }
    assert [name for name, copy in copies.items() if not same(image, copy)] == []


@pytest.mark.parametrize("share", [0.08, 0.12, 0.2])
def test_other_words_are_another_picture(share: float) -> None:
    dice, called = random.Random(0), []
    for seed in range(8):
        one, other = dice.sample(WORDS, 2)
        image = ground(seed)
        if same(stored(written(image, one, share), dice.choice((60, 85, 95))), stored(written(image, other, share))):
            called.append((seed, one, other))
    assert len(called) <= (1 if share < 0.1 else 0), called


def test_small_and_flat_pictures_can_be_compared() -> None:
    flat, tiny = Image.new("RGB", (300, 200), (200, 30, 40)), Image.new("RGB", (1, 300), "white")
    assert same(flat, flat) and same(tiny, tiny) and cells_of(np.zeros((1, 1), np.uint8)).shape == (SIDE, SIDE)
    assert not same(flat, written(flat, "apple", 0.2))


def test_the_look_decides_and_a_picture_and_its_edit_are_no_duplicates() -> None:
    rows = [Candidate(name, name, 7, 9 - number, 1, name) for number, name in enumerate("abcd")]
    found = group_duplicates(rows, 3, 5, lambda one, other: {one.id, other.id} <= {"b", "d"})
    assert {row: columns["duplicate_of"] for row, columns in found.items()} == {"b": None, "d": "b"}
    edits = [*rows[:3], Candidate("d", "d", 7, 1, 1, "d", apart=frozenset("a"))]
    found = group_duplicates(edits, 3, 5, lambda one, other: True)
    assert {row: columns["duplicate_of"] for row, columns in found.items()} == {"a": None, "b": "a", "c": "a"}
    made = [Candidate("x", "x", 7, 9, 1, "x", apart=frozenset("y")), Candidate("y", "y", 7, 5, 1, "y")]
    assert group_duplicates(made, 3, 5, lambda one, other: True) == {}


def test_a_popular_ground_costs_a_bounded_number_of_looks() -> None:
    looks = 0

    def never(one: Candidate, other: Candidate) -> bool:
        nonlocal looks
        looks += 1
        return False

    rows = [Candidate(str(number), str(number), 7, 1, 1, f"{number:04d}") for number in range(300)]
    assert group_duplicates(rows, 3, 5, never) == {} and looks <= 300 * LOOKS
    again = [*rows, Candidate("copy", "299", 7, 1, 1, "zzz")]
    assert group_duplicates(again, 3, 5, never)["copy"]["duplicate_of"] == "299"  # equal bytes need none
