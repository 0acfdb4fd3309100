"""``--from``: a picture made again from what its file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from glyphflow.cli.jobs import check_destinations, roles
from glyphflow.cli.lines import check_no_dash
from glyphflow.cli.options import Output, Where, chosen, shared, weighted
from glyphflow.core.errors import InputError
from glyphflow.core.files import existing, kind_of
from glyphflow.core.pictures import FORMATS, open_picture, read_picture
from glyphflow.generate import describe_again, open_again, picture_hash, read_metadata
from glyphflow.generate.places import recall

if TYPE_CHECKING:
    from glyphflow.cli.verb import Asked, Pictures, Verb
    from glyphflow.generate import Metadata, Pipeline

    Make = Callable[[Verb, Pipeline, Metadata, Pictures, Path, str, bool], None]

_WHERE_THINGS_LIE = ("--lora", "--transformer", "--controlnet")
_LOOKED_AT = 500  # files beside a picture that are opened in search of one by its content


def again(verb: Verb, asked: Asked, source: Path, make: Make) -> None:
    """Make the picture ``source`` again, with the model, device, memory and places of the command line where they are given."""
    where, source = asked.where, existing(source)
    given = chosen(asked.request, asked.size, asked.network, *asked.own, Output(format=asked.output.format))
    given += chosen(Where(dtype=where.dtype)) + (["PROMPT"] if asked.lines else [])
    given = [name for name in given if name not in _WHERE_THINGS_LIE]
    if given:
        raise InputError(
            f"--from takes everything from the picture, and {', '.join(sorted(given))} was given, too; leave one out."
        )
    wanted = read_metadata(source)
    if wanted.task != verb.task:
        raise InputError(f"{source} was made by glyphflow {wanted.task}; write: glyphflow {wanted.task} --from {source}")
    check_no_dash(asked.output.out)
    path = asked.output.out or source.with_name(f"{source.stem}-again{source.suffix}")
    verb.check(path, "RGB")
    files = _files(verb, asked, source, wanted)
    check_destinations([path], [source, *files.values()])
    pictures = _pictures(verb, source, wanted, files)
    pipeline = open_again(
        wanted,
        where.model,
        where.device,
        where.memory or "auto",
        shared(where),
        beside=source.parent,
        transformer=asked.network.transformer,
        controlnet=asked.controlnet,
        adapters=[weighted(text) for text in asked.network.lora or ()],
    )
    metadata = describe_again(pipeline, wanted, pictures)
    for name, (now, then) in metadata.differences(wanted).items() if pipeline.leads else ():
        typer.echo(f"{name} is {now} and was {then} for {source}; the picture may differ slightly.", err=True)
    make(verb, pipeline, metadata, pictures, path, verb.task, asked.output.no_metadata)


def _files(verb: Verb, asked: Asked, source: Path, wanted: Metadata) -> dict[str, Path]:
    """The file of each picture that ``source`` was made from: as given, else where it was, else beside ``source``."""
    given = roles(verb, asked.pictures)
    files = {}
    for role, then in wanted.inputs.items():
        path = given[role] if role in given else _found(wanted.sources.get(role, ""), then, source)
        if path is None or kind_of(path) != "file":
            known = wanted.sources.get(role)
            was = "came from no file" if known is None else f"was {path or known} and is not there"
            raise InputError(f"The {role} of {source} {was}; give it as {_option(verb, role)}.")
        files[role] = path
    return files


def _pictures(verb: Verb, source: Path, wanted: Metadata, files: dict[str, Path]) -> Pictures:
    pictures = {role: read_picture(path) for role, path in files.items()}
    for role, picture in pictures.items():
        now, then = picture_hash(picture), wanted.inputs[role]
        if now != then:
            raise InputError(
                f"{source} was made from another {role}: {files[role]} is {now} now and was {then}; give the original as "
                f"{_option(verb, role)}."
            )
    return pictures


def _option(verb: Verb, role: str) -> str:
    return next((verb.named(take) for take in verb.takes if role.startswith(take.role)), role)


def _found(name: str, content: str, source: Path) -> Path | None:
    """The picture of this name or content: where it was, else under its name here or beside ``source``, else any beside it."""
    known = Path(name)
    if not known.name:
        return None
    for place in (recall("picture", content), existing(known), existing(source.parent / known.name)):
        if place is not None and kind_of(place) == "file":
            return place
    return next((path for path in _beside(source) if _holds(path, content)), None)


def _beside(source: Path) -> Iterator[Path]:
    files = sorted(path for path in source.parent.iterdir() if path != source and path.suffix.lower() in _endings())
    yield from files[:_LOOKED_AT]


def _endings() -> set[str]:
    from PIL import Image

    return {ending for ending, name in Image.registered_extensions().items() if name in FORMATS}


def _holds(path: Path, content: str) -> bool:
    try:
        with open_picture(path) as picture:
            if picture.width * picture.height > 1 << 26:
                return False
        return picture_hash(read_picture(path)) == content
    except (InputError, OSError):
        return False
