"""From options and files of prompts to a list of jobs: one picture (or one set of layers) each, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from glyphflow.cli.lines import Line, Numbered, argument, argument_line, check_no_dash, files, read_lines
from glyphflow.cli.options import Output, parse_size
from glyphflow.cli.verb import Asked, Verb
from glyphflow.core.errors import InputError, StorageError
from glyphflow.core.files import existing, kind_of, require_writable
from glyphflow.core.numbers import checked, whole
from glyphflow.core.pictures import read_picture
from glyphflow.flow import LIGHTNING, choose_schedule
from glyphflow.generate.batch import check_strength
from glyphflow.generate.directory import check_size
from glyphflow.generate.inputs import MOST_GUIDANCE, MOST_STEPS, check_text

_MOST_COUNT = 100_000


@dataclass(frozen=True)
class Job:
    """One thing to make. ``size`` is (width, height), ``inputs`` the files of the pictures that it is made from, by role."""

    path: Path
    prompt: str
    negative: str | None
    seed: int
    steps: int | None
    cfg: float | None
    size: tuple[int, int] | None
    aspect: str | None
    settings: dict[str, JsonValue]
    inputs: dict[str, Path]


def jobs(verb: Verb, asked: Asked) -> tuple[list[Job], dict[Path, str]]:
    """Every job of the command line, in order, and what is wrong with the pictures of some, by their file.

    Mistakes in the command line or in a line's words raise :class:`InputError` before anything is opened or written, and so do
    pictures that cannot be read where no job is left without them.
    """
    check_no_dash(asked.output.out)
    found: Numbered = [("", _argument(line, n)) for n, line in enumerate(asked.lines, 1)]
    if asked.request.prompts is not None:
        found += read_lines(asked.request.prompts)
    _check_lines(verb, asked, found)
    wanted = [(where, line, n) for where, line in found for n in range(_count(asked, line, where))]
    paths = _paths(verb, asked.output, len(wanted))
    made = [_job(verb, asked, *each, path) for each, path in zip(wanted, paths, strict=True)]
    check_destinations(paths, [path for job in made for path in job.inputs.values()])
    return made, _unreadable(made)


def roles(verb: Verb, given: Mapping[str, list[Path]]) -> dict[str, Path]:
    """The files of ``given``, by the option's name, under the roles they play: "image", and "image 2" for a second one."""
    found: dict[str, Path] = {}
    for take in verb.takes:
        paths = given.get(take.option, [])
        if len(paths) > 1 and not take.several:
            raise InputError(
                f"glyphflow {verb.task} takes one {take.option} and there are {len(paths)}; leave out the others, or give each "
                'a line of its own in a .jsonl for --prompts: {"prompt": "…", "image": "…"}.'
            )
        found |= {take.role if n == 0 else f"{take.role} {n + 1}": existing(path) for n, path in enumerate(paths)}
    return found


def check_inputs(inputs: Mapping[str, Path]) -> None:
    """Refuse pictures that cannot be read, and a mask of another size than its picture or without anything to paint."""
    from glyphflow.generate.images import binary_mask

    pictures = {role: read_picture(path) for role, path in inputs.items()}
    for mask, image in (("mask_image", "image"), ("control_mask", "control_image")):
        if mask in pictures and image in pictures and pictures[mask].size != pictures[image].size:
            (mask_size, size) = ("{}x{}".format(*pictures[role].size) for role in (mask, image))
            raise InputError(
                f"The mask {inputs[mask]} is {mask_size} and the picture {inputs[image]} is {size}; make them the same size."
            )
        if mask in pictures:
            binary_mask(pictures[mask])


