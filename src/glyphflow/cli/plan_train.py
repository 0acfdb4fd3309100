"""``glyphflow plan train``: what a training run needs and how long it takes, before it is started."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glyphflow.cli import plan_card
from glyphflow.core.errors import InputError
from glyphflow.core.numbers import checked, whole

if TYPE_CHECKING:
    from glyphflow.plan.layout import Layout
    from glyphflow.plan.train import Machine, Step, TrainingPlan
    from glyphflow.train.curriculum import Curriculum


def register(plan: typer.Typer) -> None:
    """Add ``train`` to the verb ``plan``."""

    @plan.command()
    def train(
        recipe: Annotated[str, typer.Argument(help="A curriculum or a recipe of kind mmdit: a file, or a packaged one.")],
        overrides: Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, e.g. caption_tokens=200.")] = None,
        gpus: Annotated[
            str | None,
            typer.Option(help="Trainers, like 8xH200 (the default); several with commas make a table."),
        ] = None,
        tp: Annotated[int | None, typer.Option(help="Tensor parallel: processes that share each block by heads.")] = None,
        sp: Annotated[int | None, typer.Option(help="Ulysses: processes that share each sample's tokens.")] = None,
        dp: Annotated[str | None, typer.Option(help="Shards of the state, or COPIESxSHARDS, like 32x8.")] = None,
        checkpoint: Annotated[
            str | None, typer.Option(help="Activation checkpointing: none, full, or a number k for every k-th block.")
        ] = None,
        memory: Annotated[
            str | None,
            typer.Option(help="What a card may give, such as 24GB. For one card: what to keep off it."),
        ] = None,
        efficiency: Annotated[float, typer.Option(help="Share of the dense peak that blocks reach while computing.")] = 0.40,
        encode_rate: Annotated[
            str | None, typer.Option(help="Pictures a second of one producer by side: 256=400,640=60.")
        ] = None,
        feed_log: Annotated[Path | None, typer.Option(help="Log of a feed's producers to take these rates from.")] = None,
        price: Annotated[float | None, typer.Option(help="Price of one GPU for one hour.")] = None,
        compare: Annotated[bool, typer.Option("--compare", help="All layouts that were tried, the fastest first.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    ) -> None:
        """Memory of each card, time of a step, producers, days and cost of a recipe; finds the fastest layout that fits."""
        from glyphflow.core.hardware import parse_bytes
        from glyphflow.plan import layout as layouts
        from glyphflow.plan import train as planning
        from glyphflow.plan.cards import CARDS, parse_gpus, smallest
        from glyphflow.plan.producers import Encoding, parse_rates, read_rates
        from glyphflow.plan.recipe import read_plannable

        if not 0 < efficiency <= 1:
            raise InputError(f"--efficiency is {efficiency:g}; it is a share of the peak, above 0 and at most 1.")
        if price is not None:
            checked(price, "--price", 0.0)
        for name, processes in (("--tp", tp), ("--sp", sp)):
            if processes is not None:
                whole(processes, name, 1, 2**20)
        curriculum, every = read_plannable(recipe, overrides or ()), _every(checkpoint)
        budget = None if memory is None else parse_bytes(memory)
        adapter, cards = curriculum.train.lora is not None, (gpus or "8xH200").split(",")
        alone = gpus is not None and len(cards) == 1 and parse_gpus(cards[0])[0] == 1
        if adapter and not (alone or (gpus is None and budget)):
            raise InputError("An adapter is planned for on one card: give --memory 24GB, or --gpus 1xRTX4090.")
        if not as_json:
            for line in _learned_from(recipe, overrides or ()):
                typer.echo(line)
        if adapter or (gpus is None and budget is not None):
            name = parse_gpus(cards[0])[1] if alone else smallest(budget or 0)
            machine = planning.Machine(CARDS[name], planning.Assumptions(efficiency), budget)
            if as_json:
                typer.echo(json.dumps(plan_card.as_json(curriculum, name, machine), indent=1))
            else:
                typer.echo("\n".join(plan_card.lines(recipe, curriculum, name, machine, overrides or ())))
            return
        rates = (read_rates(feed_log) if feed_log else {}) | (parse_rates(encode_rate) if encode_rate else {})
        results = []
        for text in cards:
            count, name = parse_gpus(text)
            machine = planning.Machine(CARDS[name], planning.Assumptions(efficiency), budget)
            choice = layouts.layouts(count, machine.card.machine, curriculum.model, tp, sp, _dp(dp, count, tp, sp))
            tried = planning.compare(curriculum, choice, machine, every, Encoding(machine.card, rates))
            best = planning.fastest(tried.values())
            results.append((text, machine, tried, best))
        if as_json:
            told = [_as_json(curriculum, *result, price) for result in results]
            typer.echo(json.dumps(told if len(told) > 1 else told[0], indent=1))
            return
        if len(results) > 1:
            rows = [_sweep_columns(curriculum, price), *(row for result in results for row in _sweep(*result, price))]
            lines = list(table(rows, left=2))
        else:
            text, machine, tried, best = results[0]
            lines = [*_head(recipe, curriculum, text, best, machine), "", *_stages(best, machine), ""]
            lines += [*_compared(tried), ""] if compare else []
            lines += _sentences(best, machine, price)
        for line in lines:
            typer.echo(line)


def _learned_from(recipe: str, overrides: Sequence[str]) -> Iterator[str]:
    """The table of what the run will learn from, where its corpora are here; nothing where one is not."""
    from glyphflow.core.errors import GlyphFlowError
    from glyphflow.feed.staged import StagedFeed
    from glyphflow.feed.summary import summary
    from glyphflow.train.curriculum import Curriculum, encoded_recipe, read_training
    from glyphflow.train.run import course_of

    read = encoded_recipe(read_training(recipe, overrides), "a plan is made for")
    sources = read.sources if isinstance(read, Curriculum) else read.feed.sources
    if not sources or not all(source.corpus and source.corpus.is_dir() for source in sources):
        return
    course = course_of(read)
    try:
        yield from summary(StagedFeed(course.segments, read.seed), course.segments[0].settings.heldout_share)
    except GlyphFlowError as error:
        yield f"The run cannot begin yet: {error}"
    yield ""


def _every(text: str | None) -> int | None:
    words = {"none": 0, "full": 1}
    if text is None or text in words:
        return None if text is None else words[text]
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--checkpoint is {text!r}; it can be none, full, or a number k for every k-th block.")
    return int(text)


def _dp(text: str | None, world: int, tp: int | None, sp: int | None) -> tuple[int, int] | None:
    """(copies, shards); one number are the shards, and copies fill the world."""
    if text is None:
        return None
    copies, _, shards = text.rpartition("x")
    if not shards.isdecimal() or (copies and not copies.isdecimal()) or "0" in (copies, shards):
        raise InputError(f"--dp is {text!r}; write the number of shards, or COPIESxSHARDS like 32x8.")
    if copies:
        return int(copies), int(shards)
    groups = world // ((tp or 1) * (sp or 1))
    return max(1, groups // int(shards)), int(shards)


def words(every: int) -> str:
    """Activation checkpointing of every ``every``-th block."""
    return {0: "none", 1: "full", 2: "every 2nd", 3: "every 3rd"}.get(every, f"every {every}th")


def _short(number: float) -> str:
    """Three digits, or all before the point: 0.0123, 5.57, 1,180."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def amount(number: float) -> str:
    """A large number in a few digits: 1,234 or 1.23 M."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def _head(recipe: str, curriculum: Curriculum, gpus: str, plan: TrainingPlan, machine: Machine) -> Iterator[str]:
    from glyphflow.plan.step_memory import parameters

    count, _ = parameters(curriculum.model)
    yield f"{recipe}, {amount(count)} parameters, on {gpus}: {plan.layout}"
    yield (
        f"Assumed: {machine.assumed.efficiency:.0%} of {machine.card.flops / 1e12:.0f} TFLOP/s while computing, links at "
        f"{machine.assumed.links:.0%} of {machine.card.link / 1e9:.0f} GB/s inside a machine of {machine.card.machine} and "
        f"{machine.card.network / 1e9:.3g} GB/s a card between machines, captions of {curriculum.caption_tokens} tokens, "
        "blocks not compiled"
    )


def table(rows: list[tuple[str, ...]], left: int = 1) -> Iterator[str]:
    """Lines of aligned cells, the first ``left`` columns to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(f"{cell:<{width}}" if n < left else f"{cell:>{width}}" for n, (cell, width) in cells).rstrip()


