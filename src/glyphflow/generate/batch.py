"""One call, many pictures: those that can share a batch are made together and returned in the order asked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import checked
from glyphflow.flow import FEW_STEPS, ScheduleConfig, choose_schedule, sigmas
from glyphflow.generate.denoise import Job
from glyphflow.generate.inputs import Call, Conditions, Generators, draw_noise, given_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Pictures of a call that share a batch. ``pictures`` are their numbers in the call, ``prompts`` those of their prompts.

    The pictures of a prompt are ``copies`` neighbours. ``conditions`` and ``generator`` are theirs alone.
    """

    pictures: list[int]
    prompts: list[int]
    copies: int
    conditions: Conditions
    generator: Generators

    @property
    def batch(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


def split(call: Call, conditions: Conditions, keys: Sequence[Hashable]) -> list[Group]:
    """Group the pictures of ``call`` by the key of their prompt, groups in the order of their first prompt."""
    copies = call.num_images_per_prompt
    by_key: dict[Hashable, list[int]] = {}
    for prompt, key in enumerate(keys):
        by_key.setdefault(key, []).append(prompt)
    generators = call.generator
    if isinstance(generators, Sequence) and len(generators) != conditions.batch:
        raise InputError(
            f"There are {len(generators)} generators and {conditions.batch} pictures; give one for all or one for each."
        )
    groups = []
    for prompts in by_key.values():
        pictures = [prompt * copies + n for prompt in prompts for n in range(copies)]
        own = [generators[n] for n in pictures] if isinstance(generators, Sequence) else generators
        groups.append(Group(pictures, prompts, copies, conditions.pick(pictures), own))
    return groups


def one_each(name: str, value: T | Sequence[T], count: int) -> list[T]:
    """``value`` for each of ``count`` prompts: a list has one each, anything else serves all."""
    if not isinstance(value, (list, tuple)):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise InputError(f"There are {count} prompts and {len(value)} values of {name}; give one for all or one for each.")
    return list(value)


def defaults(pipeline: Pipeline, schedule: str | ScheduleConfig | None = None) -> tuple[int, float]:
    """Steps and true CFG scale of calls that do not say them: the model directory's, or those that ``schedule`` is made for."""
    if choose_schedule(schedule, pipeline.schedule).few_steps:
        return FEW_STEPS, 1.0
    return pipeline.facts.default_steps, pipeline.facts.default_true_cfg_scale


def few_steps_warning(pipeline: Pipeline, call: Call) -> str | None:
    """What is wrong with the steps and guidance of ``call`` under a few-step distillation's schedule; None: nothing."""
    steps = steps_of(pipeline, call)
    if not choose_schedule(call.schedule, pipeline.schedule).few_steps or (steps <= FEW_STEPS and not call.guided):
        return None
    return (
        f"The schedule is a few-step distillation's, for 4 to {FEW_STEPS} steps at a true CFG scale of 1, and this picture has "
        f"{steps} steps at {call.true_cfg_scale:g}."
    )


def steps_of(pipeline: Pipeline, call: Call) -> int:
    """How many steps ``call`` has."""
    if call.num_inference_steps is not None:
        return call.num_inference_steps
    return defaults(pipeline, call.schedule)[0] if call.sigmas is None else len(call.sigmas)


def schedule(pipeline: Pipeline, call: Call, height: int, width: int, strength: float = 1.0) -> torch.Tensor:
    """The sigmas (S + 1,) of ``call`` for a picture of ``height`` x ``width``, from the one that ``strength`` starts at.

    ``strength`` s of N steps walks the last N s of them, rounded up.
    """
    check_strength(strength)
    config = choose_schedule(call.schedule, pipeline.schedule)
    given, steps = call.sigmas, steps_of(pipeline, call)
    start = int(max(steps - min(steps * strength, steps), 0))
    if 0 < steps == start:
        raise InputError(f"A strength of {strength} leaves none of {steps} steps; raise one of the two.")
    return sigmas(config, steps, (height // 16) * (width // 16), unshifted=given)[start:]


def check_strength(strength: float) -> None:
    """Refuse what is no share of the way from a picture to noise."""
    checked(strength, "strength")
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it must be between 0 (keep the picture) and 1 (a new one).")


def noise(pipeline: Pipeline, call: Call, group: Group, size: tuple[int, int]) -> torch.Tensor:
    """Packed noise (B, N, C) of the pictures of ``group``, of ``size`` (height, width): drawn, or what the call gave."""
    height, width = size
    channels, like = pipeline.transformer.config.in_channels, group.conditions.positive[0]
    if call.latents is None:
        return draw_noise((group.batch, channels // 4, height, width), group.generator, like)
    return given_latents(call.latents, (group.batch, (height // 16) * (width // 16), channels), like)


def finish(pipeline: Pipeline, call: Call, label: str, work: Sequence[tuple[Group, Job]]) -> GenerateResult:
    """Sample and decode every job and put the pictures in the order asked.

    Pictures of several sizes come as a list, one entry each. After an interrupt those of sizes not begun are left out.
    """
    done: list[tuple[Group, Job, torch.Tensor]] = []
    for group, job in work:
        _, rows, columns = job.shapes[0]
        name = label if len(work) == 1 else f"{label} {16 * columns}x{16 * rows}"
        done.append((group, job, pipeline.sample(job, call, name)))
        if pipeline.interrupt:
            break
    results = []
    for group, job, latents in done:
        _, rows, columns = job.shapes[0]
        results.append((group.pictures, pipeline.result(latents, 16 * rows, 16 * columns, call.output_type)))
    if len(results) == 1 and len(work) == 1:
        return results[0][1]
    pictures: dict[int, Any] = {n: image for ns, result in results for n, image in zip(ns, result.images, strict=True)}
    from glyphflow.generate.pipeline import GenerateResult

    return GenerateResult([pictures[n] for n in sorted(pictures)])
