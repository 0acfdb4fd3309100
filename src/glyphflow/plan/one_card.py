"""One card: what a run keeps where so that it fits, and how long a step takes.

Everything that :class:`glyphflow.train.lowmem.LowMemory` can do is tried: the form of frozen weights, blocks and modulations in
main memory, what is computed again, samples at once, the optimizer. Memory is counted on the real layout
(:mod:`glyphflow.plan.card_memory`); time is a roofline like that of :mod:`glyphflow.plan.train`, where copies run beside the
computation of their direction and only what exceeds it is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import gigabytes
from glyphflow.generate.placement import spread
from glyphflow.models import MMDiTConfig
from glyphflow.models.quantize import KINDS, Quantize
from glyphflow.plan.card_memory import STAYS, Learns, Stay, adapter_parameters, optimizer_bytes, weight_bytes, work_bytes
from glyphflow.plan.step_memory import StepTokens, parameters
from glyphflow.plan.train import EVERY, STATE_BYTES, UPDATE_BYTES, Machine, divisors
from glyphflow.train.flops import sample_flops
from glyphflow.train.lora import LoRAConfig

Optimizer = Literal["adamw", "adamw8bit", "adafactor"]

WORSE = 1.10
"""How many times as long as with rounded weights a step may take before frozen weights are rounded."""
NEAR = 1.03
"""Times this near to the fastest are as good; the way that copies least and then takes least memory is preferred."""
_EXPAND: dict[Quantize | None, float] = {None: 0.0, "int8": 5.0, "int4": 10.5}  # read and written to expand a weight


@dataclass(frozen=True)
class Task:
    """What is trained: an adapter of the network, or (``lora`` None) all of it, on ``batch`` samples of ``tokens`` a step.

    ``average``: a moving average is wanted; an adapter's is kept, for one of all weights there is no room.
    """

    model: MMDiTConfig
    lora: LoRAConfig | None
    side: int
    tokens: StepTokens
    batch: int
    average: bool


@dataclass(frozen=True)
class CardMemory:
    """Bytes on the card at the highest point of a step."""

    weights: int
    """Those that stay."""
    buffers: int
    """Through which the others pass."""
    trained: int
    """Of an adapter its float32 tensors, gradients and average; 0 for all weights, which count as weights."""
    optimizer: int
    work: int
    """Activations, and gradients until they are applied, with what that takes."""

    @property
    def total(self) -> int:
        """Everything."""
        return self.weights + self.buffers + self.trained + self.optimizer + self.work


@dataclass(frozen=True)
class CardTime:
    """Seconds of an optimizer step."""

    compute: float
    repeated: float
    """Blocks that are computed again."""
    expanding: float
    """Rounded weights."""
    copying: float
    """What of copies is waited for."""
    update: float
    hidden: float
    """Copies beside the computation."""

    @property
    def copies(self) -> float:
        """All copies."""
        return self.copying + self.hidden

    @property
    def total(self) -> float:
        """Wall time."""
        return self.compute + self.repeated + self.expanding + self.copying + self.update


@dataclass(frozen=True)
class CardPlan:
    """One way to train on one card."""

    task: Task
    base: Quantize | None
    optimizer: Optimizer
    modulation: Literal["card", "host"]
    offload: int
    every: int
    micro: int
    memory: CardMemory
    time: CardTime
    host: int
    """Bytes of weights in main memory."""
    flops: float
    """Operations of a step without repetitions."""
    peak: float
    """Operations a second of the card."""

    @property
    def share_of_peak(self) -> float:
        """MFU."""
        return self.flops / self.time.total / self.peak

    @property
    def accumulate(self) -> int:
        """Parts of a step."""
        return self.task.batch // self.micro

    def settings(self) -> list[str]:
        """The overrides that make a recipe run so."""
        checkpointing = {0: "none", 1: "full"}.get(self.every, str(self.every))
        found = [f"train.optimizer={self.optimizer}", f"train.parallel.checkpointing={checkpointing}"]
        if self.base:
            found.append(f"train.base={self.base}")
        if self.offload:
            found.append(f"train.offload={self.offload}")
        if self.modulation == "host":
            found.append("train.modulation=host")
        if self.task.lora is None:
            found.append("train.weights=bfloat16")
            if self.task.average:
                found.append("train.ema_decay=0")
        elif self.accumulate > 1:
            found.append(f"train.micro_batch={self.micro}")
        return found


def plan_card(task: Task, machine: Machine) -> list[CardPlan]:
    """The fastest way that fits for each form of frozen weights, or for each optimizer of all weights.

    Raises InputError, with both numbers, when nothing fits.
    """
    bases: list[Quantize | None] = [None, *KINDS] if task.lora else [None]
    optimizers: list[Optimizer] = ["adamw"] if task.lora else ["adamw8bit", "adafactor"]
    found, least = [], 0
    for base in bases:
        for optimizer in optimizers:
            tried = list(_all(task, machine, base, optimizer))
            fitting = [plan for plan in tried if plan.memory.total <= machine.room]
            least = min([least or tried[0].memory.total, *(plan.memory.total for plan in tried)])
            if fitting:
                fastest = min(plan.time.total for plan in fitting)
                near = [plan for plan in fitting if plan.time.total <= NEAR * fastest]
                found.append(min(near, key=lambda plan: (plan.time.copies, plan.memory.total)))
    if not found:
        kind = "an adapter" if task.lora else "all weights"
        raise InputError(
            f"Training {kind} on {task.batch if not task.lora else 1} picture(s) of {task.side} px at once needs "
            f"{gigabytes(least)} on the card, and {gigabytes(machine.room)} are free; make pictures or batches smaller"
            f"{'' if task.lora else ', or train an adapter (train.lora.rank=16)'}."
        )
    return found


def choose(plans: Iterable[CardPlan]) -> CardPlan:
    """The fastest of ``plans``; frozen weights are rounded only where that makes a step :data:`WORSE` times as fast."""
    plans = list(plans)
    best = min(plan.time.total for plan in plans)
    good = [plan for plan in plans if plan.time.total <= WORSE * best]
    return min(good, key=lambda plan: ([None, *KINDS].index(plan.base), plan.time.total))


def _all(task: Task, machine: Machine, base: Quantize | None, optimizer: Optimizer) -> Iterator[CardPlan]:
    """Every combination that could be best: of each, the fewest blocks in main memory that fit, and all of them."""
    layers = task.model.num_layers
    frozen = task.lora is not None and "modulation" not in task.lora.targets
    for modulation in ("card", "host") if frozen else ("card",):
        for every in EVERY:
            for micro in divisors(task.batch) if task.lora else [task.batch]:
                low, high = 0, layers  # memory falls with every block that leaves, so the first that fits is searched by halves
                while low < high:
                    middle = (low + high) // 2
                    fits = _plan(task, machine, base, optimizer, modulation, middle, every, micro).memory.total <= machine.room
                    low, high = (low, middle) if fits else (middle + 1, high)
                yield _plan(task, machine, base, optimizer, modulation, low, every, micro)


def _plan(
    task: Task,
    machine: Machine,
    base: Quantize | None,
    optimizer: Optimizer,
    modulation: Literal["card", "host"],
    offload: int,
    every: int,
    micro: int,
) -> CardPlan:
    model, layers = task.model, task.model.num_layers
    sizes = weight_bytes(model, base)
    rows_apart = modulation == "host"
    whole = sizes.block + (0 if rows_apart else sizes.rows)
    blocks = _kinds(layers, offload, every)
    weights = sizes.around + whole * (layers - offload)
    buffers = min(2, offload) * whole + (sizes.rows if rows_apart else 0)  # the two modules of a block's rows are a buffer each
    learns: Learns
    if task.lora:
        learns, count = task.lora, adapter_parameters(model, task.lora)
        trained, state = count * (8 + 4 * task.average), int(STATE_BYTES[optimizer] * count)
    else:
        count = parameters(model)[0]
        assert optimizer != "adamw"
        learns, trained, state = optimizer, 0, optimizer_bytes(model, optimizer)
    work = work_bytes(model, task.tokens, micro, blocks, learns, base)
    memory = CardMemory(weights, buffers, trained, state, work)
    host = whole * offload + (sizes.rows * layers if rows_apart else 0)

    flops = sample_flops(model, task.tokens.text, task.tokens.target, task.tokens.references)
    joint = task.tokens.text + task.tokens.target + task.tokens.references
    backward = 1 if task.lora else 2  # gradients of inputs, and of weights
    extra = 6 * count * joint if task.lora else 0
    card, assumed = machine.card, machine.assumed
    rate, through = assumed.efficiency * card.flops, assumed.links * card.bandwidth
    again = (blocks["again"] + blocks["away"]) / layers
    # Weights pass once to the arithmetic in each direction, whatever the samples.
    reading = 2 * layers * (sizes.block if base is None else 0) / through
    forward = max(micro * flops.forward / rate, reading)
    back = backward * forward
    repeated = again * forward
    expanding = (2 + again) * _EXPAND[base] * layers * 12 * 2 * model.width**2 / through
    bus = assumed.links * card.bus
    ahead = (whole * offload + (sizes.rows * layers if rows_apart else 0)) / bus
    behind = whole * offload * (1 if task.lora else 2) / bus
    expanded = expanding / (2 + again)
    waits = max(0.0, ahead - forward - expanded), max(0.0, behind - back - repeated - (1 + again) * expanded)
    parts = task.batch // micro
    time = CardTime(
        parts * (forward + back + micro * extra / rate),
        parts * repeated,
        parts * expanding,
        parts * sum(waits),
        UPDATE_BYTES[optimizer] * count / through,
        parts * (ahead + behind - sum(waits)),
    )
    work_done = task.batch * ((1 + backward) * flops.forward + extra)
    return CardPlan(task, base, optimizer, modulation, offload, every, micro, memory, time, host, float(work_done), card.flops)


def _kinds(layers: int, offload: int, every: int) -> dict[Stay, int]:
    """How many blocks stay how, dealt as LowMemory deals them."""
    away = set(spread(layers)[layers - offload :])
    again = {index for index in range(layers) if every and index % every == every - 1} - away
    return dict(zip(STAYS, (layers - len(again) - len(away), len(again), len(away)), strict=True))
