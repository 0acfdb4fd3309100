"""``glyphflow encode``."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""

    @app.command()
    def encode(
        recipe: Annotated[str, typer.Argument(help="Recipe of kind mmdit: a file, or a packaged one by name.")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Recipe keys to change: feed.area=65536 …")] = None,
    ) -> None:
        """Encode the pictures and captions of a recipe's sources into their caches; continues what was stopped."""
        from glyphflow.core.errors import ConfigError
        from glyphflow.train.recipe import VAERecipe, read_recipe
        from glyphflow.train.run import encode_sources

        read = read_recipe(recipe, overrides or ())
        if isinstance(read, VAERecipe):
            raise ConfigError(
                f"{recipe} is of kind vae, which trains on pictures and needs no cache; give a recipe of kind mmdit."
            )
        for cache, count in encode_sources(read):
            typer.echo(f"{count} records in {cache}.")
