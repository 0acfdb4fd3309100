"""Text to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from glyphflow.generate.batch import finish, noise, one_each, schedule, split
from glyphflow.generate.denoise import Job
from glyphflow.generate.directory import check_size
from glyphflow.generate.inputs import Call

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline

Sides = int | Sequence[int] | None


def generate(pipeline: Pipeline, call: Call, height: Sides, width: Sides) -> GenerateResult:
    """Pictures of ``call``'s prompts; see :meth:`Pipeline.generate`."""
    pipeline.require("generate", "t2i", "edit", "edit-plus")
    sizes = target_sizes(call.count, height, width, [(pipeline.facts.native_side,) * 2] * call.count)
    schedules = {size: schedule(pipeline, call, *size) for size in sizes}
    work = []
    for group in split(call, pipeline.condition(call), sizes):
        size = height, width = sizes[group.prompts[0]]
        shapes = ((1, height // 16, width // 16),)
        job = Job(noise(pipeline, call, group, size), shapes, group.conditions, schedules[size], call.true_cfg_scale)
        work.append((group, job))
    return finish(pipeline, call, "generate", work)


def target_sizes(count: int, height: Sides, width: Sides, default: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(height, width) of each of ``count`` prompts' pictures: as asked, else its ``default``. Checked."""
    asked = zip(one_each("height", height, count), one_each("width", width, count), default, strict=True)
    sizes = [(own[0] if h is None else h, own[1] if w is None else w) for h, w, own in asked]
    for size in sizes:
        check_size(*size)
    return sizes
