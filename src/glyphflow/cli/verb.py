"""What a verb that makes pictures is, and what a command line asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphflow.cli.options import Network, Output, Request, Size, Where

if TYPE_CHECKING:
    from PIL import Image

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


def _fits(path: Path, metadata: Metadata) -> None:
    from glyphflow.generate.files import check_metadata

    check_metadata(path, metadata)


def _write(made: Any, path: Path, metadata: Metadata | None) -> None:
    from glyphflow.generate import write_picture

    write_picture(made, path, metadata)


@dataclass(frozen=True)
class Verb:
    """What is special about a verb.

    ``make(pipeline, request, pictures)`` calls the pipeline with the keywords of ``request`` and the input pictures by role.
    ``size(settings, pictures)`` is the (height, width) of what comes out, where that cannot be chosen. ``formats`` are the
    endings by name, the default first; ``check(path, mode)`` refuses files that cannot hold pictures of a mode (RGB or RGBA)
    and ``write`` writes; ``fits(path, metadata)`` refuses metadata that a file cannot hold. ``told`` is said
    behind the name of a written file.
    """

    task: str
    make: Callable[[Pipeline, dict[str, Any], Pictures], Any]
    example: str
    takes: Sequence[Take] = ()
    prompted: bool = True
    size: Callable[[Mapping[str, Any], Pictures], tuple[int, int]] | None = None
    formats: Mapping[str, str] = field(default_factory=lambda: PICTURE_FORMATS)
    check: Callable[[Path, str], None] = _check
    write: Callable[[Any, Path, Metadata | None], None] = _write
    fits: Callable[[Path, Metadata], None] = _fits
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