def check_destinations(paths: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse places where no file can be made, without making one, and files that the run reads."""
    require_writable(paths[0])
    known = {identity: path for path in inputs if (identity := _identity(path)) is not None}
    for path in paths:
        if not os.path.lexists(path):
            continue
        same = known.get(_identity(path) or (0, 0))
        if same is not None:
            raise InputError(f"{path} would be written over {same}, which this run reads; choose another place with -o.")
        if path.is_dir():
            inside = next((each for each in inputs if os.path.realpath(each.parent) == os.path.realpath(path)), None)
            if inside is not None:
                raise InputError(f"{path} would be replaced, and {inside} in it is read by this run; choose another with -o.")
            if path.suffix:
                raise StorageError(f"{path} cannot be written: a directory is in its place; choose another place with -o.")


def _identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of a file, whatever their case where that makes no difference."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _unreadable(made: Sequence[Job]) -> dict[Path, str]:
    """What is wrong with the pictures of jobs, by the job's file; raises where nothing would be left to make."""
    known: dict[tuple[tuple[str, Path], ...], InputError | None] = {}
    wrong: dict[Path, str] = {}
    for job in made:
        key = tuple(job.inputs.items())
        if key not in known:
            known[key] = _mistake(job.inputs)
        mistake = known[key]
        if mistake is not None:
            wrong[job.path] = str(mistake)
            if len(wrong) == len(made):
                raise mistake
    return wrong


def _mistake(inputs: Mapping[str, Path]) -> InputError | None:
    try:
        check_inputs(inputs)
    except InputError as error:
        return error
    return None


def _argument(line: str | Mapping[str, Any], n: int) -> Line:
    # Not checked: a file's name may hold bytes that are no text.
    return argument_line(line, n) if isinstance(line, str) else Line.model_construct(**line)


def _check_lines(verb: Verb, asked: Asked, lines: Numbered) -> None:
    if not lines:
        raise InputError(f"There is {'no prompt' if verb.prompted else 'no picture'}; try: {verb.example}")
    known = {take.option for take in verb.takes} | asked.settings.keys() | ({"size", "aspect"} if verb.size is None else set())
    for n, (where, line) in enumerate(lines, 1):
        for name in ("image", "mask", "control", "strength", "size", "aspect"):
            if getattr(line, name) is not None and name not in known:
                raise InputError(f"{where}glyphflow {verb.task} takes no {name}; leave it out.")
        if verb.prompted and not line.prompt.strip():
            raise InputError(f"{where or f'Prompt {n}: '}the prompt is empty; say what to draw.")


def _count(asked: Asked, line: Line, where: str) -> int:
    count: int = _first(line.count, asked.request.count, 1)
    if count < 1:
        raise InputError(f"{where}--count is {count}; it must be at least 1.")
    return whole(count, f"{where}--count", 1, _MOST_COUNT)


def _job(verb: Verb, asked: Asked, where: str, line: Line, n: int, path: Path) -> Job:
    request = asked.request
    seed, steps = _first(line.seed, request.seed, 0) + n, _first(line.steps, request.steps, None)
    cfg, negative = _first(line.cfg, request.cfg, None), line.negative
    if negative is None and request.negative is not None:
        negative = argument(request.negative, "--negative")
    if not 0 <= seed < 2**63:
        raise InputError(f"{where}--seed is {seed}; it must be between 0 and {2**63 - 1}.")
    if steps is not None and steps < 1:
        raise InputError(f"{where}--steps is {steps}; it must be at least 1.")
    if steps is not None:
        whole(steps, f"{where}--steps", 1, MOST_STEPS)
    if cfg is not None:
        checked(cfg, f"{where}--cfg", 0, MOST_GUIDANCE, "1 or less turns guidance off")
    check_text(line.prompt, f"{where}The prompt")
    check_text(negative or "", f"{where}The negative prompt")
    pixels, aspect = _size(asked, line, where)
    extra: dict[str, JsonValue] = {} if request.schedule is None else {"schedule": request.schedule}
    choose_schedule(request.schedule, LIGHTNING)  # an unknown name is refused here
    extra |= {} if line.strength is None else {"strength": line.strength}
    settings = {**asked.settings, **extra}
    if "strength" in settings:
        check_strength(settings["strength"])
    return Job(path, line.prompt, negative, seed, steps, cfg, pixels, aspect, settings, _inputs(verb, asked, line, where))


def _size(asked: Asked, line: Line, where: str) -> tuple[tuple[int, int] | None, str | None]:
    """(width, height) and the aspect ratio, at most one of them given: the line's, else the command line's."""
    own = line.size is not None or line.aspect is not None
    size, aspect = (line.size, line.aspect) if own else (asked.size.size, asked.size.aspect)
    if size is not None and aspect is not None:
        raise InputError(f"{where}--size is {size} and --aspect is {aspect}; give one of the two.")
    pixels = None if size is None else parse_size(size)
    if pixels is not None:
        check_size(pixels[1], pixels[0])
    return pixels, aspect


def _inputs(verb: Verb, asked: Asked, line: Line, where: str) -> dict[str, Path]:
    given = {name: [Path(file) for file in files(line, name)] or asked.pictures.get(name, []) for name in _options(verb)}
    for take in verb.takes:
        if not (given[take.option] or take.optional):
            raise InputError(f"{where}glyphflow {verb.task} needs a picture; give it as {verb.named(take)}.")
    return roles(verb, given)


def _options(verb: Verb) -> Iterator[str]:
    return (take.option for take in verb.takes)


def _paths(verb: Verb, output: Output, count: int) -> list[Path]:
    """The file of every job: the one that -o names, or numbered ones in a directory."""
    ending = verb.formats.get((output.format or next(iter(verb.formats))).lower())
    if ending is None:
        raise InputError(f"--format is {output.format}; it can be {', '.join(verb.formats)}.")
    out = output.out or Path("out" if count > 1 else f"out{ending}")
    if count == 1 and not _is_folder(verb, out):
        verb.check(out, "RGB")
        if output.format is not None and out.suffix.lower() != ending:
            raise InputError(f"--format is {output.format} and -o is {out}; leave one of the two out.")
        return [out]
    if out.suffix.lower() in set(verb.formats.values()) - {""} or kind_of(out) == "file":
        raise InputError(f"{count} pictures need a directory, and -o is {out}; name a directory.")
    digits = max(3, len(str(count)))
    return [out / f"{n:0{digits}d}{ending}" for n in range(1, count + 1)]


def _is_folder(verb: Verb, out: Path) -> bool:
    """Whether ``out`` means a directory for pictures; layers may be a directory themselves."""
    return "" not in verb.formats.values() and (kind_of(out) == "directory" or not out.suffix)


def _first(*values: Any) -> Any:
    """The first of ``values`` that is given; the last one is the default."""
    return next((value for value in values[:-1] if value is not None), values[-1])
