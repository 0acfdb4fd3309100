"""Optimizers for little memory: against AdamW and Adafactor of PyTorch, right on average, and the same bits again."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glyphflow.train.lean import BLOCK, MEAN, SQUARE, Adafactor, AdamW8bit, LeanOptimizer, pack, round_by_chance, unpack
from glyphflow.train.optimizer import make_optimizer
from glyphflow.train.recipe import TrainConfig


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chance(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("columns", [BLOCK, 3 * BLOCK, 700, 48])
def test_moments_in_8_bits_are_near_and_right_on_average(columns: int) -> None:
    mean, square = noise(8, columns) * 10.0 ** noise(8, 1, seed=1), noise(8, columns, seed=2).square() * 1e-6
    for x, levels, near in ((mean, MEAN, 0.016), (square, SQUARE, 0.016)):
        once = unpack(*pack(x, levels, chance(x.shape, 0)), levels)
        top = torch.stack([part.abs().amax(1) for part in x.split(BLOCK, 1)], 1).repeat_interleave(BLOCK, 1)[:, :columns]
        assert ((once - x).abs() / top).max() < near
        many = sum(unpack(*pack(x, levels, chance(x.shape, n)), levels) for n in range(200)) / 200
        assert ((many - x).abs() / top).mean() < 2e-4
    assert (unpack(*pack(square, SQUARE, chance(square.shape, 0)), SQUARE)[square > 0] > 0).all()  # nothing divides by 0


LEFT = 0.999**1000


def beside_one_that_stays() -> Tensor:
    """Second moments of blocks that have one parameter with much larger gradients than the others."""
    start = noise(4, BLOCK).square()
    start[:, 0] = 10.0
    return start


def test_moments_that_shrink_a_little_each_step_do_shrink() -> None:
    start = beside_one_that_stays()
    coded = pack(start, SQUARE, chance(start.shape, 0))
    for step in range(1000):
        moment = unpack(*coded, SQUARE) * 0.999
        moment[:, 0] = 10.0
        coded = pack(moment, SQUARE, chance(start.shape, step))
    assert float(unpack(*coded, SQUARE)[:, 1:].sum() / start[:, 1:].sum()) == pytest.approx(LEFT, rel=0.02)


def test_why_not_torchao() -> None:
    state = pytest.importorskip("torchao.optim.subclass_8bit").OptimState8bit
    start = beside_one_that_stays()
    theirs = state.zeros(start.shape, signed=False)
    theirs.copy_(start)
    for _ in range(1000):
        moment = theirs.dequantize() * 0.999
        moment[:, 0] = 10.0
        theirs.copy_(moment)
    assert float(theirs.dequantize()[:, 1:].sum() / start[:, 1:].sum()) > 2 * LEFT


def test_bfloat16_weights_take_steps_that_are_smaller_than_their_distance() -> None:
    start = torch.full((256, 256), 1.0)
    generator = torch.Generator().manual_seed(0)
    weights = start.to(torch.bfloat16)
    for _ in range(100):  # 1e-4 each, where neighbours are 2^-8 below 1 and 2^-7 above apart
        weights = round_by_chance(weights.float() + 1e-4, torch.bfloat16, generator)
    assert float(weights.float().mean()) == pytest.approx(1.01, abs=2e-4)
    assert torch.equal(round_by_chance(start, torch.bfloat16, generator), start.to(torch.bfloat16))
    negative = round_by_chance(torch.full((100_000,), -0.3), torch.bfloat16, generator).float()
    assert float(negative.mean()) == pytest.approx(-0.3, abs=1e-5)


class Problem(nn.Module):
    """A regression with an odd width, a bias and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(300, 40), nn.LayerNorm(40), nn.Linear(40, 8)
        for number, parameter in enumerate(self.parameters()):
            parameter.data = noise(*parameter.shape, seed=number) * 0.1
        self.x, self.y = noise(256, 300, seed=50), noise(256, 8, seed=51)

    def loss(self) -> Tensor:
        dtype = self.inner.weight.dtype
        out = self.outer(torch.tanh(self.norm(self.inner(self.x.to(dtype)))))
        return (out.float() - self.y).square().mean()


