"""What an autoencoder of the nano family loses at 256 px: renders of held-out words, and photographs that nobody trains on.

Of text, PSNR hardly sees the loss. So the same judge reads both pictures, and what counts is each word that it read in the
original and that was drawn large enough: whether it is read again in the reconstruction. The pictures are drawn from the
specifications that ship, which benchmarks/evaluate/nano_prompts.py wrote; the photographs come with scikit-image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, ratio
from glyphflow.evaluate.benchmarks.nano_edits import spec_of
from glyphflow.evaluate.benchmarks.shared import (
    by,
    failed_row,
    field,
    file_id,
    first_failure,
    good,
    lines_of,
    metric,
    read_lines,
    shipped,
)
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.benchmarks.views import similarity_metrics, similarity_row
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.drawing import folder_of, keep, keep_square
from glyphflow.evaluate.metrics.normalise import NORMALISATION, bare, comparable, is_han
from glyphflow.evaluate.question import Question
from glyphflow.perception.packaged import package_file

SIDE = 256
LEAST_EM = {"latin": 12.0, "chinese": 16.0}
"""Em size in pixels from which a word of each script counts."""


class NanoVAE(Benchmark):
    """``words`` of a render are those that are drawn large enough to count."""

    name = "nano-vae"
    version = "1"
    licence = "renders Apache-2.0; photographs of scikit-image: public domain, CC0 or no known restrictions"
    kinds = frozenset({"ocr", "pixels"})
    task = "reconstruct"

    def __init__(self) -> None:
        path = shipped("nano256", "vae.jsonl")
        rows, samples = read_lines(path), []
        folder = folder_of(self.name, rows)
        for number, row in enumerate(rows, 1):
            origin = f"{path} row {number}"
            name, tags = file_id(field(row, "id", str, origin)), {"category": field(row, "category", str, origin)}
            file = folder / f"{name}.png"
            if "photograph" in row:
                tags["photograph"] = field(row, "photograph", str, origin)
                keep_square(package_file("skimage", f"data/{tags['photograph']}", "pip install scikit-image"), SIDE, file)
            else:
                spec = spec_of(row, origin)
                tags |= {"spec": spec.to_json(), "words": field(row, "words", list, origin)}
                keep(spec, file)
            samples.append(Sample(name, "", (), tags, (file,)))
        self._samples = unique(samples, str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        original, found = sample.references[0], []
        for path in pictures:
            found.append(Question(f"{path.stem}/pixels", "pixels", (path, original), {"measure": "similarity"}))
            if "words" in sample.tags:
                found += [Question(f"{path.stem}/read", "ocr", (path,)), Question(f"{path.stem}/original", "ocr", (original,))]
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        pixels, *read = verdicts
        category = str(sample.tags["category"])
        rows = [similarity_row(sample, 0, pixels, category, "pixels")]
        return rows + ([_words_row(sample, read, category)] if read else [])

    def worst(self, sample: Sample, question: Question) -> Any:
        """Every word was read in the original, and none in the reconstruction."""
        if question.id.endswith("/original"):
            return [{"text": word} for word in sample.tags["words"]]
        return super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        parts = by(rows, "part")
        found = []
        for category, members in by(parts.get("pixels", []), "category").items():
            found += similarity_metrics(members, category=category)
        read = parts.get("words", [])
        least = ", ".join(f"{script} from {size:g} px of em" for script, size in LEAST_EM.items())
        how = (
            f"words of the original's reading that are read in the reconstruction, over those ({least}; {NORMALISATION}), micro"
        )
        for script, scripts in {"all": tuple(LEAST_EM), **{name: (name,) for name in LEAST_EM}}.items():
            value = ratio(row.values[name] for row in good(read) for name in scripts)
            found.append(metric("word_agreement", how, value, read, of={"script": script}))
        return found


def words_of(text: str) -> list[str]:
    """The words of a text, caseless: what stands between spaces, without marks at its ends, and each run of Chinese
    characters; no mere punctuation."""
    plain = comparable(text)
    pieces = ("".join(piece) for _, piece in groupby(plain, lambda char: (char.isspace(), is_han(char))))
    return [bare(piece) for piece in pieces if any(map(str.isalnum, piece))]


def script_of(word: str) -> str:
    """Which of :data:`LEAST_EM` a word of :func:`words_of` is in."""
    return "chinese" if is_han(word[0]) else "latin"


def _words_row(sample: Sample, verdicts: Sequence[Verdict], category: str) -> SampleScore:
    """[words read again, words read in the original] of those that are large enough, by script."""
    if (failure := first_failure(verdicts)) is not None:
        return failed_row(sample, 0, failure, category, "words")
    read, original = (Counter(words_of(" ".join(lines_of(verdict)))) for verdict in verdicts)
    large = original & Counter(bare(comparable(str(word))) for word in sample.tags["words"])
    values: dict[str, Any] = {}
    for script in LEAST_EM:
        words = Counter({word: count for word, count in large.items() if script_of(word) == script})
        values[script] = [(words & read).total(), words.total()]
    values |= {"reading": lines_of(verdicts[0]), "original": lines_of(verdicts[1])}
    quality = (large & read).total() / large.total() if large else 1.0
    return SampleScore(sample.id, 0, "ok", "words", category, quality, values)
