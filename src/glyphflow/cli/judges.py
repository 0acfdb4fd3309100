"""The judges that ``glyphflow evaluate score`` was told of, and only those that the benchmark asks."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glyphflow.core.errors import ConfigError

if TYPE_CHECKING:
    from glyphflow.evaluate import Benchmark, Judge, Sample
    from glyphflow.evaluate.score import Typeset
    from glyphflow.perception.chat import Transport
    from glyphflow.perception.server import Server


@dataclass(frozen=True)
class JudgeOptions:
    """What the command line says about judges."""

    threads: int | None = None
    url: str | None = None
    model: str | None = None
    key_env: str = "OPENAI_API_KEY"
    replies: Path | None = None
    read_by_model: bool = False
    temperature: float = 0.0
    repeats: int = 1
    quorum: int | None = None
    detector: Path | None = None
    clip: Path | None = None
    lpips: tuple[Path, Path] | None = None
    device: str | None = None


def server(url: str, key_env: str, timeout_s: float) -> Server:
    """A server whose key, if it needs one, is in the environment variable ``key_env``."""
    from glyphflow.perception.server import PATIENCE_S, Server

    return Server(url, os.environ.get(key_env), timeout_s=timeout_s, patience_s=PATIENCE_S)


def judges(options: JudgeOptions, kinds: Set[str]) -> list[Judge]:
    """A judge for every kind of question that can be answered with ``options``."""
    found: list[Judge] = []
    chat = _chat(options)
    if chat is not None and kinds & chat.kinds:
        found.append(chat)
    if "ocr" in kinds and not (chat is not None and options.read_by_model):
        from glyphflow.evaluate.judges import OCRJudge
        from glyphflow.perception import OCR

        found.append(OCRJudge(OCR(fast=True, threads=options.threads)))
    if "pixels" in kinds:
        from glyphflow.evaluate.measure import PixelJudge
        from glyphflow.evaluate.metrics.lpips import LPIPS

        found.append(PixelJudge(LPIPS(*options.lpips) if options.lpips else None))
    if "subject" in kinds:
        from glyphflow.evaluate.judges.subject import SubjectJudge

        found.append(SubjectJudge())
    if "objects" in kinds and options.detector is not None:
        from glyphflow.evaluate.judges.vision import ObjectJudge

        found.append(ObjectJudge(options.detector, options.clip, device=options.device))
    if "similarity" in kinds and options.clip is not None:
        from glyphflow.evaluate.judges.vision import SimilarityJudge

        found.append(SimilarityJudge(options.clip, device=options.device))
    return found


def missing(kinds: Set[str], found: list[Judge]) -> list[str]:
    """One sentence for every kind of question that nobody answers."""
    told = {
        "chat": "questions in words need --judge-url and --judge-model (or --replies)",
        "objects": "objects need --detector, a directory with a COCO detector, and --clip for their colours",
        "similarity": "likeness of picture and text needs --clip, a directory with a CLIP model",
    }
    return [told[kind] for kind in sorted(kinds) if kind in told and not any(kind in judge.kinds for judge in found)]


def typesetter(benchmark: Benchmark) -> Typeset | None:
    """What makes the pictures of the judge's ceiling: the benchmark itself where it draws them, else the word template with the
    sample's own texts, one per line; None where there is no ceiling."""
    if benchmark.drawn:
        return benchmark.perfect
    if not benchmark.typeset:
        return None
    import numpy as np

    from glyphflow.render import FontLibrary, RenderSpec, render

    fonts = FontLibrary.from_manifest()

    def typeset(sample: Sample, width: int, height: int) -> np.ndarray:
        params = {"text": "\n".join(sample.targets), "background": "plain"}
        return render(RenderSpec("word", sample.seed(), width, height, params), fonts).image

    return typeset


def _chat(options: JudgeOptions) -> Judge | None:
    from glyphflow.evaluate.judges import ChatJudge, Endpoint, Panel, Replay

    if options.url is None and options.replies is None:
        if options.read_by_model:
            raise ConfigError("--read-by-model needs a model that reads; name it with --judge-url and --judge-model.")
        return None
    if options.model is None:
        raise ConfigError("A judge at an address needs its name, which every score carries; give --judge-model.")
    transport: Transport = (
        Replay(options.replies) if options.replies else Endpoint(server(options.url or "", options.key_env, 120))
    )
    judge: Judge = ChatJudge(options.model, transport, temperature=options.temperature, read=options.read_by_model)
    if options.repeats > 1:
        judge = Panel([judge], repeats=options.repeats, quorum=options.quorum)
    return judge
