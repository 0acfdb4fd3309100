"""Annotation as an operator of the corpus: rows in, captions and metadata out."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from glyphflow.core.errors import ConfigError
from glyphflow.core.pictures import PictureError
from glyphflow.corpus.annotate import rules
from glyphflow.corpus.annotate.asking import MAX_SIDE, MAX_TOKENS, Asker, NoAnswer, Told
from glyphflow.corpus.annotate.known import (
    answer,
    captions_by_kind,
    captions_by_name,
    known_lines,
    page_lines,
    page_type,
    raw_captions,
)
from glyphflow.corpus.annotate.prompts import LANGUAGES, prompt_hash, refusal
from glyphflow.corpus.annotate.replies import Replies, replies_path
from glyphflow.corpus.operator import Operator, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

VARIANTS = ("recaption", "fused")
VERSION = 2
ANNOTATION_TYPES = {
    "raw": "string",  # the caption that came with the picture, as it was; English first
    "recaption_en": "string",  # what a captioner says who sees the picture only
    "recaption_zh": "string",
    "fused_en": "string",  # and one who was given the raw caption, too
    "fused_zh": "string",
    "caption_en": "string",  # the first of recaption and fused that there is
    "caption_zh": "string",
    "annotation": "string",  # JSON with the report's keys
    "image_type": "string",  # one of IMAGE_TYPES
    "image_style": "string",
    "watermarks": "list<string>",
    "abnormal": "bool",  # something laid over the picture disturbs the view
    "unread": "list<string>",  # what captions quote and nobody read in the picture
    "changed": "list<string>",  # what the rules did, and which captions are missing for what reason
    "asked": "int32",  # requests to a model, those answered from disk included
    "refusal": "string",  # the words with which a caption was refused, else null
}
NO_ANSWER = "no answer"  # begins the error of a row that its server, not its picture, is to blame for


def annotator(
    using: str = "rules",
    *,
    model: str | None = None,
    variants: Sequence[str] = VARIANTS,
    languages: Sequence[str] = LANGUAGES,
    renders: str = "truth",
    reading: bool = True,
    concurrency: int = 16,
    attempts: int = 3,
    max_tokens: int = MAX_TOKENS,
    max_side: int = MAX_SIDE,
    timeout_s: float = 120.0,
    key_env: str = "OPENAI_API_KEY",
    device: str | None = None,
) -> Operator:
    """The operator ``annotate``; all options are JSON values.

    ``using`` says who describes: "rules" (names, captions and read text), "endpoint:URL" (an OpenAI-compatible server; its key,
    if it needs one, is in the environment variable ``key_env``; "endpoint" alone takes the URL from OPENAI_BASE_URL) or
    "qwen:DIR" (Qwen2.5-VL in this process). ``model`` is the endpoint's model (default: OPENAI_MODEL). For each of ``variants``
    ("recaption", "fused") and ``languages`` there is one caption; the metadata comes with the first. ``renders`` "truth" gives
    renders their ground truth, "model" has them described like photographs, and the rules check the text. ``reading``: check
    against the text that the stage text read in photographs, which comes first. ``concurrency`` requests are
    under way at a time, each for at most ``max_tokens`` tokens; pictures are shown at most ``max_side`` pixels a side.
    """
    unknown = [name for name in (*variants, *languages) if name not in (*VARIANTS, *LANGUAGES)]
    if unknown or not variants or not languages or renders not in ("truth", "model"):
        raise ConfigError(
            f"variants={','.join(variants)}, languages={','.join(languages)}, renders={renders} is not possible; variants are "
            f"{', '.join(VARIANTS)}, languages {', '.join(LANGUAGES)}, renders truth or model."
        )
    limits = {"attempts": attempts, "max_tokens": max_tokens, "max_side": max_side}
    stopped = threading.Event()
    asker = _asker(captioner(using, model), limits, timeout_s, key_env, device, stopped)
    how = {"variants": list(variants), "languages": list(languages), "reading": reading}
    if asker is None:
        return Operator(
            "annotate",
            {"version": VERSION, "rules": rules.VERSION, "using": "rules", **how},
            ANNOTATION_TYPES,
            lambda rows: [_by_rules(row, reading, variants, languages) for row in rows],
            inputs=("pixels", "text") if reading else ("pixels",),
        )
    described = _Described(asker, reading, tuple(variants), tuple(languages), renders == "model", concurrency)
    said = {"prompt": prompt_hash(), "renders": renders, **asker.identity}
    return Operator(
        "annotate",
        {"version": VERSION, "rules": rules.VERSION, "using": using.partition(":")[0], **how, **said},
        ANNOTATION_TYPES,
        described.compute,
        batch=concurrency if using.startswith("endpoint") else 1,
        parallel="threads" if using.startswith("endpoint") else "one",
        inputs=("pixels", "text") if reading else ("pixels",),
        stop=stopped.set,
    )


def captioner(using: str, model: str | None) -> tuple[str, str, str]:
    """Who describes, as (kind, address or directory, model); a :class:`ConfigError` where that is not enough to begin."""
    kind, _, place = using.partition(":")
    if kind == "endpoint":
        place, model = place or os.environ.get("OPENAI_BASE_URL", ""), model or os.environ.get("OPENAI_MODEL")
        if not place or not model:
            raise ConfigError(
                "An endpoint needs its address and the name of its model; give endpoint:URL and --model, or set "
                "OPENAI_BASE_URL and OPENAI_MODEL."
            )
        return kind, place, model
    if kind == "qwen" and Path(place).expanduser().is_dir():
        return kind, place, ""
    if using != "rules":
        raise ConfigError(f"{using!r} cannot annotate; choose rules, endpoint:URL or qwen:DIRECTORY (of a Qwen2.5-VL).")
    return "rules", "", ""


def _asker(
    who: tuple[str, str, str],
    limits: Mapping[str, int],
    timeout_s: float,
    key_env: str,
    device: str | None,
    stopped: threading.Event,
) -> Asker | None:
    kind, place, model = who
    if kind == "endpoint":
        from glyphflow.perception.chat import Endpoint, jpeg_url
        from glyphflow.perception.server import PATIENCE_S, Server

        server = Server(place, os.environ.get(key_env), timeout_s=timeout_s, patience_s=PATIENCE_S, stopped=stopped)
        return Asker(model, Endpoint(server, jpeg_url), **limits)
    if kind == "qwen":
        from glyphflow.corpus.annotate.qwen import QwenVL

        local = QwenVL(Path(place).expanduser(), device)
        return Asker(local.identity, local, **limits)
    return None


# -- without a model ------------------------------------------------------------------------------------------------------


def _by_rules(row: Row, reading: bool, variants: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
    """What is known of a row. Every variant gets the same caption: nobody here can see the picture."""
    drawn = row.rendered
    page = page_type(row["key"])
    if drawn is not None:
        said = {name: answer(text, drawn.image_type, drawn.image_style) for name, text in drawn.captions.items()}
        ruled = {name: rules.apply(each, None, name) for name, each in said.items()}
    elif row["pixels.error"]:
        return {"error": row["pixels.error"]}
    elif page:
        captions = {name: rules.with_text(text, page_lines(row), name) for name, text in captions_by_kind(page).items()}
        ruled = {name: rules.apply(answer(text, page, "flat"), None, name) for name, text in captions.items()}
    else:
        saturation = row["pixels.saturation"]
        style = "black and white" if saturation is not None and saturation < 0.02 else "realistic"
        lines = known_lines(row) if reading else None
        captions = raw_captions(row) or captions_by_name(row["key"])
        ruled = {name: rules.apply(answer(text, "photograph", style), lines, name) for name, text in captions.items()}
    made = {f"{variant}_{name}": each for variant in variants for name, each in ruled.items() if name in languages}
    return _columns(row, made, next(iter(ruled.values()), None)) | {"asked": 0}


# -- with a model ---------------------------------------------------------------------------------------------------------


class _Described:
    """Rows described by a model, many at a time."""

    def __init__(
        self,
        asker: Asker,
        reading: bool,
        variants: tuple[str, ...],
        languages: tuple[str, ...],
        renders: bool,
        concurrency: int,
    ) -> None:
        self._asker, self._reading, self._variants, self._languages = asker, reading, variants, languages
        self._renders = renders
        self._pool = ThreadPoolExecutor(concurrency, "ask")
        self._open: OrderedDict[Path, Replies] = OrderedDict()
        self._lock = threading.Lock()

    def compute(self, rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        """One mapping a row, in order; what one row meets is that row's error."""
        pending = [self._pool.submit(self._row, row) for row in rows]
        try:
            return [each.result() for each in pending]
        finally:
            for each in pending:
                each.cancel()

    def _row(self, row: Row) -> Mapping[str, Any]:
        try:
            if not row.is_photo and not self._renders:
                return _by_rules(row, self._reading, self._variants, self._languages)
            if row.is_photo and row["pixels.error"]:
                return {"error": row["pixels.error"]}
            exact = not row.is_photo or page_type(row["key"]) is not None
            return self._describe(row, known_lines(row) if self._reading or exact else None)
        except PictureError as error:
            return {"error": str(error)}
        except NoAnswer as error:
            return {"error": f"{NO_ANSWER}: {error}"}

    def _describe(self, row: Row, lines: Sequence[str] | None) -> dict[str, Any]:
        raw, shown = raw_captions(row), functools.cache(lambda: _shown(row, self._asker.max_side))
        replies = self._replies(row)
        made: dict[str, rules.Ruled] = {}
        told: dict[str, Told] = {}
        for variant in self._variants:
            for language in self._languages:
                given = (raw.get(language) or next(iter(raw.values()), None)) if variant == "fused" else None
                if variant == "fused" and given is None:
                    continue  # nothing to fuse
                name = f"{variant}_{language}"
                told[name] = self._asker.ask(row["sha256"], shown, language, given, replies)
                said = told[name].annotation
                if said is not None:
                    made[name] = rules.apply(said, lines, language)
        columns = _columns(row, made, next(iter(made.values()), None))
        failures = {name: each.refusal or each.why for name, each in told.items() if each.annotation is None}
        columns["changed"] += [f"{name}: {why}" for name, why in failures.items()]
        columns["asked"] = sum(each.asked for each in told.values())
        columns["refusal"] = next((each.refusal for each in told.values() if each.refusal), None)
        if told and not made and columns["refusal"] is None:
            columns["error"] = next(iter(failures.values()))
        return columns

    def _replies(self, row: Row) -> Replies:
        path = replies_path(row.shard.corpus, row.shard.name)
        with self._lock:
            if path not in self._open:
                self._open[path] = Replies(path)
                while len(self._open) > 4:  # a shard is done before the next but one begins
                    self._open.popitem(last=False)
            return self._open[path]


