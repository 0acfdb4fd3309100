"""Write the prompts of nano-text, nano-subjects, nano-edits, nano-vae and nano-demo.

    python -m benchmarks.evaluate.nano_prompts [--out src/glyphflow/evaluate/data/nano256]

Everything is drawn by seeds that follow from its name, nothing is picked by hand: running this again gives the same files byte
by byte. Words are those that training never draws (split "heldout"), prompts are phrased as captions of the training corpora
are, and the emoji are the sixty that the recipe nano-emoji-256-corpus teaches.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import write_text
from glyphflow.core.hashing import derive_seed
from glyphflow.corpus.recipe import load_recipe
from glyphflow.evaluate.benchmarks.nano import OTHERS
from glyphflow.evaluate.benchmarks.nano_vae import LEAST_EM, SIDE, script_of, words_of
from glyphflow.evaluate.benchmarks.shared import shipped
from glyphflow.render import EditPair, FontLibrary, RenderSpec, captions, render, render_edit
from glyphflow.render.emojis import DEMO_EMOJI, drawable_emoji, find_emoji
from glyphflow.render.palette import pick_pair
from glyphflow.render.texts import chinese_characters, chinese_words, english_words

LETTERS = 15  # that fit beside each other at the size of the training pictures
LANGUAGES = ("en", "zh")  # of the prompts, in turn, whatever the text's script
GRID = {"fonts": ["space-mono-bold", "noto-sans-cjk-sc-bold", "noto-emoji"], "grid": 0.0625, "max_size": 0.125, "level": "word"}
OTHER_TASKS = ("text_colour", "recolour", "add", "remove", "replace", "background")
SIZES = ((0.06, 0.1), (0.1, 0.18), (0.18, 0.3))  # of the em, as shares of the height: 15 to 77 px
# Photographs of scikit-image with sides of 256 px and more that render.photos does not use. Left out is the right half of the
# stereo pair whose left half it does use; what is smaller; and what is drawn (a silhouette, a chessboard, a colour wheel).
PHOTOGRAPHS = ("cell.png", "clock_motion.png", "coins.png", "grass.png", "ihc.png", "moon.png", "retina.jpg")

Row = dict[str, Any]
Patterns = Sequence[tuple[float, str]]


def text_rows() -> Iterator[Row]:
    """100 English texts, 100 Chinese ones, 60 of two lines."""
    rng = random.Random(derive_seed("nano-text"))
    english = [*rng.sample(english_words("heldout"), 60), *_pairs_of_words(rng, 40)]
    characters = rng.sample(chinese_characters("heldout"), 25)
    chinese = [*characters, *rng.sample(chinese_words("heldout"), 75)]
    lines = list(_two_lines(rng))
    for language, texts in (("en", [[text] for text in english]), ("zh", [[text] for text in chinese]), ("lines", lines)):
        for number, targets in enumerate(texts, 1):
            # a Chinese character has no case
            yield _text_row(rng, f"{language}-{number:03}", language, [_cased(rng, text) for text in targets])


def _pairs_of_words(rng: random.Random, count: int) -> list[str]:
    """Two words each, in a row that is short enough."""
    found: list[str] = []
    while len(found) < count:
        pair = " ".join(rng.sample(english_words("heldout"), 2))
        found += [pair] if len(pair) <= LETTERS and pair not in found else []
    return found


def _two_lines(rng: random.Random) -> Iterator[list[str]]:
    """20 English over English, 20 Chinese over Chinese, 20 of both in either order; a word a line."""
    english, chinese = iter(rng.sample(english_words("heldout"), 60)), iter(rng.sample(chinese_words("heldout"), 60))
    for first, second in ((english, english), (chinese, chinese), (english, chinese)):
        for _ in range(20):
            pair = [next(first), next(second)]
            yield pair if first is second or rng.random() < 0.5 else pair[::-1]


def _cased(rng: random.Random, text: str) -> str:
    style: Callable[[str], str] = rng.choice((str.upper, str.title, str.lower))
    return style(text)


def _text_row(rng: random.Random, name: str, language: str, targets: Sequence[str]) -> Row:
    spoken = LANGUAGES[int(name.split("-")[1]) % 2]
    patterns = captions.LINES[spoken] if len(targets) == 2 else {"en": captions.WORD_EN, "zh": captions.WORD_ZH}[spoken]
    quoted = captions.quote(rng, targets, spoken)
    prompt, colours = _prompt(rng, patterns, spoken, q=quoted[0], q2=quoted[-1])
    row = {"id": name, "prompt": prompt, "language": language, "targets": list(targets), "seed": _seed("nano-text", name)}
    return row | colours


def _prompt(rng: random.Random, patterns: Patterns, spoken: str, **slots: str) -> tuple[str, dict[str, str]]:
    """A prompt about two colours, and their names where it states both."""
    ink, ground = pick_pair(rng, None)
    state = rng.getstate()
    pattern = captions.phrase(rng, patterns, fg="{fg}", bg="{bg}", **slots)
    rng.setstate(state)
    prompt = captions.phrase(rng, patterns, fg=getattr(ink, spoken), bg=getattr(ground, spoken), **slots)
    states_both = "{fg}" in pattern and "{bg}" in pattern
    return prompt, {"foreground": ink.en, "background": ground.en} if states_both else {}


def subject_rows() -> Iterator[Row]:
    """100 emoji: each of the sixty, and forty of them again."""
    rng = random.Random(derive_seed("nano-subjects"))
    codes = sixty()
    return _subject_rows("nano-subjects", rng, [*rng.sample(codes, len(codes)), *rng.sample(codes, 100 - len(codes))])


def _subject_rows(bench: str, rng: random.Random, codes: Sequence[str]) -> Iterator[Row]:
    """One prompt for each of ``codes``, in either language in turn, with stated colours."""
    patterns = {
        language: tuple((weight, text) for weight, text in every if "fg}" in text and "bg}" in text)
        for language, every in (("en", captions.EMOJI_EN), ("zh", captions.EMOJI_ZH))
    }
    for number, code in enumerate(codes, 1):
        name, spoken, one = f"emoji-{number:03}", LANGUAGES[number % 2], find_emoji(code)
        prompt, colours = _prompt(rng, patterns[spoken], spoken, name=getattr(one, f"name_{spoken}"))
        head = {"id": name, "prompt": prompt, "language": spoken, "emoji": one.codepoints}
        yield {**head, **colours, "seed": _seed(bench, name)}


def demo_subject_rows() -> Iterator[Row]:
    """The dozen emoji that the demo teaches, each with an English and a Chinese prompt."""
    codes = [*DEMO_EMOJI, DEMO_EMOJI[-1], *DEMO_EMOJI[:-1]]  # the second time the languages have changed places
    return _subject_rows("nano-demo", random.Random(derive_seed("nano-demo")), codes)


def demo_text_rows() -> Iterator[Row]:
    """Six English words and six Chinese texts of nano-text: what the demo's training must not lose."""
    for row in text_rows():
        if row["language"] in LANGUAGES and int(row["id"].partition("-")[2]) in (4, 15, 24, 35, 44, 55):
            yield row


