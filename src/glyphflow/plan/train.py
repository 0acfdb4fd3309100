"""What a training run needs and how long it takes, before it is started.

Memory is counted on the real network (:mod:`glyphflow.plan.step_memory`). Time is a roofline: operations at a stated share of
the card's peak, or the weights' way through its memory if that takes longer, and bytes sent at a stated share of the links'
rates. Sums of tensor parallelism and exchanges of Ulysses wait for each other and are added; gathering weights and reducing
gradients happens beside the computation, and only what exceeds it, the first block's gather and the last one's reduction are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import gigabytes
from glyphflow.feed.buckets import bucket_sizes
from glyphflow.models import MMDiTConfig
from glyphflow.plan.cards import Card
from glyphflow.plan.layout import Layout
from glyphflow.plan.producers import Encoding
from glyphflow.plan.step_memory import StepTokens, parameters, step_bytes
from glyphflow.train.curriculum import Curriculum, Resolution, Stage
from glyphflow.train.flops import sample_flops

RESERVE = 0.06
"""Share of a card that CUDA, NCCL and holes between tensors take."""

STATE_BYTES = {"adamw": 8.0, "adamw8bit": 2.03, "adafactor": 0.1}
"""What an optimizer keeps for each trained number."""

UPDATE_BYTES = {"adamw": 28, "adamw8bit": 620, "adafactor": 150}
"""What it reads and writes to update one, counted on the code."""

EVERY = (0, 4, 2, 1)
"""Activation checkpointing that is tried: no block, every fourth, every second, every one."""


@dataclass(frozen=True)
class Assumptions:
    """What is not known before a run; all are options of the command line or stated in its output."""

    efficiency: float = 0.40
    """Share of the dense peak that blocks reach while they compute. Whole steps of others: 22 % (Qwen-Image, 4 x H200), 33 %
    (Wan 14B), 39 % (Llama 70B)."""
    links: float = 0.80
    """Share of the rates of links, network and memory that large transfers reach."""
    latency: float = 20e-6
    """Seconds that a collective takes however small it is."""
    hop: float = 5e-6
    """Seconds that each further machine in a collective's ring adds."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the highest point of a step."""

    weights: int
    """float32 master weights."""
    gradients: int
    optimizer: int
    """AdamW's two float32 moments, or those of ``train.optimizer``."""
    average: int
    """float32 moving average of the weights; 0 without one."""
    buffers: int
    """bfloat16 blocks being gathered and used, gradients being reduced."""
    activations: int

    @property
    def total(self) -> int:
        """Everything."""
        return self.weights + self.gradients + self.optimizer + self.average + self.buffers + self.activations


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step of one process."""

    compute: float
    repeated: float
    """Recomputation of checkpointed blocks."""
    tensor: float
    sequence: float
    sharding: float
    """What of gathering and reducing is not hidden behind the computation."""
    update: float
    """The optimizer."""
    hidden: float = 0.0
    """What of gathering and reducing is hidden."""

    @property
    def total(self) -> float:
        """Wall time."""
        return self.compute + self.repeated + self.tensor + self.sequence + self.sharding + self.update


@dataclass(frozen=True)
class Step:
    """How one resolution is trained: ``micro`` samples at once, ``accumulate`` times, each ``every``-th block recomputed."""

    side: int
    tokens: StepTokens
    batch: int
    micro: int
    accumulate: int
    every: int
    memory: Memory
    time: StepTime
    flops: float
    """Operations of the model in this step, over all processes and without repetitions."""

    def share_of_peak(self, card: Card, world: int) -> float:
        """MFU: operations of the model per second, as a share of all cards' dense peak."""
        return self.flops / self.time.total / (card.flops * world)


@dataclass(frozen=True)
class StagePlan:
    """A stage on given cards."""

    stage: Stage
    steps: tuple[Step, ...]
    """One for each resolution of the stage."""
    producers: int
    days: float
    waiting: float
    """Share of the time that trainers wait, when the stage names too few producers."""
    samples: int
    cache: int
    """Bytes of all its samples, encoded, if each is seen once."""

    @property
    def seconds(self) -> float:
        """Mean seconds of a step."""
        return self.days * 86400 / self.stage.steps


