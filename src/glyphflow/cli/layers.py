"""``glyphflow layers``: a picture taken apart into transparent layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli.options import Network, Output, Request, Size, Where, command, matching
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb
from glyphflow.core.errors import InputError
from glyphflow.core.numbers import whole

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Metadata, Pipeline


@dataclass(frozen=True)
class Apart:
    """How pictures are taken apart."""

    prompt: Annotated[
        str | None, typer.Option(help="What the whole picture shows; the model describes it itself if absent.")
    ] = None
    layers: Annotated[int | None, typer.Option(help="Layers of a picture (4).")] = None
    resolution: Annotated[
        int | None, typer.Option(help="Side of a square of the layers' area (640); released models know 640 and 1024.")
    ] = None
    chinese: Annotated[bool, typer.Option("--chinese", help="Let the model describe the picture in Chinese.")] = False
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Rescale tokens under guidance (yes).")
    ] = None

    def settings(self) -> dict[str, Any]:
        """As the metadata keep them."""
        resolution = whole(640 if self.resolution is None else self.resolution, "--resolution", 32, 8192)
        if resolution % 32:
            raise InputError(
                f"--resolution is {resolution}; it must be a multiple of 32, and released models know 640 and 1024."
            )
        return {
            "layers": whole(4 if self.layers is None else self.layers, "--layers", 1, 100),
            "resolution": resolution,
            "cfg_normalize": self.normalize is not False,
            "use_en_prompt": not self.chinese,
        }


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    asked = {name: value for name, value in request.items() if name not in ("height", "width")}
    return pipeline.layers(pictures["image"], **asked).images[0]


def _size(settings: Mapping[str, Any], pictures: Pictures) -> tuple[int, int]:
    from glyphflow.generate.images import area_size

    return area_size(pictures["image"].size, settings["resolution"] ** 2)


def _check(path: Path, mode: str) -> None:
    from glyphflow.generate.export_layers import check_layers_path

    check_layers_path(path)


def _write(made: Any, path: Path, metadata: Metadata | None) -> None:
    from glyphflow.generate import write_layers

    write_layers(made, path, metadata=metadata)


VERB = Verb(
    "layers",
    _make,
    "glyphflow layers poster.png -o poster.psd --model Qwen/Qwen-Image-Layered",
    takes=[Take("image", "image")],
    prompted=False,
    size=_size,
    formats={"folder": "", "psd": ".psd", "zip": ".zip"},
    check=_check,
    write=_write,
)


def register(app: typer.Typer) -> None:
    """Add the verb ``layers``."""

    @command(app)
    def layers(
        *,
        images: Annotated[list[Path] | None, typer.Argument(metavar="PICTURE", help="The pictures to take apart.")] = None,
        apart: Apart,
        output: Output,
        request: Request,
        where: Where,
        network: Network,
    ) -> None:
        """Take pictures apart into transparent layers, with a layered model: a .psd, a .zip, or a folder of PNGs."""
        from glyphflow.cli.lines import argument

        again = output.source is not None
        said = argument(apart.prompt or "", "--prompt")
        asked = Asked(
            [] if again else [{"image": file, "prompt": said} for path in images or () for file in matching(str(path))],
            output,
            where,
            request,
            Size(),
            network,
            pictures={"image": images or []} if again else {},
            settings=apart.settings(),
            own=[apart],
        )
        run(VERB, asked)
