"""The loop behind every verb that makes pictures: one job at a time, so that --from repeats exactly this computation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glyphflow.cli.options import DTYPES, Network, Output, Request, Size, Where, chosen
from glyphflow.core.errors import GlyphFlowError, InputError, InterruptedRun

if TYPE_CHECKING:
    from PIL import Image

    from glyphflow.cli.jobs import Job
    from glyphflow.generate import Metadata, Pipeline

    Pictures = Mapping[str, Image.Image]  # by role

PICTURE_FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "jpeg": ".jpeg"}


@dataclass(frozen=True)
class Take:
    """A picture that a verb takes: its option, and the role under which the metadata know it."""

    option: str
    role: str
    optional: bool = False
    several: bool = False


def _check(path: Path, mode: str = "RGB") -> None:
    from glyphflow.generate.files import check_ending

    check_ending(path, mode)


def _write(made: Any, path: Path, metadata: Metadata) -> None:
    from glyphflow.generate import write_picture

    write_picture(made, path, metadata)


@dataclass(frozen=True)
class Verb:
    """What is special about a verb.

    ``make(pipeline, request, pictures)`` calls the pipeline with the keywords of ``request`` and the input pictures by role.
    ``size(settings, pictures)`` is the (height, width) of what comes out, where that cannot be chosen. ``formats`` are the
    endings by name, the default first; ``check(path, mode)`` refuses files that cannot hold pictures of a mode (RGB or RGBA)
    and ``write`` writes. ``told`` is said behind the name of a written file.
    """

    task: str
    make: Callable[[Pipeline, dict[str, Any], Pictures], Any]
    example: str
    takes: Sequence[Take] = ()
    prompted: bool = True
    size: Callable[[Mapping[str, Any], Pictures], tuple[int, int]] | None = None
    formats: Mapping[str, str] = field(default_factory=lambda: PICTURE_FORMATS)
    check: Callable[[Path, str], None] = _check
    write: Callable[[Any, Path, Metadata], None] = _write
    told: Callable[[Any, Pictures], str] = lambda made, pictures: ""

    def named(self, take: Take) -> str:
        """How ``take`` is given on the command line."""
        return f"--{take.option}" if self.prompted else "PICTURE"


@dataclass(frozen=True)
class Asked:
    """What the command line asks: prompts or ``lines`` as in a .jsonl file, pictures by option, the verb's own ``settings``.

    ``own`` is the group of options that ``settings`` come from.
    """

    lines: Sequence[str | Mapping[str, Any]]
    output: Output
    where: Where
    request: Request
    size: Size
    network: Network
    pictures: Mapping[str, list[Path]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: Sequence[object] = ()
    controlnet: str | None = None


def run(verb: Verb, asked: Asked) -> None:
    """Make everything that ``asked`` says, or make its ``--from`` again."""
    if asked.output.source is not None:
        _again(verb, asked, asked.output.source)
        return
    from glyphflow.cli.jobs import jobs

    work = jobs(verb, asked)
    _make_all(verb, _open(asked), asked.where.model or "nano", work)


def _make_all(verb: Verb, pipeline: Pipeline, model: str, jobs: Sequence[Job]) -> None:
    verb.check(jobs[0].path, "RGBA" if pipeline.vae.config.input_channels == 4 else "RGB")
    made: set[Path] = set()
    kept: set[Path] = set()
    begun: tuple[Path, Metadata] | None = None
    started = time.monotonic()
    try:
        for n, job in enumerate(jobs, 1):
            with _named(job.path, len(jobs)):
                pictures, metadata = _described(verb, pipeline, model, job)
                if _made_before(job.path, metadata):
                    kept.add(job.path)
                    if pipeline.leads:
                        typer.echo(str(job.path))
                    continue
                begun = job.path, metadata
                label = _label(verb, n, len(jobs), (time.monotonic() - started) / len(made) if made else None)
                _make(verb, pipeline, metadata, pictures, job.path, label)
                made.add(job.path)
    except KeyboardInterrupt as stop:
        # Ctrl-C may come between the file and its count, so the last one is looked for on the disk.
        finished = made | kept | ({begun[0]} if begun and _made_before(*begun) else set())
        done = f"; the finished ones are in {jobs[0].path.parent}, the same command continues" if finished else ""
        raise InterruptedRun(f"Stopped after {len(finished)} of {len(jobs)} pictures{done}.") from stop
    if kept and pipeline.leads:
        typer.echo(f"{len(kept)} of {len(jobs)} pictures were there from the same request and were left as they are.", err=True)


def _described(verb: Verb, pipeline: Pipeline, model: str, job: Job) -> tuple[Pictures, Metadata]:
    """The pictures that ``job`` is made from, and what its file will say."""
    from glyphflow.core.pictures import read_picture
    from glyphflow.generate import describe

    pictures = {role: read_picture(path) for role, path in job.inputs.items()}
    height, width = _size(verb, pipeline, job, pictures)
    metadata = describe(
        pipeline,
        model,
        task=verb.task,
        prompt=job.prompt,
        negative_prompt=job.negative,
        seed=job.seed,
        num_inference_steps=pipeline.facts.default_steps if job.steps is None else job.steps,
        true_cfg_scale=float(pipeline.facts.default_true_cfg_scale if job.cfg is None else job.cfg),
        width=width,
        height=height,
        settings=job.settings,
        inputs=pictures,
        sources={role: str(path) for role, path in job.inputs.items()},
    )
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


def _make(verb: Verb, pipeline: Pipeline, metadata: Metadata, pictures: Pictures, path: Path, label: str) -> None:
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
        verb.write(made, path, metadata)
        typer.echo(f"{path}{verb.told(made, pictures)}")


def _made_before(path: Path, metadata: Metadata) -> bool:
    """Whether ``path`` is what this request makes, finished by an earlier run."""
    from glyphflow.generate import read_metadata

    try:
        return path.exists() and read_metadata(path) == metadata
    except InputError:
        return False


def _again(verb: Verb, asked: Asked, source: Path) -> None:
    """Make the picture ``source`` again, with the model, device and memory of the command line where they are given."""
    from glyphflow.cli.jobs import check_writable
    from glyphflow.generate import describe_again, open_again, read_metadata

    where = asked.where
    given = chosen(asked.request, asked.size, asked.network, *asked.own, Output(format=asked.output.format))
    given += chosen(Where(dtype=where.dtype)) + (["PROMPT"] if asked.lines else [])
    if given:
        raise InputError(
            f"--from takes everything from the picture, and {', '.join(sorted(given))} was given, too; leave one out."
        )
    wanted = read_metadata(source)
    if wanted.task != verb.task:
        raise InputError(f"{source} was made by glyphflow {wanted.task}; write: glyphflow {wanted.task} --from {source}")
    path = asked.output.out or source.with_name(f"{source.stem}-again{source.suffix}")
    verb.check(path, "RGB")
    check_writable(path)
    pictures = _pictures_again(verb, asked, source, wanted)
    pipeline = open_again(wanted, where.model, where.device, where.memory or "auto", _shared(where))
    metadata = describe_again(pipeline, wanted, pictures)
    for name, (now, then) in metadata.differences(wanted).items() if pipeline.leads else ():
        typer.echo(f"{name} is {now} and was {then} for {source}; the picture may differ slightly.", err=True)
    _make(verb, pipeline, metadata, pictures, path, verb.task)


def _pictures_again(verb: Verb, asked: Asked, source: Path, wanted: Metadata) -> Pictures:
    """The pictures that ``source`` was made from: those given now, else where they were, else beside ``source``."""
    from glyphflow.cli.jobs import roles
    from glyphflow.core.pictures import read_picture
    from glyphflow.generate import picture_hash

    given = roles(verb, asked.pictures)
    pictures = {}
    for role, then in wanted.inputs.items():
        known = Path(wanted.sources.get(role, ""))
        places = [given[role]] if role in given else [known, source.parent / known.name]
        path = next((place for place in places if place.is_file()), places[0])
        option = next((verb.named(take) for take in verb.takes if role.startswith(take.role)), role)
        if not path.is_file():
            was = f"was {known} and is not there" if role in wanted.sources else "came from no file"
            raise InputError(f"The {role} of {source} {was}; give it as {option}.")
        pictures[role] = read_picture(path)
        now = picture_hash(pictures[role])
        if now != then:
            raise InputError(
                f"{source} was made from another {role}: {path} is {now} now and was {then}; give the original as {option}."
            )
    return pictures


def _open(asked: Asked) -> Pipeline:
    import torch

    from glyphflow.generate import Pipeline, Speed
    from glyphflow.models.quantize import check_kind

    where, network = asked.where, asked.network
    if where.dtype is not None and where.dtype not in DTYPES:
        raise InputError(f"--dtype is {where.dtype}; it can be {', '.join(DTYPES)}.")
    adapters = [_weighted(text) for text in network.lora or ()]
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
        parallel=_shared(where),
    )
    for source, weight in adapters:
        pipeline.load_lora_weights(source, weight=weight)
    return pipeline


def _shared(where: Where) -> str | None:
    """How the processes of torchrun share pictures; several that were not told would all make and write the same."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if where.parallel is None and started > 1:
        raise InputError(
            f"{started} processes were started and --parallel was not given; say how they share a picture, for example "
            f"--parallel ulysses={started}."
        )
    return where.parallel


def _weighted(text: str) -> tuple[str, float]:
    """ "FILE:0.8" as the file and its weight; 1 where there is none."""
    source, separator, weight = text.rpartition(":")
    try:
        return (source, float(weight)) if separator and source else (text, 1.0)
    except ValueError:
        return text, 1.0  # the colon is part of the name


def _label(verb: Verb, n: int, count: int, seconds_each: float | None) -> str:
    """What the progress line of picture ``n`` begins with."""
    if count == 1:
        return verb.task
    if seconds_each is None:
        return f"picture {n} of {count}"
    left = round(seconds_each * (count - n + 1))
    return f"picture {n} of {count} ({left // 60}:{left % 60:02d} for the rest)"


@contextmanager
def _named(path: Path, count: int) -> Iterator[None]:
    """Errors of one picture among several say which it was."""
    try:
        yield
    except GlyphFlowError as error:
        if count == 1:
            raise
        raise type(error)(f"{path} was not made: {error}") from error
