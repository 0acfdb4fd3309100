"""What one and five billion pairs cost, stage by stage, from the rates that were measured.

`python -m benchmarks.corpus.scale` prints the tables of docs/scale.md.

RATES are pictures a second of one core, as benchmarks/corpus/RESULTS.md has them (cheap_pass, survivors). What was not measured
here is in ASSUMED, each with its reason. Prices are round list prices of 2026; put your own in.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.common import table
from benchmarks.corpus.duplicates import comparisons
from glyphflow.corpus.operators.measure import CROP_DISTANCE, HASH_DISTANCE
from glyphflow.corpus.operators.metrics import CROPS

RATES = {
    "header": 94_000.0,
    "pixels": 264.0,
    "safety": 29.8,
    "embedding": 21.3,
    "faces": 7.1,
    "text": 1.6,
    "alignment": 16.3,
    "detail": 64.8,
    "quality": 15.2,
    "aesthetics": 52.1,
    "codes": 32.5,
    "mosaic": 9.4,
}
"""Pictures a second and core; measured with pictures of 1.0 MP."""

COMPARISONS = 0.6e9
"""Pairs of hashes a second and core (benchmarks.corpus.duplicates)."""

ASSUMED = {
    "captioner": (
        15.0,
        "Qwen2.5-VL-7B on one H100: some 1,300 tokens read and 250 written a picture, batched; published servers do 10-20",
    ),
    "gpu networks": (
        2_000.0,
        "NSFW, embedding, aesthetics and both aligners on one H100 from one shared small picture; decoding feeds it",
    ),
    "gpu ocr": (60.0, "detection and recognition of PP-OCR on one H100"),
}
"""GPU rates nobody measured here: pictures a second and card."""

KEPT = {"F1": 0.75, "F2": 0.85, "F3": 0.9, "F4": 0.97, "F5": 0.55, "F6": 1.0, "F7": 0.8}
"""Share of its input that a stage keeps; about a third is left at the end, which is all that is known of the report's."""

PICTURE, COLUMNS, VECTOR = 179e3, 400.0, 2560.0
"""Bytes: a picture on average, the columns of a row but for its embedding, and an embedding of 1,280 half floats."""

CORE_HOUR, GPU_HOUR, GB_MONTH, MILLION_READS = 0.03, 2.5, 0.02, 0.4
SHARD = 1e9
"""Bytes of a shard: a request each where it is read whole."""


@dataclass(frozen=True)
class Step:
    """One operator of a stage: on cores as measured, or on cards as assumed; ``share`` of the stage's input sees it."""

    stage: str
    what: str
    rates: tuple[str, ...]
    gpu: str = ""
    share: float = 1.0

    def seconds(self) -> float:
        """Core seconds a picture."""
        return sum(1 / RATES[name] for name in self.rates) * self.share


STEPS = (
    Step("F1", "header, one small decode, hashes", ("header", "pixels")),
    Step("F1", "NSFW, on what is left", ("safety",), "gpu networks", 0.8),
    Step("F2", "embedding, faces", ("embedding", "faces"), "gpu networks"),
    Step("F3", "text (OCR)", ("text",), "gpu ocr"),
    Step("F3", "captions by a vision-language model, one language", (), "captioner"),
    Step("F3", "alignment", ("alignment",), "gpu networks"),
    Step("F5", "detail, quality, aesthetics, codes, mosaic", ("detail", "quality", "aesthetics", "codes", "mosaic")),
)


def inputs(rows: float) -> dict[str, float]:
    """Rows that reach each stage."""
    found, left = {}, rows
    for stage, share in KEPT.items():
        found[stage] = left
        left *= share
    return found | {"end": left}


def costs(rows: float) -> list[tuple[object, ...]]:
    """A line for each step: rows, core hours and their price, or card hours and theirs."""
    reach, lines = inputs(rows), []
    for step in STEPS:
        seen = reach[step.stage] * step.share
        cores = reach[step.stage] * step.seconds() / 3600
        cards = seen / ASSUMED[step.gpu][0] / 3600 if step.gpu else 0.0
        lines.append(
            (
                step.stage,
                step.what,
                f"{seen / 1e6:,.0f} M",
                f"{cores:,.0f} (${cores * CORE_HOUR:,.0f})" if step.rates else "",
                f"{cards:,.0f} (${cards * GPU_HOUR:,.0f})" if step.gpu else "",
            )
        )
    return lines


def duplicates(rows: float) -> tuple[object, ...]:
    """The line of duplicates, whose work grows with the square of the rows."""
    whole, windows = comparisons(rows, rows / 2, HASH_DISTANCE), comparisons(rows, rows * CROPS, CROP_DISTANCE)
    hours = (whole + windows) / COMPARISONS / 3600
    return "F1", "duplicates, from hashes", f"{rows / 1e6:,.0f} M", f"{hours:,.0f} (${hours * CORE_HOUR:,.0f})", ""


def storage(rows: float) -> list[tuple[object, ...]]:
    """A line for each thing that is stored or asked for."""
    reach = inputs(rows)
    passes = [reach["F1"], reach["F1"] * 0.8, reach["F2"], reach["F3"], reach["F3"], reach["F5"]]
    reads = sum(passes) * PICTURE / SHARD
    parts = {
        "pictures, as they came": rows * PICTURE,
        "columns": rows * COLUMNS,
        "embeddings": reach["F2"] * VECTOR,
        "pictures that are left": reach["end"] * PICTURE,
    }
    lines: list[tuple[object, ...]] = [
        (name, f"{size / 1e12:,.1f} TB", f"${size / 1e9 * GB_MONTH:,.0f} a month") for name, size in parts.items()
    ]
    lines.append(("shards read whole, six passes", f"{reads / 1e6:,.2f} M requests", f"${reads / 1e6 * MILLION_READS:,.2f}"))
    return lines


def main() -> None:
    for rows in (1e9, 5e9):
        print(f"### {rows / 1e9:.0f} billion pairs, {inputs(rows)['end'] / 1e6:,.0f} M left\n")
        lines = costs(rows)
        print(table(("stage", "what", "rows", "core hours", "or H100 hours"), [lines[0], duplicates(rows), *lines[1:]]), "\n")
        print(table(("stored or asked for", "amount", "price"), storage(rows)), "\n")


if __name__ == "__main__":
    main()
