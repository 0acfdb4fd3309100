"""``glyphflow train`` and ``glyphflow export``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glyphflow.train.vae import Reader


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""

    @app.command()
    def train(
        recipe: Annotated[
            str, typer.Argument(help="Recipe or curriculum: a file, or a packaged one by name (nano-vae, nano-curriculum).")
        ],
        overrides: Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, for example train.lr=1e-4.")] = None,
        producers: Annotated[
            str | None,
            typer.Option(
                help="Who encodes: a number of processes here, auto, or ray, ray://HOST:PORT for actors of a cluster."
            ),
        ] = None,
    ) -> None:
        """Train by a recipe; the same command continues a run that was stopped.

        Alone it uses this machine's card or its CPU; torchrun … -m glyphflow train RECIPE uses as many as it starts.
        """
        from glyphflow.train.curriculum import Curriculum, encoded_recipe, read_training
        from glyphflow.train.recipe import CaptionerRecipe, VAERecipe
        from glyphflow.train.run import train_mmdit

        read = read_training(recipe, [*(overrides or ()), *_changes(producers)])
        if isinstance(read, VAERecipe):
            from glyphflow.train.vae_run import train_vae

            done = train_vae(read, _reader() if read.ocr_pictures else None, say=typer.echo)
        elif isinstance(read, CaptionerRecipe):
            from glyphflow.train.captioner import train_captioner

            done = train_captioner(read, say=typer.echo)
        else:
            done = train_mmdit(encoded_recipe(read, "this is for"), peak=_peak(), say=typer.echo)
        steps = read.starts()[-1] if isinstance(read, Curriculum) else read.train.steps
        if os.environ.get("RANK", "0") == "0":
            what = f"Trained to step {done} in {read.out}"
            if done > steps:
                what = f"The run in {read.out} is at step {done}, beyond the {steps} asked for: nothing was trained"
            typer.echo(f"{what}; glyphflow export {read.out} OUT makes a pipeline directory.")

    @app.command()
    def export(
        run: Annotated[Path, typer.Argument(help="Directory of a training run.")],
        out: Annotated[Path, typer.Argument(help="Pipeline directory to write.")],
        average: Annotated[bool, typer.Option(help="Averaged (EMA) weights rather than the last ones.")] = True,
        dtype: Annotated[str, typer.Option(help="Type of the written weights: bfloat16 or float32.")] = "bfloat16",
    ) -> None:
        """Write a run's weights as a whole pipeline directory in the released layout, or its adapter as a LoRA file."""
        from glyphflow.train.export import export_run

        step = export_run(run, out, average=average, dtype=dtype)
        typer.echo(f"Wrote {out} from step {step} of {run}.")


def _reader() -> Reader:
    """Reads pictures with the packaged OCR."""
    from glyphflow.perception import OCR

    ocr = OCR(fast=True)
    return lambda pictures: [" ".join(line.text for line in lines) for lines in ocr.read(pictures)]


def _changes(producers: str | None) -> list[str]:
    """What ``--producers`` means in the recipe."""
    if producers is None:
        return []
    if producers.startswith("ray"):
        return ["train.transport=ray", f"train.ray={producers}"]
    return ["train.transport=local", f"train.producers={producers}"]


def _peak() -> float | None:
    """Dense bfloat16 operations a second of the card of this process, where the table knows it."""
    import torch

    from glyphflow.plan.cards import CARDS

    name = torch.cuda.get_device_name().replace(" ", "").upper() if torch.cuda.is_available() else ""
    return next((card.flops for known, card in CARDS.items() if known.upper() in name), None)
