"""``glyphflow plan train RECIPE --memory 24GB``: what a run on one card keeps where, and how long its steps take."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glyphflow.plan.one_card import CardPlan, Task
    from glyphflow.plan.train import Machine
    from glyphflow.train.curriculum import Curriculum


def tasks(curriculum: Curriculum) -> list[Task]:
    """What one card is asked for: each resolution of the curriculum once, the largest first."""
    from glyphflow.plan.one_card import Task
    from glyphflow.plan.step_memory import StepTokens
    from glyphflow.plan.train import target_tokens

    found: dict[tuple[int, int], Task] = {}
    for stage in curriculum.stages:
        edits = stage.tasks.get("ti2i", 0.0) + stage.tasks.get("i2i", 0.0) > 0
        for each in stage.resolutions:
            target = target_tokens(each.side)
            tokens = StepTokens(target, curriculum.caption_tokens, target if edits else 0)
            average = curriculum.optimizer.ema_decay > 0
            found[each.side, each.batch] = Task(curriculum.model, curriculum.train.lora, each.side, tokens, each.batch, average)
    return [found[key] for key in sorted(found, reverse=True)]


def lines(recipe: str, curriculum: Curriculum, card: str, machine: Machine, overrides: Sequence[str] = ()) -> Iterator[str]:
    """What the verb prints; the line to run at its end repeats the ``overrides`` that were planned for."""
    from glyphflow.cli.plan_train import amount, table
    from glyphflow.core.hardware import gigabytes
    from glyphflow.plan.one_card import choose, plan_card
    from glyphflow.plan.step_memory import parameters

    largest, *smaller = tasks(curriculum)
    plans = plan_card(largest, machine)
    best = choose(plans)
    yield f"{recipe}, {amount(parameters(curriculum.model)[0])} parameters, {_what(largest)}, on one {card}"
    yield (
        f"Assumed: {machine.assumed.efficiency:.0%} of {machine.card.flops / 1e12:.0f} TFLOP/s while computing, copies at "
        f"{machine.assumed.links:.0%} of {machine.card.bus / 1e9:.0f} GB/s from main memory, captions of "
        f"{curriculum.caption_tokens} tokens"
    )
    yield ""
    yield from table([_COLUMNS, *(_row(plan, plan is best) for plan in plans)], left=2)
    yield ""
    memory, time = best.memory, best.time
    named = ", ".join(f"{name} {gigabytes(count)}" for name, count in dataclasses.asdict(memory).items() if count)
    yield f"On the card at the highest point: {gigabytes(memory.total)} of {gigabytes(machine.room)}: {named}."
    if best.host:
        yield f"In main memory: {gigabytes(best.host)} of weights, page-locked where blocks pass."
    told = {
        "compute": time.compute,
        "computing blocks again": time.repeated,
        "expanding rounded weights": time.expanding,
        "waiting for copies": time.copying,
        "optimizer": time.update,
    }
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in told.items() if value >= 0.005)
    hidden = f"{time.hidden:.2f} s of copies are hidden behind it"
    yield f"A step of {largest.batch} at {largest.side} px takes {time.total:.2f} s: {seconds}; {hidden}."
    for task in smaller:
        fitting = [plan for plan in plan_card(task, machine) if (plan.base, plan.optimizer) == (best.base, best.optimizer)]
        yield from (f"A step of {task.batch} at {task.side} px takes {plan.time.total:.2f} s." for plan in fitting)
    yield from _beside(curriculum, largest.side, machine)
    chosen = best.settings()
    keys = {each.partition("=")[0] for each in chosen}
    kept = [each for each in overrides if each.partition("=")[0] not in keys]
    yield shlex.join(["glyphflow", "train", recipe, *kept, *chosen])


def _beside(curriculum: Curriculum, side: int, machine: Machine) -> Iterator[str]:
    """What else is on the card: the encoders before the training, and previews within it."""
    from glyphflow.core.hardware import gigabytes
    from glyphflow.plan.beside import encoding_bytes, preview_bytes

    encoding = encoding_bytes(curriculum, side)
    room = "" if encoding <= machine.room else f"; that is more than there is, so add --memory {machine.room // 10**9}GB to it"
    yield (
        "The encoders are not on the card while it trains: glyphflow encode fills the cache of the recipe's sources, and "
        f"takes {gigabytes(encoding)} there{room}."
    )
    if curriculum.preview.prompts:
        yield f"A preview takes {gigabytes(preview_bytes(curriculum))} beside the weights."


def as_json(curriculum: Curriculum, card: str, machine: Machine) -> dict[str, Any]:
    """The same for machines."""
    from glyphflow.plan.one_card import choose, plan_card

    told = []
    for task in tasks(curriculum):
        plans = plan_card(task, machine)
        best = choose(plans)
        told.append({"side": task.side, "batch": task.batch, "chosen": plans.index(best), "plans": [_told(p) for p in plans]})
    return {"card": card, "machine": dataclasses.asdict(machine), "resolutions": told}


_COLUMNS = (
    "",
    "frozen",
    "off the card",
    "modulation",
    "again",
    "at once",
    "optimizer",
    "weights",
    "buffers",
    "trained",
    "states",
    "work",
    "GB",
    "host GB",
    "s/step",
    "MFU",
)


def _row(plan: CardPlan, chosen: bool) -> tuple[str, ...]:
    from glyphflow.cli.plan_train import words

    memory, task = plan.memory, plan.task
    sizes = (memory.weights, memory.buffers, memory.trained, memory.optimizer, memory.work, memory.total, plan.host)
    return (
        "->" if chosen else "",
        "-" if task.lora is None else plan.base or "bfloat16",
        f"{plan.offload} of {task.model.num_layers}",
        plan.modulation,
        words(plan.every),
        f"{plan.micro} x {plan.accumulate}",
        plan.optimizer,
        *(f"{size / 1e9:.1f}" for size in sizes),
        f"{plan.time.total:.2f}",
        f"{plan.share_of_peak:.0%}",
    )


def _told(plan: CardPlan) -> dict[str, Any]:
    values = dataclasses.asdict(plan)
    values.pop("task")
    values["memory"]["total"], values["time"]["total"] = plan.memory.total, plan.time.total
    return values | {"accumulate": plan.accumulate, "settings": plan.settings()}


def _what(task: Task) -> str:
    from glyphflow.cli.plan_train import amount
    from glyphflow.plan.card_memory import adapter_parameters

    if task.lora is None:
        return "all of them trained"
    return f"an adapter of rank {task.lora.rank} ({amount(adapter_parameters(task.model, task.lora))})"
