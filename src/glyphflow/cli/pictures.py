"""The loop behind every verb that makes pictures: one job at a time, so that --from repeats exactly this computation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from glyphflow.cli.options import DTYPES, Network, chosen, shared, weighted
from glyphflow.cli.verb import Asked, Verb
from glyphflow.core.errors import InputError, InterruptedRun
from glyphflow.core.files import kind_of

if TYPE_CHECKING:
    from glyphflow.cli.jobs import Job
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Metadata, Pipeline

_SAME_AT_FIRST = 3  # pictures that fail for one reason before any was made: so would all


def run(verb: Verb, asked: Asked) -> None:
    """Make everything that ``asked`` says, or make its ``--from`` again."""
    if asked.output.source is not None:
        from glyphflow.cli.again import again

        again(verb, asked, asked.output.source, _make)
        return
    from glyphflow.cli.jobs import jobs

    work, wrong = jobs(verb, asked)
    if asked.network.lora and asked.request.schedule is None:
        _hint_at_few_steps(asked.network.lora)
    pipeline = _open(asked)
    verb.check(work[0].path, "RGBA" if pipeline.vae.config.input_channels == 4 else "RGB")
    Run(verb, pipeline, asked.where.model or "nano", work, asked.output.no_metadata).all(wrong)


class Run:
    """The jobs of one command line, made one after another; what fails costs its own picture and is told."""

    def __init__(self, verb: Verb, pipeline: Pipeline, model: str, work: Sequence[Job], no_metadata: bool) -> None:
        self._verb, self._pipeline, self._model, self._jobs, self._bare = verb, pipeline, model, work, no_metadata
        self._made: set[Path] = set()
        self._kept: set[Path] = set()
        self._failed: dict[Path, str] = {}
        self._begun: tuple[Path, Metadata] | None = None
        self._started = time.monotonic()

    def all(self, wrong: dict[Path, str]) -> None:
        """Make every job but those of ``wrong``, which cannot be made for the reasons given."""
        for job in self._jobs:  # before the first picture is made
            reason = wrong.get(job.path) or _too_long(self._verb, self._pipeline, job)
            if reason is not None:
                self._fail(job, InputError(reason))
        try:
            for n, job in enumerate(self._jobs, 1):
                if job.path not in self._failed:
                    self._one(n, job)
        except KeyboardInterrupt as stop:
            # Ctrl-C may come between the file and its count, so the last one is looked for on the disk.
            last = {self._begun[0]} if self._begun and _made_before(*self._begun) else set()
            finished = self._made | self._kept | last
            done = f"; the finished ones are in {self._jobs[0].path.parent}, the same command continues" if finished else ""
            raise InterruptedRun(f"Stopped after {len(finished)} of {len(self._jobs)} pictures{done}.") from stop
        self._count()

    def _one(self, n: int, job: Job) -> None:
        try:
            pictures, metadata = _described(self._verb, self._pipeline, self._model, job)
            if not self._bare and _made_before(job.path, metadata):
                self._kept.add(job.path)
                if self._pipeline.leads:
                    typer.echo(str(job.path))
                return
            self._begun = job.path, metadata
            each = (time.monotonic() - self._started) / len(self._made) if self._made else None
            label = _label(self._verb, n, len(self._jobs), each)
            _make(self._verb, self._pipeline, metadata, pictures, job.path, label, self._bare)
            self._made.add(job.path)
        except InputError as error:
            self._fail(job, error)

    def _fail(self, job: Job, error: InputError) -> None:
        """Note what is wrong with ``job``; raises where nothing else is asked for, or everything fails for the same reason."""
        self._failed[job.path] = str(error)
        same = list(self._failed.values())[-_SAME_AT_FIRST:] == [str(error)] * _SAME_AT_FIRST
        if len(self._jobs) == 1 or (same and self._begun is not None and not self._made and not self._kept):
            raise error
        if self._pipeline.leads:
            typer.echo(f"{job.path} was not made: {error}", err=True)

    def _count(self) -> None:
        if self._kept and self._pipeline.leads:
            there = f"{len(self._kept)} of {len(self._jobs)} pictures were there"
            typer.echo(f"{there} from the same request and were left as they are.", err=True)
        if self._failed:
            shown = ", ".join(path.name for path in list(self._failed)[:5]) + (", …" if len(self._failed) > 5 else "")
            raise InputError(
                f"{len(self._made)} of {len(self._jobs)} pictures were made and {len(self._kept)} were there; "
                f"{len(self._failed)} could not be made ({shown}): the reasons are above."
            )


def _too_long(verb: Verb, pipeline: Pipeline, job: Job) -> str | None:
    """What is wrong with the length of the prompts of ``job``."""
    from glyphflow.generate.inputs import MOST_TOKENS

    encoder = pipeline.condition_encoder
    if encoder is None or verb.task == "reconstruct":
        return None
    seen = pipeline.kind != "t2i" and verb.task in ("edit", "inpaint")
    shown = len([role for role in job.inputs if role.startswith("image")]) if seen else 0
    for name, text in (("prompt", job.prompt), ("negative prompt", job.negative or "")):
        tokens = 0 if not text else encoder.prompt_tokens(text, pipeline.kind if seen else "t2i", shown)
        if tokens > MOST_TOKENS:
            return f"The {name} {text[:40] + '…'!r} has {tokens} tokens and the limit is {MOST_TOKENS}; shorten it."
    return None


def _hint_at_few_steps(loras: Sequence[str]) -> None:
    """A few-step distillation is known by its file's name alone; with the model's own schedule its pictures are burnt."""
    distilled = [name for name in loras if "lightning" in name.lower()]
    if distilled:
        typer.echo(
            f"Warning: {distilled[0]} sounds like a few-step distillation; those are used with --schedule lightning --steps 4 "
            "(or 8) --cfg 1.",
            err=True,
        )


def _described(verb: Verb, pipeline: Pipeline, model: str, job: Job) -> tuple[Pictures, Metadata]:
    """The pictures that ``job`` is made from, and what its file will say."""
    from glyphflow.core.pictures import read_picture
    from glyphflow.generate import describe
    from glyphflow.generate.batch import defaults

    steps, scale = defaults(pipeline, job.settings.get("schedule"))  # type: ignore[arg-type]
    scale = float(scale if job.cfg is None else job.cfg)
    negative = job.negative
    if negative is None:
        negative = pipeline.facts.default_negative_prompt if scale > 1 else ""
    pictures = {role: read_picture(path) for role, path in job.inputs.items()}
    height, width = _size(verb, pipeline, job, pictures)
    metadata = describe(
        pipeline,
        model,
        task=verb.task,
        prompt=job.prompt,
        negative_prompt=negative,
        seed=job.seed,
        num_inference_steps=steps if job.steps is None else job.steps,
        true_cfg_scale=scale,
        width=width,
        height=height,
        settings=job.settings,
        inputs=pictures,
        sources={role: str(path) for role, path in job.inputs.items()},
    )
    verb.fits(job.path, metadata)
    return pictures, metadata


def _size(verb: Verb, pipeline: Pipeline, job: Job, pictures: Pictures) -> tuple[int, int]:
    """(height, width): as asked, else the ratio of the (last) picture that it starts from, else the model's own square."""
    from glyphflow.generate.images import area_size, aspect_size

    if verb.size is not None:
        return verb.size(job.settings, pictures)
    if job.size is not None:
        return job.size[1], job.size[0]
    area = pipeline.facts.native_area
    if job.aspect is not None:
        return aspect_size(job.aspect, area)
    first = verb.takes[0].role if verb.takes else ""
    own = [picture for role, picture in pictures.items() if first and role.startswith(first)]
    return area_size(own[-1].size, area) if own else (pipeline.facts.native_side,) * 2


