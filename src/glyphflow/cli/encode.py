"""``glyphflow encode``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glyphflow.feed.order import Part


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""

    @app.command()
    def encode(
        recipe: Annotated[str, typer.Argument(help="Recipe of kind mmdit or a curriculum: a file, or a packaged one by name.")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Recipe keys to change: feed.batch_size=16 …")] = None,
        part: Annotated[
            str, typer.Option(help="This process's share of the work, as 1/4 … 4/4: as many processes as you like.")
        ] = "1/1",
        check: Annotated[
            bool, typer.Option(help="Compare all that is there with its checksums first; what is damaged is encoded again.")
        ] = False,
        memory: Annotated[
            str, typer.Option(help="What the card may give: auto, resident, streamed, or an amount such as 12GB.")
        ] = "auto",
    ) -> None:
        """Encode the pictures and captions of a recipe's sources into their caches, in the order in which training needs them.

        Continues what was stopped. Training with the transport files may run at the same time: it waits for what it needs.
        """
        from glyphflow.train.curriculum import encoded_recipe, read_training
        from glyphflow.train.run import encode_sources

        read = encoded_recipe(read_training(recipe, overrides or ()), "a cache of encoded pictures is for")
        for cache, count in encode_sources(read, _part(part), check=check, memory=memory, say=typer.echo):
            typer.echo(f"{count} records in {cache}.")


def _part(text: str) -> Part:
    """ "2/4" -> the second of four; ConfigError for anything else."""
    from glyphflow.core.errors import ConfigError
    from glyphflow.feed.order import Part

    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--part {text} is not of the form 1/4 (the first of four).")
    return Part(int(number) - 1, int(count))
