"""``glyphflow generate``: prompts to PNG files that remember how they were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glyphflow.core.errors import InputError, InterruptedRun

if TYPE_CHECKING:
    import torch

    from glyphflow.generate import Metadata, Pipeline

DTYPES = ("float32", "bfloat16", "float16")


def register(app: typer.Typer) -> None:
    """Add the verb ``generate``."""

    @app.command()
    def generate(
        prompts: Annotated[
            list[str] | None, typer.Argument(help="What to draw; several prompts make several pictures.")
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option("-o", "--out", help="The PNG to write (out.png), or a directory for several pictures (out)."),
        ] = None,
        model: Annotated[
            str | None,
            typer.Option(help="Model directory or hub name such as Qwen/Qwen-Image; the shipped nano weights if absent."),
        ] = None,
        negative: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
        steps: Annotated[
            int | None, typer.Option(help="Denoising steps; what the model asks for (nano 20, released 50).")
        ] = None,
        cfg: Annotated[
            float | None, typer.Option(help="True guidance scale (4.0); 1 turns guidance off and halves the work.")
        ] = None,
        size: Annotated[
            str | None, typer.Option(help="WIDTHxHEIGHT in pixels, multiples of 16; the model's native square.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of the first picture (0); the next ones count up.")] = None,
        count: Annotated[int | None, typer.Option(help="Pictures for each prompt (1).")] = None,
        prompt_file: Annotated[Path | None, typer.Option("--prompts", help="A text file with one prompt on each line.")] = None,
        source: Annotated[
            Path | None,
            typer.Option("--from", help="Make the picture of this PNG again, from its own metadata; nothing else needed."),
        ] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the best of this machine if absent.")] = None,
        dtype: Annotated[str | None, typer.Option(help=f"{', '.join(DTYPES)}; the best of the device if absent.")] = None,
    ) -> None:
        """Make pictures from prompts. Prompt, seed, steps, guidance, size and weights are kept in the PNG's metadata."""
        if source is not None:
            choices = {"PROMPT": prompts, "--prompts": prompt_file, "--negative": negative, "--steps": steps, "--cfg": cfg}
            choices |= {"--size": size, "--seed": seed, "--count": count, "--dtype": dtype}
            _refuse_choices({name for name, value in choices.items() if value not in (None, [])})
            _again(source, out, model, device)
            return
        texts = [*(prompts or []), *(_read_prompts(prompt_file) if prompt_file else [])]
        jobs = _jobs(texts, out, 1 if count is None else count, 0 if seed is None else seed)
        _generate(jobs, model, negative or "", steps, 4.0 if cfg is None else cfg, _parse_size(size), device, dtype)


@dataclass(frozen=True)
class Job:
    """One picture to make."""

    prompt: str
    seed: int
    path: Path


def _jobs(texts: list[str], out: Path | None, count: int, seed: int) -> list[Job]:
    if not texts:
        raise InputError("There is no prompt; try: glyphflow generate \"a poster that says 'HELLO 你好'\" -o out.png")
    if count < 1:
        raise InputError(f"--count is {count}; it must be at least 1.")
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed is {seed}; it must be between 0 and {2**63 - 1}.")
    pairs = [(text, seed + n) for text in texts for n in range(count)]
    if len(pairs) == 1:
        path = out or Path("out.png")
        if path.suffix.lower() != ".png" or path.is_dir():
            raise InputError(f"The picture is written as PNG, and -o is {path}; name a file that ends in .png.")
        return [Job(*pairs[0], path)]
    folder = out or Path("out")
    if folder.suffix.lower() == ".png" or folder.is_file():
        raise InputError(f"{len(pairs)} pictures need a directory, and -o is {folder}; name a directory.")
    digits = max(3, len(str(len(pairs))))
    return [Job(text, number, folder / f"{n:0{digits}d}.png") for n, (text, number) in enumerate(pairs, 1)]


def _generate(
    jobs: list[Job],
    model: str | None,
    negative: str,
    steps: int | None,
    cfg: float,
    size: tuple[int, int] | None,
    device: str | None,
    dtype: str | None,
) -> None:
    from glyphflow.generate import describe

    pipeline = _open(model, device, dtype)
    width, height = size or (pipeline.facts.native_side,) * 2
    done = 0
    try:
        for job in jobs:  # one at a time, so that --from repeats exactly this computation
            metadata = describe(
                pipeline,
                model or "nano",
                prompt=job.prompt,
                negative_prompt=negative,
                seed=job.seed,
                num_inference_steps=pipeline.facts.default_steps if steps is None else steps,
                true_cfg_scale=cfg,
                width=width,
                height=height,
            )
            _make(pipeline, metadata, job.path)
            done += 1
    except KeyboardInterrupt as stop:
        kept = f"; the finished ones are in {jobs[0].path.parent}" if done else ""
        raise InterruptedRun(f"Stopped after {done} of {len(jobs)} pictures{kept}.") from stop


def _again(source: Path, out: Path | None, model: str | None, device: str | None) -> None:
    from glyphflow.generate import describe_again, open_again, read_metadata

    path = out or source.with_name(f"{source.stem}-again.png")
    if path.suffix.lower() != ".png":
        raise InputError(f"The picture is written as PNG, and -o is {path}; name a file that ends in .png.")
    wanted = read_metadata(source)
    pipeline = open_again(wanted, model, device)
    metadata = describe_again(pipeline, wanted)
    for name, (now, then) in metadata.differences(wanted).items():
        typer.echo(f"{name} is {now} and was {then} for {source}; the picture may differ slightly.", err=True)
    _make(pipeline, metadata, path)


def _make(pipeline: Pipeline, metadata: Metadata, path: Path) -> None:
    import torch

    from glyphflow.generate import write_picture

    (image,) = pipeline.generate(
        metadata.prompt,
        metadata.negative_prompt,
        true_cfg_scale=metadata.true_cfg_scale,
        height=metadata.height,
        width=metadata.width,
        num_inference_steps=metadata.num_inference_steps,
        generator=torch.Generator().manual_seed(metadata.seed),
    ).images
    write_picture(image, path, metadata)
    typer.echo(str(path))


def _open(model: str | None, device: str | None, dtype: str | None) -> Pipeline:
    import torch

    from glyphflow.generate import Pipeline

    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype is {dtype}; it can be {', '.join(DTYPES)}.")
    kind: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
    return Pipeline.from_pretrained(model, dtype=kind, device=device)


def _refuse_choices(given: set[str]) -> None:
    if given:
        raise InputError(
            f"--from takes everything from the picture, and {', '.join(sorted(given))} was given, too; leave one out."
        )


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The prompts in {path} cannot be read: {error}; give a UTF-8 text file, one prompt a line."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InputError(f"--size is {text!r}; write width x height in pixels, for example 128x128.")
    return int(width), int(height)