def others(fonts: FontLibrary) -> list[str]:
    """Emoji of the training catalogue: one more than are compared with, because the prompt's own may be among them."""
    rng = random.Random(derive_seed("nano-subjects", "others"))
    return sorted(one.codepoints for one in rng.sample(drawable_emoji(fonts.font("noto-emoji"), "train"), OTHERS + 1))


def sixty() -> list[str]:
    """The emoji that the family is taught."""
    [entry] = [entry for entry in load_recipe("nano-emoji-256-corpus").render if entry.name == "emoji"]
    return [str(code) for code in entry.params["emoji"]]


def edit_rows(fonts: FontLibrary) -> Iterator[Row]:
    """60 texts on the grid of training, 30 in held-out typefaces, 10 each of six other tasks."""
    params = {**GRID, "split": "heldout", "emoji": sixty()}
    free = {**params, "fonts": [*fonts.names(split="heldout"), "noto-emoji"]}
    del free["grid"], free["max_size"]
    sets = [("text", "text", 60, params), ("text-other", "text", 30, free), *((task, task, 10, params) for task in OTHER_TASKS)]
    for label, task, count, given in sets:
        for number in range(1, count + 1):
            name, spoken = f"{label}-{number:02}", LANGUAGES[number % 2]
            spec, pair = _drawn("nano-edits", name, f"edit_{task}", given, lambda spec: _pair(spec, fonts))
            old, new = (pair.source.lines[0].text, pair.target.lines[0].text) if task == "text" else ("", "")
            yield {
                "id": name,
                "category": "text, other typeface" if label == "text-other" else task,
                "prompt": pair.instruction[spoken],
                "old": old,
                "new": new,
                "seed": _seed("nano-edits", name),
                "spec": spec,
            }


