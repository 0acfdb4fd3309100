"""``glyphflow edit``: pictures and an instruction to a new picture, with an edit model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from glyphflow.cli.options import Images, Network, Output, Prompts, Request, Size, Where, command
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Take, Verb

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    return pipeline.edit(list(pictures.values()), **request).images[0]


VERB = Verb(
    "edit",
    _make,
    'glyphflow edit "make the sign say OPEN" --image shop.png --model Qwen/Qwen-Image-Edit-2511',
    takes=[Take("image", "image", several=True)],
)


def register(app: typer.Typer) -> None:
    """Add the verb ``edit``."""

    @command(app)
    def edit(
        *,
        texts: Prompts = None,
        images: Images = None,
        output: Output,
        request: Request,
        size: Size,
        where: Where,
        network: Network,
    ) -> None:
        """Change pictures by instructions; needs an edit model.

        Edit-2509 and later take up to three pictures. The result has the ratio of the last one unless told otherwise.
        """
        run(VERB, Asked(texts or (), output, where, request, size, network, pictures={"image": images or []}))