def _make(
    verb: Verb, pipeline: Pipeline, metadata: Metadata, pictures: Pictures, path: Path, label: str, bare: bool = False
) -> None:
    """Make the picture of ``metadata`` and write it to ``path``, ``bare`` of how it was made."""
    import torch

    request = {
        "prompt": metadata.prompt,
        "negative_prompt": metadata.negative_prompt,
        "true_cfg_scale": metadata.true_cfg_scale,
        "height": metadata.height,
        "width": metadata.width,
        "num_inference_steps": metadata.num_inference_steps,
        "generator": torch.Generator().manual_seed(metadata.seed),
        "progress": label,
        **metadata.settings,
    }
    made = verb.make(pipeline, request, pictures)
    if pipeline.leads:
        verb.write(made, path, None if bare else metadata)
        typer.echo(f"{path}{verb.told(made, pictures)}")


def _made_before(path: Path, metadata: Metadata) -> bool:
    """Whether ``path`` is what this request makes, finished by an earlier run."""
    from glyphflow.generate import read_metadata

    try:
        return kind_of(path) is not None and read_metadata(path) == metadata.shared()
    except InputError:
        return False


def _open(asked: Asked) -> Pipeline:
    import torch

    from glyphflow.generate import Pipeline, Speed
    from glyphflow.models.quantize import check_kind

    where, network = asked.where, asked.network
    if where.dtype is not None and where.dtype not in DTYPES:
        raise InputError(f"--dtype is {where.dtype}; it can be {', '.join(DTYPES)}.")
    adapters = [weighted(text) for text in network.lora or ()]
    faster = Network(step_cache=network.step_cache, compile=network.compile, fused=network.fused)
    if network.reference and chosen(faster):
        raise InputError(f"--reference switches every shortcut off, and {', '.join(chosen(faster))} was given; choose one.")
    fast = Speed(step_cache=network.step_cache, compile=network.compile, fused=network.fused or None)
    pipeline = Pipeline.from_pretrained(
        where.model,
        dtype=None if where.dtype is None else getattr(torch, where.dtype),
        device=where.device,
        memory=where.memory or "auto",
        transformer=network.transformer,
        controlnet=asked.controlnet,
        quantize=None if network.quantize is None else check_kind(network.quantize),
        speed=Speed.reference() if network.reference else fast,
        parallel=shared(where),
    )
    for source, weight in adapters:
        pipeline.load_lora_weights(source, weight=1.0 if weight is None else weight)
    return pipeline


def _label(verb: Verb, n: int, count: int, seconds_each: float | None) -> str:
    """What the progress line of picture ``n`` begins with."""
    if count == 1:
        return verb.task
    if seconds_each is None:
        return f"picture {n} of {count}"
    left = round(seconds_each * (count - n + 1))
    return f"picture {n} of {count} ({left // 60}:{left % 60:02d} for the rest)"