def _pair(spec: RenderSpec, fonts: FontLibrary) -> EditPair:
    pair = render_edit(spec, fonts)
    old, new = ([line.text.casefold() for line in side.lines] for side in (pair.source, pair.target))
    if pair.task == "text" and old == new:
        raise InputError("A change of case alone is nothing that a caseless reading can tell.")
    return pair


def vae_rows(fonts: FontLibrary) -> Iterator[Row]:
    """60 pictures of words, 10 posters, 10 photographs with text, and photographs."""
    given: Row = {"split": "heldout", "fonts": [*fonts.names(split="heldout"), *fonts.names(script="cjk")]}
    for number in range(1, 61):
        languages, level = ("en", "zh", "mixed")[number % 3], ("word", "phrase")[number // 3 % 2]
        low, high = SIZES[number // 6 % 3]
        params = {**given, "languages": [languages], "level": level, "min_size": low, "max_size": high, "max_lines": 3}
        yield _vae_row(fonts, f"words-{number:02}", "word", params)
    for number in range(1, 11):
        yield _vae_row(fonts, f"poster-{number:02}", "poster", {**given, "languages": [("en", "zh", "mixed")[number % 3]]})
    for number in range(1, 11):
        yield _vae_row(fonts, f"photo-text-{number:02}", "photo_text", {**given, "level": "word"})
    for file in PHOTOGRAPHS:
        yield {"id": f"photograph-{Path(file).stem.replace('_', '-')}", "category": "photograph", "photograph": file}


def _vae_row(fonts: FontLibrary, name: str, template: str, params: Row) -> Row:
    spec, made = _drawn("nano-vae", name, template, params, lambda spec: render(spec, fonts))
    words = [word for line in made.lines for word in words_of(line.text) if line.size_px >= LEAST_EM[script_of(word)]]
    return {"id": name, "category": "text", "spec": spec, "words": words}


def _drawn(bench: str, name: str, template: str, params: Row, draw: Callable[[RenderSpec], Any]) -> tuple[Row, Any]:
    """The specification with the first seed that the parameters can be drawn with, and what it draws."""
    for attempt in range(100):
        spec = RenderSpec(template, _seed(bench, name, "spec", attempt), SIDE, SIDE, dict(params))
        try:
            return json.loads(spec.to_json()), draw(spec)
        except InputError:
            continue
    raise InputError(f"No seed of 100 draws {name} of {bench}; change its parameters.")


def _seed(*parts: str | int) -> int:
    return derive_seed(*parts) % 2**31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=shipped("nano256"))
    out, fonts = parser.parse_args().out, FontLibrary.from_manifest()
    files = {"text": text_rows(), "subjects": subject_rows(), "edits": edit_rows(fonts), "vae": vae_rows(fonts)}
    files |= {"demo-subjects": demo_subject_rows(), "demo-text": demo_text_rows()}
    for name, rows in files.items():
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(out / "others.txt", "\n".join(others(fonts)) + "\n")


if __name__ == "__main__":
    main()
