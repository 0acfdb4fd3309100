"""Residency: where weights are, what moves, that nothing moves in vain, and that pictures do not change by it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from glyphflow.core.errors import InputError
from glyphflow.generate import Pipeline
from glyphflow.generate.activations import LiveBytes
from glyphflow.generate.placement import PartSizes, budget_of, place, spread
from glyphflow.generate.sizes import ModelConfig
from glyphflow.generate.speed import Speed
from glyphflow.generate.streaming import Loan, Stream, Weights
from glyphflow.models import ConditionEncoder, MMDiT, MMDiTConfig
from tiny import HIDDEN, seeded_weights, tiny_pipeline

CPU = torch.device("cpu")
LAYERS = 5
STEPS = 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_pipeline(tmp_path_factory.mktemp("residency") / "model")
    deep = MMDiT(
        MMDiTConfig(
            num_layers=LAYERS,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=HIDDEN,
            axes_dims_rope=(8, 12, 12),
        )
    )
    seeded_weights(deep, 3)
    deep.save_pretrained(root / "transformer")
    return root


@pytest.fixture(scope="module")
def resident(directory: Path) -> Pipeline:
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")
    for part in (pipeline.transformer, pipeline.vae, pipeline.condition_encoder.model):
        for parameter in part.parameters():  # views of the file lie at odd addresses, where CPU products round otherwise
            parameter.data = parameter.data.clone()
    return pipeline


@pytest.fixture
def budgeted(resident: Pipeline) -> Iterator[Any]:
    """A pipeline over the same weights with another budget; they are given back at the end."""
    made: list[Pipeline] = []

    def make(budget: int) -> Pipeline:
        encoder = ConditionEncoder(resident.condition_encoder.model, resident.condition_encoder.tokenizer)  # remembers nothing
        parts = (resident.transformer, resident.vae, encoder, resident.schedule, resident.facts)
        made.append(Pipeline(*parts, device=CPU, budget=budget))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.residency.recall()


def picture(pipeline: Pipeline, **options: Any) -> torch.Tensor:
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "pt", "progress": False, "height": 64, "width": 48}
    images: torch.Tensor = pipeline.generate('a sign "HI"', generator=torch.Generator().manual_seed(4), **call | options).images
    return images


def transformer_sizes(pipeline: Pipeline) -> PartSizes:
    return pipeline.residency._lodgers["transformer"].sizes


@pytest.mark.parametrize("blocks", [0, 1, LAYERS])
def test_the_picture_does_not_depend_on_the_budget(resident: Pipeline, budgeted: Any, blocks: int) -> None:
    sizes = transformer_sizes(budgeted(0))
    room = 2 * 10**7
    pipeline = budgeted(room + sizes.fixed + sum(sizes.blocks[:blocks]) + (sizes.buffers if blocks < LAYERS else 0))
    seen: list[Any] = []
    pipeline.residency.use, use = (
        lambda *names, room: (use(*names, room=lambda: 2 * 10**7), seen.append(pipeline.residency.placement)),
        pipeline.residency.use,
    )
    assert torch.equal(picture(pipeline), picture(resident))
    (placement,) = (p for p in seen if "transformer" in p.resident)
    assert len(placement.resident["transformer"]) == blocks and placement.peak <= pipeline.residency.budget
    assert placement.streamed == sum(sizes.blocks[blocks:])


def test_each_block_is_fetched_once_a_pass(budgeted: Any) -> None:
    pipeline = budgeted(0)
    picture(pipeline, true_cfg_scale=1)
    blocks = sum(transformer_sizes(pipeline).blocks)
    encoder = sum(pipeline.residency._lodgers["condition encoder"].sizes.blocks)
    passes, rest = divmod(pipeline.residency.copied - STEPS * blocks, encoder)
    assert rest == 0 and passes in (0, 1, 2)  # two layers fit into the two buffers and stay there


def test_a_remembered_prompt_leaves_the_encoder_where_it_is(budgeted: Any) -> None:
    pipeline = budgeted(0)
    used: list[tuple[str, ...]] = []
    use = pipeline.residency.use
    pipeline.residency.use = lambda *names, **room: (used.append(names), use(*names, **room))
    first, second = picture(pipeline), picture(pipeline)
    assert torch.equal(first, second)
    assert used.count(("condition encoder",)) == 2  # the prompt and the empty one, in the first call


def test_the_table_of_a_schedule_is_kept_until_weights_change(budgeted: Any, resident: Pipeline) -> None:
    pipeline = budgeted(0)
    residency, transformer = pipeline.residency, pipeline.transformer
    times = torch.tensor([1.0, 0.5])
    with torch.inference_mode():
        residency.use("transformer")
        first = residency.modulation(transformer, times)
        assert residency.modulation(transformer, times).head is first.head
        assert residency.modulation(transformer, times + 0.1).head is not first.head
        residency.recall("transformer")
        with torch.no_grad():
            transformer.norm_out.linear.bias.add_(1)
        residency.use("transformer")
        changed = residency.modulation(transformer, times)
        transformer.norm_out.linear.bias.sub_(1)
    assert torch.allclose(changed.head, first.head + 1)
    assert all(torch.equal(a, b) for a, b in zip(changed.image, first.image, strict=True))


def test_modulation_weights_pass_and_leave(budgeted: Any) -> None:
    pipeline = budgeted(0)
    residency, transformer = pipeline.residency, pipeline.transformer
    with torch.inference_mode():
        residency.use("transformer")
        with LiveBytes() as live:
            table = residency.modulation(transformer, torch.tensor([1.0]))
            rows = sum(t.nbytes for t in (*table.image, *table.text, table.head))
    largest = Weights([transformer.transformer_blocks[0].img_mod]).nbytes
    assert 2 * largest <= live.peak <= 2 * largest + 3 * rows
    assert live.now <= rows


def test_an_exception_leaves_a_usable_pipeline(resident: Pipeline, budgeted: Any) -> None:
    for error in (RuntimeError("out of memory"), KeyboardInterrupt()):
        pipeline = budgeted(0)
        handle = pipeline.transformer.transformer_blocks[2].attn.register_forward_hook(_raise(error))
        with pytest.raises(type(error)):
            picture(pipeline)
        handle.remove()
        assert torch.equal(picture(pipeline), picture(resident))
        pipeline.residency.recall()
        assert not pipeline.transformer.transformer_blocks[2]._forward_pre_hooks


def _raise(error: BaseException) -> Any:
    def hook(*_: Any) -> None:
        raise error

    return hook


def test_weights_that_left_are_freed(budgeted: Any) -> None:
    pipeline = budgeted(0)
    with LiveBytes() as live:
        picture(pipeline)
        pipeline.residency.recall()
    assert live.now <= 64 * 48 * 3 * 4 + 10**5


def test_a_branch_that_was_attached_moves_with_its_block(resident: Pipeline, budgeted: Any) -> None:
    linear = resident.transformer.transformer_blocks[1].attn.to_q
    torch.manual_seed(0)
    linear.branch = nn.Linear(128, 128, bias=False)
    handle = linear.register_forward_hook(lambda module, args, out: out + module.branch(args[0]))
    try:
        assert torch.equal(picture(budgeted(0)), picture(resident))
    finally:
        handle.remove()
        del linear.branch


def test_loras_come_and_go_under_a_budget(resident: Pipeline, budgeted: Any) -> None:
    torch.manual_seed(1)
    width = resident.transformer.config.width
    tensors = {}
    for layer in ("transformer_blocks.1.attn.to_q", "transformer_blocks.3.img_mod.1"):
        rows = width * (6 if "mod" in layer else 1)
        tensors |= {f"{layer}.lora_A.weight": torch.randn(2, width), f"{layer}.lora_B.weight": 0.1 * torch.randn(rows, 2)}
    pipeline = budgeted(0)
    before = picture(pipeline)
    pipeline.load_lora_weights(tensors, adapter_name="style")
    with_style = picture(pipeline)
    pipeline.residency.recall()
    assert torch.equal(with_style, picture(resident)) and not torch.equal(with_style, before)
    pipeline.unload_lora_weights()
    assert torch.equal(picture(pipeline), before)


@pytest.mark.parametrize(
    "speed", [Speed.reference(), Speed(packed_cfg=False), Speed(modulation_table=False), Speed(step_cache=0.9)], ids=str
)
def test_every_speed_works_under_a_budget(resident: Pipeline, budgeted: Any, speed: Speed) -> None:
    pipeline = budgeted(0)
    resident.speed = pipeline.speed = speed
    try:
        assert torch.equal(picture(pipeline), picture(resident))
    finally:
        resident.speed = Speed()


def test_quantised_blocks_are_streamed(directory: Path) -> None:
    whole = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", quantize="int8")
    for part in (whole.transformer, whole.vae, whole.condition_encoder.model):
        for parameter in part.parameters():
            parameter.data = parameter.data.clone()
    expected = picture(whole)
    parts = (whole.transformer, whole.vae, whole.condition_encoder, whole.schedule, whole.facts)
    streamed = Pipeline(*parts, device=CPU, budget=0)
    assert torch.equal(picture(streamed), expected)
    assert sum(transformer_sizes(streamed).blocks) == pytest.approx(
        sum(ModelConfig.read(directory).part_sizes(torch.float32, "int8")["transformer"].blocks), rel=0.01
    )
    streamed.residency.recall()


def test_what_is_lent_may_be_trained_on_afterwards(budgeted: Any) -> None:
    pipeline = budgeted(0)
    picture(pipeline)
    pipeline.residency.recall()
    weight = pipeline.transformer.proj_out.weight.requires_grad_(True)
    (weight * 2).sum().backward()
    assert weight.grad is not None
    weight.requires_grad_(False).grad = None


def test_a_stream_copies_what_it_needs_and_no_more() -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(16, 16) for _ in range(7)]
    one = Weights([modules[0]]).nbytes
    x = torch.randn(2, 16)

    def run() -> torch.Tensor:
        y = x
        for module in modules:
            y = module(y)
        return y

    expected = run()
    stream = Stream(modules, CPU)
    for resident in ((), (0,), (0, 3), tuple(range(7)), (0, 1)):
        stream.keep(resident)
        before = stream.copied
        with torch.inference_mode(), LiveBytes() as live:
            assert torch.equal(run(), expected) and torch.equal(run(), expected)
        assert stream.copied - before == 2 * (7 - len(resident)) * one
        assert live.peak <= 2 * one + 20 * x.nbytes
    modules[5](x)  # out of order, and a pass that ends early
    assert torch.equal(run(), expected)
    stream.close()
    stream.close()
    assert torch.equal(run(), expected)


def test_strides_and_buffers_survive() -> None:
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    conv.register_buffer("scale", torch.arange(3, dtype=torch.int8))
    before = {name: tensor.clone() for name, tensor in conv.state_dict().items()}
    own = conv.weight
    loan = Loan(Weights([conv]), CPU)
    assert conv.weight is not own and conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in conv.state_dict().items())
    loan.end()
    assert conv.weight is own


class Halves(torch.Tensor):
    """A weight that is the sum of two tensors: the smallest thing of the kind that quantised weights are."""

    @staticmethod
    def __new__(cls, a: torch.Tensor, b: torch.Tensor) -> Halves:
        return torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype, device=a.device)

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self.a, self.b = a, b

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, torch.Tensor], *_: Any) -> Halves:
        return Halves(parts["a"], parts["b"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is torch.ops.aten.detach.default
        return Halves(args[0].a, args[0].b)


def test_quantised_weights_move_in_their_parts() -> None:
    linear = nn.Linear(4, 4, bias=False)
    a, b = torch.randn(4, 4), torch.arange(16, dtype=torch.int8).view(4, 4)
    linear.weight = nn.Parameter(Halves(a, b), requires_grad=False)
    weights = Weights([linear])
    assert weights.nbytes == 2 * 512
    loan = Loan(weights, CPU)
    assert isinstance(linear.weight, Halves) and linear.weight.a is not a
    assert torch.equal(linear.weight.a, a) and torch.equal(linear.weight.b, b)
    loan.end()
    assert linear.weight.a is a


def test_the_order_of_blocks_that_stay() -> None:
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    for count in (1, 2, 5, 60):
        assert sorted(spread(count)) == list(range(count))
    gone = sorted(set(range(60)) - set(spread(60)[:46]))
    assert min(b - a for a, b in pairwise(gone)) >= 3


def test_placement_by_budget() -> None:
    parts = {"a": PartSizes(10, (100,) * 5, (20,) * 5), "b": PartSizes(50)}
    everything = place(parts, ["a"], 30, None)
    assert everything.others_stay and everything.weights == 660 and everything.streamed == 0
    together = place(parts, ["a"], 30, 600)  # 10 of the 40 bytes of what passes are more than the room
    assert together.others_stay and (together.weights, together.buffers) == (560, 10) and together.peak == 600
    alone = place(parts, ["a"], 30, 599)
    assert not alone.others_stay and alone.resident == {"a": (0, 1, 2, 3, 4)} and alone.peak == 550
    some = place(parts, ["a"], 30, 549)
    assert len(some.resident["a"]) == 3 and some.streamed == 0  # two blocks are left, and stay in the two buffers
    few = place(parts, ["a"], 30, 440)
    assert few.resident == {"a": (0, 4)} and (few.weights, few.buffers, few.streamed) == (
        210,
        200,
        200,
    )  # of three, one keeps a buffer
    none = place(parts, ["a"], 30, 240)
    assert none.resident == {"a": ()} and none.peak == 240 and none.streamed == 500
    assert place(parts, ["a"], 30, 0).peak == 240
    with pytest.raises(InputError, match=r"memory is 0\.0 MB and the a needs"):
        place(parts, ["a"], 30, 239)
    two = place({"a": PartSizes(0, (10,) * 5), "c": PartSizes(0, (10,) * 2)}, ["a", "c"], 0, 50)
    assert two.resident == {"a": (0,), "c": (0, 1)} and two.peak == 50


def test_what_memory_may_be(directory: Path) -> None:
    cuda = torch.device("cuda")
    assert budget_of("resident", cuda, lambda: 1) is None
    assert budget_of("auto", CPU, lambda: 1) is None
    for wrong in ("low", "24 apples", "", "-3GB", 0, -1, True, 2.5):
        with pytest.raises(InputError, match="it can be 'auto'"):
            budget_of(wrong, cuda, lambda: 1)  # type: ignore[arg-type]
    for budget in ("streamed", "8GB", 10**9):
        with pytest.raises(InputError, match="device is cpu"):
            Pipeline.from_pretrained(directory, device="cpu", memory=budget)


def test_a_budget_that_is_too_small_names_both_numbers(budgeted: Any) -> None:
    with pytest.raises(InputError, match=r"memory is 0\.\d MB and the condition encoder needs \d\.\d MB"):
        picture(budgeted(200_000))


def test_sizes_from_configurations_are_those_of_the_weights(directory: Path, resident: Pipeline, budgeted: Any) -> None:
    known = ModelConfig.read(directory).part_sizes(torch.float32)
    lodgers = budgeted(0).residency._lodgers
    assert known.keys() == lodgers.keys()
    for name, lodger in lodgers.items():
        assert known[name].total == pytest.approx(lodger.sizes.total, rel=0.1)  # tiny tensors are rounded up to 512 bytes
    assert known["transformer"] == lodgers["transformer"].sizes
    assert known["VAE"] == lodgers["VAE"].sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_picture_and_the_peak(directory: Path) -> None:
    place_ = torch.device("cuda")
    whole = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cuda", memory="resident")
    expected = picture(whole).cpu()
    del whole
    for memory in ("streamed", "1GB"):
        pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cuda", memory=memory)
        torch.cuda.reset_peak_memory_stats(place_)
        before = torch.cuda.memory_allocated(place_)
        assert torch.equal(picture(pipeline).cpu(), expected) and torch.equal(picture(pipeline).cpu(), expected)
        if memory == "streamed":
            blocks = pipeline.transformer.transformer_blocks
            assert all(p.is_pinned() for block in blocks for p in block.attn.parameters())
        pipeline.residency.recall()
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated(place_) - before <= 64 * 2**20  # workspaces of libraries