def _stages(plan: TrainingPlan, machine: Machine) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        ("stage", "px", "steps", "batch", "at once", "recomputed", "GB/card", "s/step", "MFU", "producers", "cache TB", "days")
    ]
    for stage in plan.stages:
        for n, (share, step) in enumerate(zip(stage.stage.shares(), stage.steps, strict=True)):
            rows.append(
                (
                    "" if n else stage.stage.name,
                    str(step.side),
                    f"{stage.stage.steps * share:,.0f}",
                    f"{step.batch:,}",
                    f"{step.micro} x {step.accumulate}",
                    words(step.every),
                    f"{step.memory.total / 1e9:.1f}",
                    _short(step.time.total),
                    f"{step.share_of_peak(machine.card, plan.layout.world):.0%}",
                    "" if n else str(stage.producers),
                    "" if n else _short(stage.cache / 1e12),
                    "" if n else _short(stage.days),
                )
            )
    yield from table(rows)


def _per_split(tried: Mapping[Layout, TrainingPlan | InputError]) -> dict[tuple[int, int], TrainingPlan | InputError]:
    """For each (tp, sp) the fastest sharding, or the first refusal where none is possible; the fastest first."""
    from glyphflow.plan.train import fastest

    by_split: dict[tuple[int, int], list[TrainingPlan | InputError]] = {}
    for layout, found in tried.items():
        by_split.setdefault((layout.tp, layout.sp), []).append(found)
    best = {
        split: found[0] if all(isinstance(one, InputError) for one in found) else fastest(found)
        for split, found in by_split.items()
    }
    return dict(sorted(best.items(), key=lambda item: getattr(item[1], "days", float("inf"))))


