"""Scoring a folder of pictures: ask the judge once per picture, count, and put the judge's own ceiling beside the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, exclusive, read_json, write_json
from glyphflow.evaluate.folder import Manifest, load_picture, picture_path, read_manifest
from glyphflow.evaluate.judge import Case, Judge, Verdict
from glyphflow.evaluate.metrics import IDENTITIES, Count, TextScore, aggregate, score_text
from glyphflow.evaluate.prompts import Prompt
from glyphflow.evaluate.verdicts import Entry, VerdictBook

Typeset = Callable[[Prompt, int, int], NDArray[np.uint8]]
"""(prompt, width, height) -> its targets perfectly typeset, (height, width, 3) uint8 RGB."""


def score(folder: Path, judge: Judge, typeset: Typeset | None = None) -> dict[str, Any]:
    """Judge every picture of ``folder`` and write scores.json (returned as well).

    Verdicts are kept in verdicts.jsonl by picture and judge, so a run that was killed, or a changed picture, costs only what is
    new; failures are asked again. A picture that is missing, broken, or on which the judge fails counts as failed and in no
    average. With ``typeset``, the same texts perfectly set at the picture's size are judged too: their score is the judge's
    ceiling, and prompts whose perfect picture is read without a mistake are the readable subset.
    """
    manifest = read_manifest(folder)
    with exclusive(folder, "scoring"):
        book = VerdictBook(folder / "verdicts.jsonl", judge)
        prompts = {prompt.id: prompt for prompt in manifest.prompts}
        entries = book.judge(list(prompts), lambda name: _case(folder, prompts[name]), "judge pictures")
        perfect: dict[str, Entry] | None = None
        if typeset is not None:
            draw = partial(_perfect_case, folder, manifest, typeset)
            perfect = book.judge(list(prompts), lambda name: draw(prompts[name]), "judge ceiling")
        result = summarise(manifest, judge.identity, entries, perfect)
        write_json(folder / "scores.json", result)
    return result


def read_scores(folder: Path) -> dict[str, Any]:
    """The scores.json of a folder that was scored."""
    if not (folder / "scores.json").exists():
        raise InputError(f"{folder} has no scores yet; run: glyphflow evaluate score {folder}")
    result: dict[str, Any] = read_json(folder / "scores.json")
    return result


def summarise(manifest: Manifest, identity: str, entries: dict[str, Entry], perfect: dict[str, Entry] | None) -> dict[str, Any]:
    """The content of scores.json: settings and identities, averages by group, one row per prompt."""
    rows = [_row(prompt, entries[prompt.id], perfect[prompt.id] if perfect else None) for prompt in manifest.prompts]
    languages = list(dict.fromkeys(row["language"] for row in rows))
    groups = {"all": rows, **({name: [row for row in rows if row["language"] == name] for name in languages})}
    return {
        "benchmark": manifest.benchmark,
        "prompts_identity": manifest.prompts_identity,
        "model": manifest.model,
        "settings": manifest.settings,
        "judge": identity,
        "metrics": IDENTITIES,
        "groups": {name: _group(members, perfect is not None) for name, members in groups.items()},
        "rows": rows,
    }


def _case(folder: Path, prompt: Prompt) -> Case | str:
    """The picture to judge, or why there is none."""
    try:
        return Case(prompt.id, load_picture(picture_path(folder, prompt)), prompt.prompt, prompt.targets)
    except InputError as error:
        return str(error)


def _perfect_case(folder: Path, manifest: Manifest, typeset: Typeset, prompt: Prompt) -> Case | str:
    """The same prompt perfectly set, at the size of its picture (of the manifest's settings where that cannot be read)."""
    try:
        height, width = load_picture(picture_path(folder, prompt)).shape[:2]
    except InputError as error:
        if not {"width", "height"} <= manifest.settings.keys():
            return str(error)
        width, height = int(manifest.settings["width"]), int(manifest.settings["height"])
    try:
        image = typeset(prompt, width, height)
    except InputError as error:
        return f"The ceiling cannot be typeset: {error}"
    with atomic_path(picture_path(folder / "ceiling", prompt)) as path:
        Image.fromarray(image).save(path, format="PNG")
    return Case(prompt.id, image, prompt.prompt, prompt.targets)


def _row(prompt: Prompt, entry: Entry, perfect: Entry | None) -> dict[str, Any]:
    row: dict[str, Any] = {**prompt.to_json(), **_judged(prompt, entry)}
    if perfect is not None:
        row["ceiling"] = _judged(prompt, perfect)
    return row


def _judged(prompt: Prompt, entry: Entry) -> dict[str, Any]:
    verdict = entry.verdict
    status, reason = verdict.status, str(verdict.raw.get("reason", ""))
    reading = _reading(verdict)
    if status == "ok" and reading is None:
        status, reason = "failed", "The judge gave a verdict without the lines that it read."
    result = {"picture_sha256": entry.picture_sha256, "status": status}
    if status != "ok" or reading is None:
        return {**result, "value": None, "reason": reason}
    counts = {name: list(count) for name, count in vars(score_text(prompt.targets, reading)).items()}
    return {**result, "value": verdict.value, "reading": reading, "counts": counts}


def _reading(verdict: Verdict) -> list[str] | None:
    """The lines that a reading judge saw; None when its verdict holds no such thing."""
    lines = verdict.raw.get("lines")
    if not isinstance(lines, list) or not all(isinstance(line, dict) and isinstance(line.get("text"), str) for line in lines):
        return None
    return [str(line["text"]) for line in lines]


def _group(rows: Sequence[dict[str, Any]], with_ceiling: bool) -> dict[str, Any]:
    good = [row for row in rows if row["status"] == "ok"]
    group: dict[str, Any] = {"n": len(rows), "failed": len(rows) - len(good), "scores": _average(good)}
    if with_ceiling:
        typeset = [row["ceiling"] for row in rows if row["ceiling"]["status"] == "ok"]
        readable = [row for row in good if row["ceiling"]["status"] == "ok" and row["ceiling"]["counts"]["exact"][0] == 1]
        group |= {
            "ceiling": _average(typeset),
            "ceiling_failed": len(rows) - len(typeset),
            "readable": _average(readable),
            "readable_n": len(readable),
        }
    return group


def _average(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    return aggregate(TextScore(**{name: Count(*row["counts"][name]) for name in IDENTITIES}) for row in rows)
