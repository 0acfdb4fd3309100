"""``glyphflow evaluate``: make a benchmark's pictures, score any folder of pictures, show what was read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glyphflow.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from glyphflow.evaluate import Prompt
    from glyphflow.evaluate.score import Typeset


def register(app: typer.Typer) -> None:
    """Add the verbs to ``app``."""
    group = typer.Typer(no_args_is_help=True, help="Benchmarks: make the pictures, score them, show what the judge read.")
    app.add_typer(group, name="evaluate")

    @group.command("sample")
    def sample_command(
        bench: Annotated[str, typer.Argument(help="Shipped benchmark (nano16, nano64) or a .jsonl file of prompts.")],
        out: Annotated[Path, typer.Option(help="Folder for the pictures; the same command continues in it.")],
        model: Annotated[str, typer.Option(help="Model directory, hub name, or nano for the shipped weights.")] = "nano",
        steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps (default: the model's own).")] = None,
        cfg: Annotated[float, typer.Option(help="True classifier-free guidance scale; 1 turns it off.")] = 4.0,
        size: Annotated[
            str | None, typer.Option(help="WIDTHxHEIGHT in pixels, or one side (default: the model's own).")
        ] = None,
        device: Annotated[str | None, typer.Option(help="cpu or cuda (default: the best here).")] = None,
    ) -> None:
        """Make the pictures of a benchmark, one PNG per prompt."""
        from glyphflow.evaluate.prompts import load_benchmark

        benchmark, (width, height) = load_benchmark(bench), _parse_size(size)  # mistakes show before a model is loaded

        from glyphflow.evaluate.sample import sample
        from glyphflow.generate import Pipeline

        pipeline = Pipeline.from_pretrained(model, device=device)
        sample(pipeline, model, benchmark, out, num_inference_steps=steps, true_cfg_scale=cfg, width=width, height=height)
        typer.echo(f"{len(benchmark.prompts)} pictures of {benchmark.name} are in {out}; next: glyphflow evaluate score {out}")

    @group.command("score")
    def score_command(
        folder: Annotated[Path, typer.Argument(help="Folder of pictures with a manifest.json.")],
        ceiling: Annotated[bool, typer.Option(help="Also judge the same texts perfectly typeset.")] = True,
        threads: Annotated[int | None, typer.Option(min=1, help="Threads of the judge (default: every core).")] = None,
    ) -> None:
        """Let the OCR judge read the pictures, and print how much of the text is there."""
        from glyphflow.evaluate import OCRJudge, score
        from glyphflow.evaluate.report import table
        from glyphflow.perception import OCR

        result = score(folder, OCRJudge(OCR(fast=True, threads=threads)), _typesetter() if ceiling else None)
        typer.echo(f"{result['benchmark']} by {result['judge']}\n{table(result)}\nRows are in {folder / 'scores.json'}")

    @group.command("report")
    def report_command(
        folder: Annotated[Path, typer.Argument(help="Folder that was scored.")],
        out: Annotated[Path, typer.Option("-o", "--out", help="HTML file to write.")] = Path("page.html"),
    ) -> None:
        """Write one self-contained page: every picture, what was asked for, what the judge read."""
        from glyphflow.core.files import write_text
        from glyphflow.evaluate.report import page

        write_text(out, page(folder))
        typer.echo(f"Wrote {out}")


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None:
        return None, None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None:
        raise InputError(f"--size {size} is not a size; give WIDTHxHEIGHT such as 192x128, or one side such as 128.")
    return int(match[1]), int(match[2] or match[1])


def _typesetter() -> Typeset:
    """Perfect typesetting for the judge's ceiling: the word template with the prompt's own texts, one per line."""
    from glyphflow.render import FontLibrary, RenderSpec, render

    fonts = FontLibrary.from_manifest()

    def typeset(prompt: Prompt, width: int, height: int) -> NDArray[np.uint8]:
        params = {"text": "\n".join(prompt.targets), "background": "plain"}
        return render(RenderSpec("word", prompt.seed, width, height, params), fonts).image

    return typeset