def trained(problem: Problem, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
    return float(problem.loss().detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adamw_in_8_bits_learns_as_adamw(dtype: torch.dtype) -> None:
    reference, problem = Problem(), Problem().to(dtype)
    wanted = trained(reference, torch.optim.AdamW(reference.parameters(), lr=2e-3), 200)
    assert trained(problem, AdamW8bit(problem.parameters(), lr=2e-3), 200) == pytest.approx(wanted, rel=0.15)
    assert float(Problem().loss().detach()) > 1.4 * wanted


def test_the_first_step_is_that_of_adamw() -> None:
    """Moments are exact before they are stored."""
    reference, problem = Problem(), Problem()
    trained(reference, torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.1), 1)
    trained(problem, AdamW8bit(problem.parameters(), lr=1e-2, weight_decay=0.1), 1)
    for ours, theirs in zip(problem.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_adafactor_is_that_of_pytorch_but_for_the_size_of_the_weights() -> None:
    ours, theirs = (nn.Parameter(noise(40, 30)) for _ in range(2))
    mine, reference = Adafactor([ours], lr=1e-2), torch.optim.Adafactor([theirs])
    for step in range(5):
        gradient = noise(40, 30, seed=10 + step) * (1 + step)
        size = float(theirs.detach().norm()) / 1200**0.5  # what torch multiplies its learning rate by
        reference.param_groups[0]["lr"] = 1e-2 / size
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW8bit, Adafactor])
def test_a_run_that_continues_from_its_state_has_the_same_bits(kind: type[LeanOptimizer], tmp_path: Path) -> None:
    problem = Problem().to(torch.bfloat16)
    optimizer = kind(problem.parameters(), lr=1e-3)
    trained(problem, optimizer, 3)
    torch.save([problem.state_dict(), [optimizer.state[p] for p in problem.parameters()]], tmp_path / "state")
    trained(problem, optimizer, 3)

    again = Problem().to(torch.bfloat16)
    second = kind(again.parameters(), lr=1e-3)
    weights, states = torch.load(tmp_path / "state")
    again.load_state_dict(weights)
    for parameter, state in zip(again.parameters(), states, strict=True):
        room = second.empty_state(parameter)  # as a checkpoint is read: into tensors of these names, forms and types
        assert {k: (v.shape, v.dtype) for k, v in room.items()} == {k: (v.shape, v.dtype) for k, v in state.items()}
        second.state[parameter] = state
    torch.manual_seed(99)  # no generator's past counts
    trained(again, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(problem.parameters(), again.parameters(), strict=True))


def test_a_large_matrix_is_treated_in_parts_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(kind: type[LeanOptimizer]) -> Tensor:
        weight = nn.Parameter(noise(64, 96))
        weight.grad = noise(64, 96, seed=1)
        kind([weight], lr=1e-2).step()
        return weight.detach()

    whole = run(Adafactor), run(AdamW8bit)
    monkeypatch.setattr("glyphflow.train.lean.CHUNK", 96 * 7)
    for before, after in zip(whole, (run(Adafactor), run(AdamW8bit)), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_state_takes_the_bytes_that_are_promised() -> None:
    weight = nn.Parameter(torch.zeros(1024, 3072))
    sizes = {}
    for kind in (AdamW8bit, Adafactor):
        state = kind([weight]).empty_state(weight)
        sizes[kind] = sum(t.nbytes for t in state.values()) / weight.numel()
    assert sizes[AdamW8bit] == pytest.approx(2 + 8 / BLOCK, rel=1e-3)
    assert sizes[Adafactor] < 0.01


def test_norms_and_biases_are_not_decayed() -> None:
    for name, kind in (("adamw", torch.optim.AdamW), ("adamw8bit", AdamW8bit), ("adafactor", Adafactor)):
        settings = TrainConfig(steps=1, optimizer=name, weight_decay=0.1)  # type: ignore[arg-type]
        optimizer = make_optimizer(Problem(), settings)
        assert type(optimizer) is kind
        assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 2), (0.0, 4)]
    frozen = copy.deepcopy(Problem()).requires_grad_(False)
    frozen.inner.requires_grad_(True)
    assert sum(len(group["params"]) for group in make_optimizer(frozen, settings).param_groups) == 2
