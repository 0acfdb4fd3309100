"""``glyphflow plan``: what a run will keep in memory and move, before it is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glyphflow.cli import plan_train
from glyphflow.cli.options import DTYPES, parse_size
from glyphflow.core.errors import InputError, MissingError

if TYPE_CHECKING:
    from glyphflow.generate.placement import Placement
    from glyphflow.generate.sizes import ModelConfig
    from glyphflow.plan import GenerationPlan


def register(app: typer.Typer) -> None:
    """Add the verb ``plan``."""
    plan = typer.Typer(
        no_args_is_help=True, help="Say what a run will keep in memory and how long it takes, before it is started."
    )
    app.add_typer(plan, name="plan")

    plan_train.register(plan)

    @plan.command()
    def generate(
        model: Annotated[
            str, typer.Option(help="A model directory, or a released layout: qwen-image, qwen-image-edit-2511.")
        ] = "qwen-image",
        size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, multiples of 16.")] = "1328x1328",
        memory: Annotated[
            str, typer.Option(help="What the card may give, such as 24GB; or resident, or streamed (as little as possible).")
        ] = "resident",
        batch: Annotated[int, typer.Option(help="Pictures made at once.")] = 1,
        references: Annotated[int, typer.Option(help="Pictures that an edit starts from.")] = 0,
        cfg: Annotated[bool, typer.Option("--cfg/--no-cfg", help="With true guidance, as pipelines do by default.")] = True,
        steps: Annotated[int, typer.Option(help="Denoising steps.")] = 50,
        prompt_tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 256,
        dtype: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}.")] = "bfloat16",
        quantize: Annotated[str | None, typer.Option(help="int8 or int4: the transformer's blocks in so many bits.")] = None,
        bus: Annotated[str, typer.Option(help="Bytes per second from memory to card; PCIe 4.0 x16 does about 25GB.")] = "25GB",
    ) -> None:
        """What making pictures keeps on the card, streams to it and needs at its highest point."""
        import torch

        from glyphflow.core.hardware import parse_bytes
        from glyphflow.generate.placement import WORDS
        from glyphflow.models.quantize import check_kind
        from glyphflow.plan import Request, plan_generation

        if dtype not in DTYPES:
            raise InputError(f"--dtype is {dtype}; it can be {', '.join(DTYPES)}.")
        if memory == "auto":
            raise InputError("'auto' depends on the card of the day; say what the card may give, for example --memory 24GB.")
        width, height = parse_size(size)
        request = Request(width, height, batch, references, cfg, steps, prompt_tokens)
        budget = {"resident": None, "streamed": 0}[memory] if memory in WORDS else parse_bytes(memory)
        config, kind = _config(model), getattr(torch, dtype)
        form = None if quantize is None else check_kind(quantize)
        least = plan_generation(config, request, 0, kind, form)
        found = least if budget == 0 else plan_generation(config, request, budget, kind, form)
        typer.echo(f"{model}, {_asked(found)}, {dtype}{f', blocks in {form}' if form else ''}\n")
        for line in (*_table(found), "", *_sentences(found, least.peak.placement.peak, parse_bytes(bus))):
            typer.echo(line)


def _config(model: str) -> ModelConfig:
    from glyphflow.generate.directory import NANO, locate
    from glyphflow.generate.sizes import ModelConfig
    from glyphflow.plan import PRESETS

    if model in PRESETS:
        return PRESETS[model]
    if model == NANO or Path(model).is_dir():
        return ModelConfig.read(locate(model))
    raise MissingError(f"There is no model directory {model}; give one, or a layout by name: {', '.join(PRESETS)}, {NANO}.")


def _asked(plan: GenerationPlan) -> str:
    from glyphflow.core.hardware import gigabytes

    request = plan.request
    pictures = f"{request.batch} pictures" if request.batch > 1 else "1 picture"
    after = f" after {request.references} reference{'s'[: request.references - 1]}" if request.references else ""
    limit = "everything resident" if plan.budget is None else f"memory {gigabytes(plan.budget)}" if plan.budget else "streamed"
    guided = "guided" if request.guided else "not guided"
    return f"{request.width}x{request.height}, {pictures}{after}, {guided}, {request.steps} steps; {limit}"


def _table(plan: GenerationPlan) -> Iterator[str]:
    from glyphflow.core.hardware import gigabytes

    columns = ("phase", "on the device", "weights", "buffers", "activations", "together")
    rows: list[tuple[str, ...]] = [columns]
    for phase in plan.phases:
        there = phase.placement
        sizes = (there.weights, phase.buffers, phase.activations, there.peak)
        rows.append((phase.name, _contents(plan, there), *map(gigabytes, sizes)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(f"{cell:<{width}}" if n < 2 else f"{cell:>{width}}" for n, (cell, width) in enumerate(cells)).rstrip()


def _contents(plan: GenerationPlan, there: Placement) -> str:
    def words(name: str, stay: Sequence[int]) -> str:
        blocks = len(plan.parts[name].blocks)
        return name if len(stay) == blocks else f"{name} with {len(stay)} of {blocks} blocks"

    return "all parts" if there.others_stay else ", ".join(words(name, stay) for name, stay in there.resident.items())


def _sentences(plan: GenerationPlan, least: int, bus: int) -> Iterator[str]:
    from glyphflow.core.hardware import gigabytes

    def moved(count: int) -> str:
        return f"{gigabytes(count)}, {count / bus:.2f} s at {gigabytes(bus)}/s"

    peak = plan.peak
    yield f"Peak: {gigabytes(peak.placement.peak)}, to {peak.name}. CUDA itself takes about half a gigabyte beside it."
    if plan.budget is not None:
        blocks = plan.parts["transformer"].blocks
        streamed = len(blocks) - len(plan.phase("denoise").placement.resident["transformer"])
        if streamed:
            yield f"Every step copies {streamed} of {len(blocks)} blocks beside the computation: {moved(plan.per_step)}."
        else:
            yield "Steps copy nothing."
        yield f"Every new schedule copies the weights of the modulations once: {moved(plan.per_schedule)} at best."
        yield f"Every call copies what takes turns: {moved(plan.per_call)} at best."
    yield f"The least memory for this: {gigabytes(least)} (streamed)."
