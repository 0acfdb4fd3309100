"""``glyphflow restyle``: a picture as the start of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from glyphflow.cli.options import Image, Network, Output, Prompts, Request, Size, Start, Where, command
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    return pipeline.restyle(pictures["image"], **request).images[0]


VERB = Verb(
    "restyle",
    _make,
    'glyphflow restyle "a watercolour" --image photo.jpg --strength 0.6',
    takes=[Take("image", "image")],
)


def register(app: typer.Typer) -> None:
    """Add the verb ``restyle``."""

    @command(app)
    def restyle(
        *,
        texts: Prompts = None,
        image: Image = None,
        start: Start,
        output: Output,
        request: Request,
        size: Size,
        where: Where,
        network: Network,
    ) -> None:
        """Make pictures that begin as another one with noise on it (image to image)."""
        asked = Asked(
            texts or (),
            output,
            where,
            request,
            size,
            network,
            pictures={"image": image or []},
            settings=start.settings(),
            own=[start],
        )
        run(VERB, asked)