@dataclass(frozen=True)
class TrainingPlan:
    """A whole curriculum on given cards."""

    layout: Layout
    stages: tuple[StagePlan, ...]
    budget: int
    """Bytes that a process may take."""

    @property
    def days(self) -> float:
        """All stages."""
        return sum(stage.days for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """Trainers and producers."""
        return sum(stage.days * 24 * (self.layout.world + stage.producers) for stage in self.stages)

    @property
    def peak(self) -> Step:
        """The step that needs most memory."""
        return max((step for stage in self.stages for step in stage.steps), key=lambda step: step.memory.total)


@dataclass(frozen=True)
class Machine:
    """Cards, what is assumed of them, and what one may take: ``budget`` bytes; None: the card but :data:`RESERVE`."""

    card: Card
    assumed: Assumptions = field(default_factory=Assumptions)
    budget: int | None = None

    @property
    def room(self) -> int:
        """Bytes for tensors."""
        return int((1 - RESERVE) * (self.card.memory if self.budget is None else self.budget))


def plan_training(
    curriculum: Curriculum,
    layout: Layout,
    machine: Machine,
    every: int | None = None,
    encoding: Encoding | None = None,
) -> TrainingPlan:
    """The plan for ``curriculum`` on ``layout``; ``every`` None: for each resolution the fastest checkpointing that fits.

    Raises InputError for an impossible layout, a batch that cannot be dealt, and too little memory, with both numbers.
    """
    layout.check(layout.world, curriculum.model)
    encoding = encoding or Encoding(machine.card)
    stages = tuple(_stage(curriculum, stage, layout, machine, every, encoding) for stage in curriculum.stages)
    return TrainingPlan(layout, stages, machine.room)


def fastest(plans: Iterable[TrainingPlan | InputError]) -> TrainingPlan:
    """The plan of fewest days, or of those within 1 % of it the one that leaves most memory free.

    Raises the first refusal when there is no plan.
    """
    tried = list(plans)
    good = [plan for plan in tried if isinstance(plan, TrainingPlan)]
    if not good:
        raise next(error for error in tried if isinstance(error, InputError))
    days = min(plan.days for plan in good)
    return min((plan for plan in good if plan.days <= 1.01 * days), key=lambda plan: plan.peak.memory.total)


def compare(
    curriculum: Curriculum,
    choice: Iterable[Layout],
    machine: Machine,
    every: int | None = None,
    encoding: Encoding | None = None,
) -> Mapping[Layout, TrainingPlan | InputError]:
    """The plan on each of ``choice``, or why there is none."""
    found: dict[Layout, TrainingPlan | InputError] = {}
    for layout in choice:
        try:
            found[layout] = plan_training(curriculum, layout, machine, every, encoding)
        except InputError as error:
            found[layout] = error
    return found


def _stage(
    curriculum: Curriculum, stage: Stage, layout: Layout, machine: Machine, every: int | None, encoding: Encoding
) -> StagePlan:
    edits = stage.tasks.get("ti2i", 0.0) / sum(stage.tasks.values()) if stage.tasks else 0.0
    steps = tuple(_best_step(curriculum, each, layout, machine, every, edits) for each in stage.resolutions)
    shares = stage.shares()
    rates = [encoding.rate(curriculum.vae, each.side, curriculum.caption_tokens) for each in stage.resolutions]
    seconds = sum(share * step.time.total for share, step in zip(shares, steps, strict=True))
    encoding_seconds = sum(share * step.batch / rate for share, step, rate in zip(shares, steps, rates, strict=True))
    producers = math.ceil(encoding_seconds / seconds) if stage.producers == "auto" else stage.producers
    fed = max(seconds, encoding_seconds / producers)
    samples = round(stage.steps * sum(share * step.batch for share, step in zip(shares, steps, strict=True)))
    variants = sum(weight > 0 for weight in stage.captions.values()) or 1
    text = variants * curriculum.caption_tokens * curriculum.model.joint_attention_dim * 2
    cache = sum(
        stage.steps * share * step.batch * ((1 + edits) * step.tokens.target * curriculum.model.in_channels * 2 + text)
        for share, step in zip(shares, steps, strict=True)
    )
    return StagePlan(stage, steps, producers, stage.steps * fed / 86400, 1 - seconds / fed, samples, round(cache))


def _best_step(
    curriculum: Curriculum, size: Resolution, layout: Layout, machine: Machine, every: int | None, edits: float
) -> Step:
    per_group, rest = divmod(size.batch, layout.dp)
    if rest:
        raise InputError(
            f"A batch of {size.batch} pictures at {size.side} px cannot be dealt to {layout.dp} groups of processes; make it a "
            f"multiple of {layout.dp}."
        )
    target = target_tokens(size.side)
    # A share of the samples has a reference of the same size: all of a batch at the highest point of memory, the mean in time.
    tokens = StepTokens(target, curriculum.caption_tokens, target if edits else 0)
    mean = dataclasses.replace(tokens, references=round(edits * target))
    average, optimizer = curriculum.optimizer.ema_decay > 0, curriculum.train.optimizer
    best: Step | None = None
    least = 0
    for k in EVERY if every is None else (every,):
        if best is not None and best.time.sharding < best.time.compute / 3 / k:
            continue  # all that larger micro-batches could save is less than what recomputing costs
        alone = _memory(curriculum.model, tokens, 1, k, layout, average, optimizer)
        least = min(least or alone.total, alone.total)
        for micro in divisors(per_group):
            memory = _memory(curriculum.model, tokens, micro, k, layout, average, optimizer)
            if memory.total > machine.room:
                break
            time = _time(curriculum.model, mean, micro, per_group // micro, k, layout, machine, average, optimizer)
            if best is None or time.total < best.time.total:
                flops = float(size.batch * sample_flops(curriculum.model, mean.text, target, mean.references).train)
                best = Step(size.side, tokens, size.batch, micro, per_group // micro, k, memory, time, flops)
    if best is None:
        raise InputError(
            f"{layout} needs {gigabytes(least)} on each card for one picture at {size.side} px, and {gigabytes(machine.room)} "
            "are free; use more cards, tensor or sequence parallelism, or activation checkpointing."
        )
    return best


def _memory(
    model: MMDiTConfig, tokens: StepTokens, micro: int, every: int, layout: Layout, average: bool, optimizer: str
) -> Memory:
    whole, block = parameters(model, layout.tp)
    own = -(-whole // layout.shards)
    root = whole - model.num_layers * block
    # bfloat16: two blocks in use or on their way, the buffer they arrive in, their gradients; float32: gradients on their way.
    buffers = 2 * root + (2 * 2 + 2 + 2 + 2 * 4) * block
    recomputed = model.num_layers // every if every else 0
    activations = step_bytes(model, tokens, micro, recomputed, layout.tp, layout.sp)
    return Memory(4 * own, 4 * own, int(STATE_BYTES[optimizer] * own), 4 * own if average else 0, buffers, activations)


def _time(
    model: MMDiTConfig,
    tokens: StepTokens,
    micro: int,
    accumulate: int,
    every: int,
    layout: Layout,
    machine: Machine,
    average: bool,
    optimizer: str,
) -> StepTime:
    card, assumed = machine.card, machine.assumed
    whole, block = parameters(model, layout.tp)
    work = sample_flops(model, tokens.text, tokens.target, tokens.references)
    share = (model.num_layers // every if every else 0) / model.num_layers
    # Inputs and head are whole in every process; modulations are cut by tensor parallelism only.
    apart = work.blocks / (layout.tp * layout.sp) + work.modulation / layout.tp
    rate, memory = assumed.efficiency * card.flops, assumed.links * card.bandwidth
    through = 2 * whole / memory  # the weights' way to the arithmetic
    compute = max(micro * (3 * (apart + work.embed + work.head) - work.embed) / rate, 3 * through)
    repeated = share * max(micro * apart / rate, through)

    passes = 2 + share  # forward, backward, and forward again
    stream = micro * 2 * model.width * -(-(tokens.target + tokens.references + tokens.text) // layout.sp)
    tensor = model.num_layers * passes * (2 * 2 * _round(stream, layout.tp, _near(card, assumed, layout.tp)))
    tensor += model.num_layers * passes * 8 * assumed.latency if layout.tp > 1 else 0.0
    traded = 4 * stream / layout.tp
    sequence = model.num_layers * passes * _round(traded, layout.sp, _near(card, assumed, layout.sp * layout.tp))
    sequence += model.num_layers * passes * 2 * assumed.latency if layout.sp > 1 else 0.0

    gather, reduce = (_sharding(each * whole, layout, machine) for each in (2, 4))
    machines = -(-layout.shards * layout.tp // card.machine)
    calls = 3 * model.num_layers * (assumed.latency + (machines - 1) * assumed.hop) if layout.shards > 1 else 0.0
    beside = 2 * gather + reduce + calls
    busy = compute + repeated + tensor + sequence
    ends = (gather + reduce) * block / whole
    exposed = max(0.0, beside - ends - busy) + ends
    # Gradients of the copies are summed once a step, in the time that the last backward pass has left.
    copies = 2 * _round(4 * whole / layout.shards, layout.dp_replicate, assumed.links * _far(card, layout))
    exposed_copies = max(0.0, copies - 2 / 3 * max(0.0, busy - beside))
    update = (UPDATE_BYTES[optimizer] + 8 * average) * whole / layout.shards / memory
    return StepTime(
        compute * accumulate,
        repeated * accumulate,
        tensor * accumulate,
        sequence * accumulate,
        exposed * accumulate + exposed_copies,
        update,
        (beside - exposed) * accumulate + copies - exposed_copies,
    )


def _round(count: float, ranks: int, rate: float) -> float:
    """Seconds in which each of ``ranks`` has received the others' parts of ``count`` bytes."""
    return count * (ranks - 1) / ranks / rate


def _near(card: Card, assumed: Assumptions, span: int) -> float:
    """Rate between processes of which ``span`` neighbours are in the group's reach."""
    return assumed.links * (card.link if span <= card.machine else card.network)


def _far(card: Card, layout: Layout) -> float:
    """Rate between copies of the sharded state."""
    return card.link if layout.world <= card.machine else card.network


def _sharding(count: float, layout: Layout, machine: Machine) -> float:
    """Seconds to gather ``count`` bytes from all shards, or to reduce them to there.

    Within a machine at the rate of its links; what comes from other machines is divided among the ports of the group's members
    there.
    """
    card, shards = machine.card, layout.shards
    if shards == 1:
        return 0.0
    members = min(shards, max(1, card.machine // layout.tp))
    inside = count * (shards - 1) / shards / card.link
    outside = count * (shards - members) / shards / (members * card.network)
    return max(inside, outside) / machine.assumed.links


def target_tokens(side: int) -> int:
    """Image tokens of the largest of the nine shapes of an area of ``side`` x ``side`` pixels."""
    return max(w * h // 256 for w, h in bucket_sizes(side**2))


def divisors(number: int) -> list[int]:
    """Numbers that divide ``number``, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]
