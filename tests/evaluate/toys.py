"""A small benchmark of words, folders of pictures for it, and judges that answer from a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glyphflow.evaluate import Benchmark, Case, Sample, Verdict
from glyphflow.evaluate.benchmarks.texts import TextBenchmark
from glyphflow.evaluate.folder import PROMPTS, Manifest, write_manifest

WORDS = ("HELLO", "crystal", "wolf", "Screen", "KIT", "rivers")
Draw = Callable[[Sample, int, int], np.ndarray]


def rows(words: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    return [
        {"id": f"en-{i}", "prompt": f'a poster that says "{word}"', "language": "en", "targets": [word], "seed": i}
        for i, word in enumerate(words)
    ]


def typeset(sample: Sample, width: int, height: int) -> np.ndarray:
    image = Image.new("RGB", (width, height), (250, 240, 200))
    font = ImageFont.load_default(height * 0.22)
    ImageDraw.Draw(image).text((width / 2, height / 2), " ".join(sample.targets), font=font, fill=(20, 20, 40), anchor="mm")
    return np.asarray(image)


def make_folder(path: Path, draw: Draw, prompts: Sequence[dict[str, Any]] | None = None, model: str = "somebody") -> Benchmark:
    """Pictures of ``prompts`` as ``draw`` makes them; the benchmark that they belong to."""
    path.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (rows() if prompts is None else prompts))
    (path / PROMPTS).write_text(text, encoding="utf-8")
    benchmark = TextBenchmark(path / PROMPTS, "toy")
    write_manifest(path, Manifest(benchmark.identity, model, {"width": 128, "height": 128}))
    for sample in benchmark.samples():
        Image.fromarray(draw(sample, 128, 128)).save(path / f"{sample.id}.png")
    return benchmark


class Scripted:
    """A judge that reads what ``answer`` gives for the case, and remembers whom it was asked about."""

    kinds = frozenset({"ocr"})

    def __init__(self, answer: Callable[[Case], list[str]], identity: str = "scripted/1") -> None:
        self.answer, self.identity, self.asked = answer, identity, list[str]()

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = []
        for case in cases:
            self.asked.append(case.id)
            corner = [[0.0, 0.0], [9.0, 0.0], [9.0, 5.0], [0.0, 5.0]]
            lines = [{"text": text, "box": corner, "confidence": 1.0, "whole": False} for text in self.answer(case)]
            verdicts.append(Verdict("ok", lines, {}, self.identity))
        return verdicts


def knows(benchmark: Benchmark, **wrong: list[str]) -> Callable[[Case], list[str]]:
    """Reads the very targets of each sample, or what ``wrong`` says (``en_1=[...]``)."""
    targets = {sample.id: list(sample.targets) for sample in benchmark.samples()}
    return lambda case: wrong.get(case.id.replace("-", "_"), targets[case.id])
