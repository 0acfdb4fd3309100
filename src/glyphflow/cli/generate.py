"""``glyphflow generate``: prompts to pictures that remember how they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from glyphflow.cli.options import Network, Output, Prompts, Request, Size, Where, command
from glyphflow.cli.pictures import run
from glyphflow.cli.verb import Asked, Verb

if TYPE_CHECKING:
    from glyphflow.cli.verb import Pictures
    from glyphflow.generate import Pipeline


def _make(pipeline: Pipeline, request: dict[str, Any], pictures: Pictures) -> Any:
    return pipeline.generate(**request).images[0]


VERB = Verb("generate", _make, "glyphflow generate \"a poster that says 'HELLO 你好'\" -o out.png")


def register(app: typer.Typer) -> None:
    """Add the verb ``generate``."""

    @command(app)
    def generate(
        *,
        texts: Prompts = None,
        output: Output,
        request: Request,
        size: Size,
        where: Where,
        network: Network,
    ) -> None:
        """Make pictures from prompts.

        Every file keeps what made it in its metadata (--from makes it again). What is finished already is not made again, so
        the same command continues after an interrupt.
        """
        run(VERB, Asked(texts or (), output, where, request, size, network))