def _compared(tried: Mapping[Layout, TrainingPlan | InputError]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [
        ("layout", "px", "at once", "recomputed", "GB/card", "s/step", "tp", "sp", "waiting", "days")
    ]
    refused = []
    for (tp, sp), found in _per_split(tried).items():
        if isinstance(found, InputError):
            refused.append(f"tp {tp}, sp {sp}: {found}")
            continue
        for n, step in enumerate(_distinct(found)):
            time = step.time
            rows.append(
                (
                    "" if n else str(found.layout),
                    str(step.side),
                    f"{step.micro} x {step.accumulate}",
                    words(step.every),
                    f"{step.memory.total / 1e9:.1f}",
                    _short(time.total),
                    *(f"{part / time.total:.0%}" for part in (time.tensor, time.sequence, time.sharding)),
                    "" if n else _short(found.days),
                )
            )
    yield from table(rows)
    yield from refused


def _sweep_columns(curriculum: Curriculum, price: float | None) -> tuple[str, ...]:
    sides = dict.fromkeys((each.side, each.batch) for stage in curriculum.stages for each in stage.resolutions)
    cost = () if price is None else ("cost",)
    return ("gpus", "layout", *(f"s/step at {side} px" for side, _ in sides), "days", "GPU hours", *cost)


def _sweep(
    gpus: str, machine: Machine, tried: Mapping[Layout, TrainingPlan | InputError], best: TrainingPlan, price: float | None
) -> Iterator[tuple[str, ...]]:
    """The fastest layout of each tensor parallelism on one number of cards."""
    seen: set[int] = set()
    for (tp, _), found in _per_split(tried).items():
        if tp in seen or isinstance(found, InputError):
            continue
        seen.add(tp)
        cells = (
            f"{_short(step.time.total)} ({step.memory.total / 1e9:.0f} GB, {words(step.every)})" for step in _distinct(found)
        )
        cost = () if price is None else (amount(found.gpu_hours * price),)
        yield (gpus if len(seen) == 1 else "", str(found.layout), *cells, _short(found.days), amount(found.gpu_hours), *cost)


def _distinct(plan: TrainingPlan) -> list[Step]:
    steps = {(step.side, step.batch): step for stage in plan.stages for step in stage.steps}
    return list(steps.values())


def _sentences(plan: TrainingPlan, machine: Machine, price: float | None) -> Iterator[str]:
    from glyphflow.core.hardware import gigabytes

    step = plan.peak
    parts = dataclasses.asdict(step.memory)
    named = ", ".join(f"{name} {gigabytes(count)}" for name, count in parts.items() if count)
    yield f"A card is fullest at {step.side} px: {gigabytes(step.memory.total)} of {gigabytes(plan.budget)}: {named}."
    time = step.time
    told = {
        "compute": time.compute,
        "recompute": time.repeated,
        "tensor-parallel sums": time.tensor,
        "Ulysses exchanges": time.sequence,
        "waiting for weights and gradients": time.sharding,
        "optimizer": time.update,
    }
    seconds = ", ".join(f"{name} {_short(value)} s" for name, value in told.items() if value)
    hidden = f"{_short(time.hidden)} s of communication are hidden behind it"
    yield f"A step there takes {_short(time.total)} s: {seconds}; {hidden}."
    waiting = [f"{stage.stage.name} {stage.waiting:.0%}" for stage in plan.stages if stage.waiting > 0.001]
    if waiting:
        yield f"The producers of the recipe are too few; trainers wait in {', '.join(waiting)} of the time."
    cost = "" if price is None else f", {amount(plan.gpu_hours * price)} at {price:g} an hour"
    yield f"Together {_short(plan.days)} days and {amount(plan.gpu_hours)} GPU hours with producers{cost}."


def _as_json(
    curriculum: Curriculum,
    gpus: str,
    machine: Machine,
    tried: Mapping[Layout, TrainingPlan | InputError],
    best: TrainingPlan,
    price: float | None,
) -> dict[str, Any]:
    def told(plan: TrainingPlan | InputError) -> dict[str, Any]:
        if isinstance(plan, InputError):
            return {"refused": str(plan)}
        return {"days": plan.days, "gpu_hours": plan.gpu_hours, "peak_bytes": plan.peak.memory.total}

    stages = []
    for stage in best.stages:
        entry = dataclasses.asdict(dataclasses.replace(stage, stage=None))  # type: ignore[arg-type]
        entry.pop("stage")
        for values, step in zip(entry["steps"], stage.steps, strict=True):
            values["memory"]["total"], values["time"]["total"] = step.memory.total, step.time.total
            values["mfu"] = step.share_of_peak(machine.card, best.layout.world)
        stages.append({"name": stage.stage.name, **entry})
    return {
        "gpus": gpus,
        "machine": dataclasses.asdict(machine),
        "layout": dataclasses.asdict(best.layout),
        "days": best.days,
        "gpu_hours": best.gpu_hours,
        "cost": None if price is None else best.gpu_hours * price,
        "caption_tokens": curriculum.caption_tokens,
        "stages": stages,
        "tried": [{**dataclasses.asdict(layout), **told(plan)} for layout, plan in tried.items()],
    }
