"""The plan of a training run against steps that are counted, against the released sizes, and against itself."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from glyphflow.core.errors import ConfigError, GlyphFlowError, InputError
from glyphflow.generate.activations import LiveBytes
from glyphflow.models import QWEN_IMAGE_MMDIT, QWEN_IMAGE_VAE, MMDiT, MMDiTConfig
from glyphflow.models.parallel import keep_part, parallelise
from glyphflow.plan.cards import CARDS, parse_gpus
from glyphflow.plan.layout import Layout, layouts
from glyphflow.plan.producers import Encoding, parse_rates, read_rates
from glyphflow.plan.step_memory import StepTokens, parameters, step_bytes, training_step
from glyphflow.plan.train import Assumptions, Machine, TrainingPlan, compare, fastest, plan_training
from glyphflow.train.curriculum import Curriculum, Resolution, Stage, read_curriculum
from glyphflow.train.flops import sample_flops
from glyphflow.train.recipe import RunConfig
from ranks import run_ranks

SMALL = MMDiTConfig(
    num_layers=6, attention_head_dim=64, num_attention_heads=4, joint_attention_dim=256, axes_dims_rope=(8, 28, 28)
)
H200 = Machine(CARDS["H200"])


def curriculum(model: MMDiTConfig = QWEN_IMAGE_MMDIT, *sizes: tuple[int, int], **stage: Any) -> Curriculum:
    resolutions = tuple(Resolution(side=side, batch=batch) for side, batch in sizes or ((256, 8192),))
    one = Stage(name="one", steps=1000, lr=1e-4, resolutions=resolutions, view="v", text="none", **stage)
    return Curriculum(kind="curriculum", out=Path("runs/x"), model=model, stages=(one,))


@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_real_step_takes_the_memory_of_the_plan(every: int, batch: int) -> None:
    tokens, model = StepTokens(256, 40), MMDiT(SMALL)
    for index, block in enumerate(model.transformer_blocks):
        if every and index % every == every - 1:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    with LiveBytes() as live:
        training_step(model, tokens, batch, torch.float32)
    recomputed = SMALL.num_layers // every if every else 0
    assert step_bytes(SMALL, tokens, batch, recomputed, dtype=torch.float32) == pytest.approx(live.peak, rel=0.1)


def test_what_autograd_keeps_is_what_the_plan_counts() -> None:
    """A second way of counting: the storages that a forward pass saves for its backward pass."""
    tokens, config = StepTokens(144, 30), SMALL.model_copy(update={"num_layers": 12})

    def kept(layers: int) -> int:
        model = MMDiT(SMALL.model_copy(update={"num_layers": layers}))
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        saved: dict[int, int] = {}
        alive = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training_step(model, tokens, 2, torch.float32)
        return sum(saved.values())

    per_layer = (kept(4) - kept(2)) / 2
    counted = step_bytes(config, tokens, 2, dtype=torch.float32) - step_bytes(SMALL, tokens, 2, dtype=torch.float32)
    assert counted / 6 == pytest.approx(per_layer, rel=0.1)


def test_sharing_divides_the_memory() -> None:
    whole = step_bytes(SMALL, StepTokens(256, 40), 2)
    assert step_bytes(SMALL, StepTokens(256, 40), 2, sequence=2) == pytest.approx(
        step_bytes(SMALL, StepTokens(128, 20), 2), rel=0.05
    )
    halves = step_bytes(SMALL, StepTokens(256, 40), 2, tensor=2)
    assert whole / 2 < halves < 0.8 * whole  # streams and their norms are whole in every process


def peaks_of_a_rank() -> list[int]:
    """Bytes of a real step of one of two processes that share heads, then tokens; runs in both."""
    peaks = []
    for sizes in ((1, 2), (2, 1)):
        model = parallelise(MMDiT(SMALL), init_device_mesh("cpu", sizes, mesh_dim_names=("sp", "tp")))
        with LiveBytes() as live:
            training_step(model, StepTokens(256, 40), 2, torch.float32)
        peaks.append(live.peak)
    return peaks


def test_two_real_processes_take_the_memory_of_the_plan() -> None:
    shared: list[dict[str, int]] = [{"tensor": 2}, {"sequence": 2}]
    planned = [step_bytes(SMALL, StepTokens(256, 40), 2, dtype=torch.float32, **ranks) for ranks in shared]
    for peaks in run_ranks(2, peaks_of_a_rank):
        assert planned == pytest.approx(peaks, rel=0.1)


class Pair:
    """The group of the first of two processes."""

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 0


def test_parameters_are_those_of_the_network() -> None:
    assert parameters(QWEN_IMAGE_MMDIT) == (20_430_401_088, 339_831_296)
    model = MMDiT(SMALL)
    assert parameters(SMALL)[0] == sum(p.numel() for p in model.parameters())
    for name in [name for name, _ in model.named_parameters()]:
        keep_part(model, name, Pair())  # type: ignore[arg-type]
    assert parameters(SMALL, 2)[0] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("references", "zero"), [(0, False), (20, False), (20, True)])
def test_operations_are_those_that_pytorch_counts(references: int, zero: bool) -> None:
    config = SMALL.model_copy(update={"zero_cond_t": zero})
    tokens, known = StepTokens(64, 24, references), sample_flops(config, 24, 64, references)
    shapes = [[(1, 1, 64)] + ([(1, 1, references)] if references else [])] * 3
    with torch.device("meta"):  # where attention is matrix products; the counter does not know the CPU's
        model = MMDiT(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            latents, text = torch.zeros(3, 64 + references, 64), torch.zeros(3, 24, 256)
            model(latents, text, torch.full((3,), 0.5), shapes, target_tokens=64)
        assert counter.get_total_flops() == 3 * known.forward
        with FlopCounterMode(display=False) as counter:
            training_step(model, tokens, 3, torch.float32)
    assert counter.get_total_flops() == pytest.approx(3 * known.train, rel=0.005)


def test_modulations_are_work_for_samples_and_not_for_tokens() -> None:
    small, large = (sample_flops(QWEN_IMAGE_MMDIT, 100, tokens) for tokens in (256, 6889))
    assert small.modulation == large.modulation == pytest.approx(2 * 6.79e9, rel=0.01)
    assert large.modulation / large.forward < 2e-4
    assert [round(sample_flops(QWEN_IMAGE_MMDIT, 100, n).forward / 1e12, 1) for n in (256, 1600)] == [4.9, 25.2]


@pytest.mark.parametrize(
    ("layout", "world", "words"),
    [
        (Layout(1, 2, 1, 5), 10, "24 attention heads"),
        (Layout(1, 8, 1, 4), 8, "is 32 processes, and there are 8 GPUs"),
        (Layout(1, 1, 2, 16), 32, "product divides 24"),
    ],
)
def test_impossible_layouts_are_refused(layout: Layout, world: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        layout.check(world, QWEN_IMAGE_MMDIT)


def test_what_is_asked_for_is_tried_or_refused() -> None:
    found = list(layouts(64, 8, QWEN_IMAGE_MMDIT))
    assert all(one.world == 64 and one.tp * one.sp <= 8 for one in found) and len(set(found)) == len(found)
    assert set(layouts(64, 8, QWEN_IMAGE_MMDIT, tp=4, dp=(2, 8))) == {Layout(2, 8, 1, 4)}
    assert {one.sp for one in layouts(64, 8, QWEN_IMAGE_MMDIT, tp=2, sp=4)} == {4}
    for options, words in (({"tp": 5}, "5"), ({"tp": 16}, "24 attention heads"), ({"dp": (1, 300)}, "300 processes")):
        with pytest.raises(InputError, match=words):
            list(layouts(64, 8, QWEN_IMAGE_MMDIT, **options))


def test_the_parts_of_a_card() -> None:
    run, layout = curriculum(), Layout(1, 64, 1, 1)
    memory = plan_training(run, layout, H200).peak.memory
    assert memory.weights == memory.gradients == memory.optimizer / 2 == -(-20_430_401_088 // 64) * 4
    assert memory.average == memory.weights  # this run keeps an average
    assert 4e9 < memory.buffers < 7e9
    split = plan_training(run, Layout(1, 16, 1, 4), H200).peak.memory
    assert split.weights == pytest.approx(memory.weights, rel=0.01) and split.buffers < memory.buffers / 3


def test_checkpointing_trades_time_for_memory() -> None:
    run, layout = curriculum(QWEN_IMAGE_MMDIT, (256, 8192)), Layout(1, 256, 1, 1)
    none, full = (plan_training(run, layout, H200, every).stages[0].steps[0] for every in (0, 1))
    assert full.memory.activations / full.micro < none.memory.activations / none.micro / 5
    assert none.time.repeated == 0 and full.time.repeated == pytest.approx(full.time.compute / 3, rel=0.01)
    assert full.flops == none.flops and full.share_of_peak(H200.card, 256) < none.share_of_peak(H200.card, 256)


def test_links_decide_what_can_be_hidden() -> None:
    run, layout = curriculum(), Layout(1, 64, 1, 1)
    slow = dataclasses.replace(H200, card=dataclasses.replace(H200.card, network=2e9))
    fast_step, slow_step = (plan_training(run, layout, machine, 0).stages[0].steps[0] for machine in (H200, slow))
    assert fast_step.time.sharding < 0.05 * fast_step.time.total < slow_step.time.sharding
    copies = plan_training(run, Layout(8, 8, 1, 1), slow, 0).stages[0].steps[0]
    assert copies.time.total < slow_step.time.total  # sharded within machines, only gradients leave them
    tensor = plan_training(run, Layout(1, 16, 1, 4), H200, 0).stages[0].steps[0]
    assert tensor.time.tensor > 0 == fast_step.time.tensor


def test_the_released_size_on_the_cards_of_the_report() -> None:
    """Without recomputation at 256 px, as the report chose; sharded by FSDP2 the weights need no tensor parallelism."""
    run, machine = curriculum(QWEN_IMAGE_MMDIT, (256, 32768)), Machine(CARDS["H100"])
    found = compare(run, [Layout(1, 256, 1, 1), Layout(4, 16, 1, 4)], machine)
    best = fastest(found.values())
    assert best.layout.tp == 1 and best.stages[0].steps[0].every == 0
    split = found[Layout(4, 16, 1, 4)]
    assert isinstance(split, TrainingPlan) and split.stages[0].steps[0].every == 0 and 1.05 < split.days / best.days < 1.6
    # The report's optimizer alone was sharded: bfloat16 weights and float32 gradients whole on each card of a tp group.
    whole = [6 * parameters(QWEN_IMAGE_MMDIT, tp)[0] for tp in (1, 2, 4)]
    assert whole[0] > 80e9 and whole[1] > 0.75 * 80e9 and whole[2] < 0.4 * 80e9


def test_too_little_memory_and_crooked_batches_are_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match=r"needs \d+\.\d\d GB on each card for one picture at 256 px, and 22\.56 GB are free"):
        plan_training(curriculum(), Layout(1, 1, 1, 1), Machine(CARDS["H200"], budget=24 * 10**9))
    with pytest.raises(InputError, match="batch of 100 pictures at 256 px cannot be dealt to 8"):
        plan_training(curriculum(QWEN_IMAGE_MMDIT, (256, 100)), Layout(1, 8, 1, 1), H200)
    assert isinstance(compare(curriculum(), [Layout()], Machine(CARDS["RTX4090"]))[Layout()], InputError)
    with pytest.raises(InputError, match="GB are free"):
        fastest(compare(curriculum(), [Layout()], Machine(CARDS["RTX4090"])).values())


def test_producers_keep_up_or_make_trainers_wait() -> None:
    layout, rates = Layout(1, 64, 1, 1), Encoding(H200.card, {256: 100.0})
    plan = plan_training(curriculum(), layout, H200, 0, rates)
    step = plan.stages[0].steps[0]
    assert plan.stages[0].producers == -(-8192 // (100 * step.time.total)) and plan.stages[0].waiting == 0
    slow = plan_training(curriculum(producers=1), layout, H200, 0, rates)
    assert slow.days == pytest.approx(1000 * 8192 / 100 / 86400) and slow.stages[0].waiting > 0.5
    edits = Encoding(H200.card)
    assert edits.rate(QWEN_IMAGE_VAE, 256, 150) > edits.rate(QWEN_IMAGE_VAE, 1328, 150) > 5


def test_edits_are_longer_sequences() -> None:
    layout = Layout(1, 64, 1, 1)
    plain, edits = (
        plan_training(curriculum(tasks={"t2i": 1.0, "ti2i": weight}), layout, H200, 0).stages[0] for weight in (0.0, 1.0)
    )
    assert 1.25 < edits.days / plain.days < 1.6  # half of the samples have twice the image tokens beside 150 of text
    assert (
        edits.steps[0].memory.activations / edits.steps[0].micro
        > 1.5 * plain.steps[0].memory.activations / plain.steps[0].micro
    )
    assert edits.cache > plain.cache


def test_rates_and_logs(tmp_path: Path) -> None:
    assert parse_rates("256=400,640=60") == {256: 400.0, 640: 60.0}
    log = tmp_path / "feed.jsonl"
    log.write_text(
        '{"side": 256, "pictures": 100, "seconds": 2}\n{"note": 1}\n{"side": 256, "pictures": 90, "seconds": 1}\n{"side": 2'
    )
    assert read_rates(log) == {256: 70.0}
    log.write_text("")
    for call, words in (
        (lambda: read_rates(log), "no line with side"),
        (lambda: read_rates(tmp_path / "none"), "Cannot read the feed log"),
        (lambda: parse_rates("fast"), "no encode rates"),
        (lambda: parse_rates("256=0"), "above 0"),
        (lambda: parse_gpus("8xTPU"), "A100, H100, H200"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_the_schedule_of_the_report() -> None:
    run = read_curriculum("qwen-image-20b")
    assert run.model == QWEN_IMAGE_MMDIT and len(run.stages) == 7
    sides = [max(each.side for each in stage.resolutions) for stage in run.stages]
    assert sides == sorted(sides) and set(sides) == {256, 640, 1328}
    levels = [("none", "word", "line", "paragraph").index(stage.text) for stage in run.stages]
    assert levels == sorted(levels) and {0, 3} <= set(levels)
    assert [bool(stage.mixture.get("synthetic")) for stage in run.stages] == [False] * 3 + [True] * 4
    assert run.stages[-1].shares() == (0.5, 0.5)
    assert sum(stage.steps for stage in run.stages) == 950_000


def test_curricula_are_strict(tmp_path: Path) -> None:
    assert read_curriculum("qwen-image-20b", ["caption_tokens=99"]).caption_tokens == 99
    for override, words in (("captoin_tokens=9", "caption_tokens"), ("stages=[]", "stages"), ("kind=mmdit", "kind")):
        with pytest.raises(ConfigError, match=words):
            read_curriculum("qwen-image-20b", [override])
    one = curriculum().stages[0]
    with pytest.raises(GlyphFlowError, match="names of their own"):
        Curriculum(kind="curriculum", out=Path("x"), stages=(one, one))
    with pytest.raises(ConfigError, match="weights must not be negative"):
        read_curriculum("qwen-image-20b", ["stages=[{name: a, steps: 1, lr: 1, resolutions: [{side: 256, batch: 1}], "
                                           "view: v, text: none, mixture: {a: -1}}]"])  # fmt: skip
    with pytest.raises(ConfigError, match="Cannot read the recipe"):
        read_curriculum(tmp_path / "none.yaml")


def test_assumptions_are_assumptions() -> None:
    run, layout = curriculum(), Layout(1, 64, 1, 1)
    slow = plan_training(run, layout, Machine(CARDS["H200"], Assumptions(efficiency=0.2)), 0)
    assert slow.days == pytest.approx(2 * plan_training(run, layout, H200, 0).days, rel=0.05)


def test_moments_in_8_bits_take_a_quarter() -> None:
    plans = {
        kind: plan_training(curriculum().model_copy(update={"train": RunConfig(optimizer=kind)}), Layout(1, 8), H200)
        for kind in ("adamw", "adamw8bit")
    }
    whole, small = (plans[kind].peak.memory.optimizer for kind in plans)
    assert small / whole == pytest.approx(0.254, rel=0.01)