def _shown(row: Row, max_side: int) -> NDArray[np.uint8]:
    """The picture as the model sees it, at most ``max_side`` pixels a side; a JPEG is decoded no larger than is needed."""
    width, height = row["width"], row["height"]
    least = max_side * min(width, height) // max(1, width, height)
    image = row.scaled(max(1, least))
    if max(image.shape[:2]) <= max_side:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _columns(row: Row, made: Mapping[str, rules.Ruled], first: rules.Ruled | None) -> dict[str, Any]:
    raw = raw_captions(row)
    captions = {name: each.caption for name, each in made.items()}
    best = {f"caption_{name}": captions.get(f"recaption_{name}") or captions.get(f"fused_{name}") for name in LANGUAGES}
    columns: dict[str, Any] = {"raw": next(iter(raw.values()), None), **captions, **best}
    columns["unread"] = list(dict.fromkeys(text for each in made.values() for text in each.unread))
    columns["changed"] = list(dict.fromkeys(text for each in made.values() for text in each.changed))
    columns["refusal"] = next((words for text in captions.values() if (words := refusal(text))), None)
    if first is not None:
        columns |= {
            "annotation": json.dumps(first.annotation, ensure_ascii=False),
            "image_type": first.image_type,
            "image_style": first.image_style,
            "watermarks": first.watermarks,
            "abnormal": first.abnormal,
        }
    return columns
