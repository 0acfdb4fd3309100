"""What is said about a sample: which caption it shows this time, and what a reconstruction is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glyphflow.core.hashing import derive_seed
from glyphflow.feed.settings import Task

EDIT_EMPTY = "edit:"
"""The empty instruction with the pictures of an edit: what classifier-free guidance compares with."""
COPY = "copy:instruction"
"""The request to give the picture back, for reconstruction."""
COPY_EMPTY = "copy:"
"""The empty instruction with the picture that is given back."""

COPY_INSTRUCTIONS = (
    "Reproduce the input image exactly.",
    "Keep the image as it is.",
    "Return the same picture without any change.",
    "Make an identical copy of this image.",
    "Do not alter anything.",
    "原样输出这张图片。",
    "保持图像不变。",
    "复制这幅图，不做任何修改。",
)


def copy_instruction(record_id: str) -> str:
    """The request of a record's reconstruction: always the same one, so that a cache holds one."""
    return COPY_INSTRUCTIONS[derive_seed("copy", record_id) % len(COPY_INSTRUCTIONS)]


def text_name(task: Task, variant: str | None) -> str | None:
    """Under which name a sample's text is kept; ``variant`` None is the dropped condition, and None is the empty prompt."""
    if task == "i2i":
        return COPY_EMPTY if variant is None else COPY
    return EDIT_EMPTY if task == "ti2i" and variant is None else variant


def choose(present: Sequence[str], weights: Mapping[str, float], draw: float) -> str | None:
    """The caption variant that ``draw`` in [0, 1) points to; None when no variant that is there has a weight.

    A weight for ``recaption`` also means ``recaption_en`` and ``recaption_zh``, and one for ``en`` also ``raw_en``: it is
    shared among those that are there. Without weights all variants are alike.
    """
    names = sorted(present)
    chances = dict.fromkeys(names, 0.0 if weights else 1.0)
    for key, weight in weights.items():
        meant = [name for name in names if matches(key, name)]
        for name in meant:
            chances[name] += weight / len(meant)
    left = draw * sum(chances.values())
    for name in names:
        left -= chances[name]
        if left < 0:
            return name
    return None


def matches(key: str, variant: str) -> bool:
    """Whether a weight for ``key`` means ``variant``."""
    return variant == key or variant.startswith(f"{key}_") or variant.endswith(f"_{key}")


def estimated_tokens(caption: str) -> float:
    """About how many tokens a caption has: 4 letters of ASCII to one, other characters 0.7 each.

    Good enough to bring texts of similar length together, and the same everywhere without a tokenizer.
    """
    plain = len(caption.encode("ascii", "ignore"))
    return plain / 4 + (len(caption) - plain) * 0.7
