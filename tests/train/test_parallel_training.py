"""Training on any layout against the same training in one process."""

from __future__ import annotations

import functools
from typing import Any

import parallel_runs
import pytest
import torch
from parallel_runs import CONFIG, STEPS, Run, assembled, begin, loss_of, state_pieces, train
from torch.distributed.tensor import DTensor

from glyphflow.core.errors import ConfigError
from glyphflow.feed.order import Part
from glyphflow.models import VAE, MMDiT, VAEConfig
from glyphflow.train.ema import EMA
from glyphflow.train.lora import LoRAConfig, TrainedLoRA, inject_lora
from glyphflow.train.parallel import ParallelConfig, World
from glyphflow.train.pieces import pieces
from ranks import run_ranks
from tiny import seeded_weights

CASES: dict[str, tuple[int, dict[str, Any], int]] = {
    "tensor 2": (2, {"tp": 2}, 1),
    "FSDP 2": (2, {}, 1),
    "Ulysses 2": (2, {"sp": 2}, 1),
    "checkpointing every 2nd": (2, {"checkpointing": 2, "tp": 2}, 1),
    "copies 2 x shards 2": (4, {"dp_replicate": 2}, 1),
    "tensor 2 x FSDP 2": (4, {"tp": 2, "dp_shard": 2}, 1),
    "Ulysses 2 x FSDP 2, full checkpointing": (4, {"sp": 2, "checkpointing": "full"}, 1),
    "copies 2, two micro-batches": (2, {"dp_replicate": 2}, 2),
}


def steps(config: dict[str, Any], micro: int = 1) -> dict[str, Any]:
    run = begin(config)
    found = train(run, 0, STEPS, micro)
    return found | {"state": state_pieces(run)}


def all_of(cases: list[tuple[dict[str, Any], int]]) -> list[dict[str, Any]]:
    return [steps(*case) for case in cases]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return steps({})


@pytest.fixture(scope="module")
def together() -> dict[str, list[dict[str, Any]]]:
    """What every process of every case found; processes are started once for each number of them."""
    found = {}
    for count in (2, 4):
        names = [name for name, case in CASES.items() if case[0] == count]
        ranks = run_ranks(count, all_of, [CASES[name][1:] for name in names])
        found |= {name: list(each) for name, *each in zip(names, *ranks, strict=True)}
    return found


@pytest.mark.parametrize("name", CASES)
def test_as_in_one_process(name: str, alone: dict[str, Any], together: dict[str, list[dict[str, Any]]]) -> None:
    ranks = together[name]
    for found in ranks:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert found["norms"] == pytest.approx(alone["norms"], rel=1e-5)
    for kind, close in (("gradient", 1e-6), ("state", 2e-5)):
        got, expected = assembled([found[kind] for found in ranks]), assembled([alone[kind]])
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, atol=close, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def looks(config: dict[str, Any]) -> list[torch.Tensor]:
    """What a preview asks of the averaged model, and a pass of the sharded one behind it."""
    run = begin(config)
    train(run, 0, 2)
    run.ema.swap()
    part = Part()
    with torch.no_grad(), run.world.computing():
        before = loss_of(run.model, 1, part, 0, 1)
        with run.world.whole(run.model) as model:
            assert not any(isinstance(p, DTensor) for p in model.parameters())
            rows = model.modulation(torch.tensor([0.7, 0.2]))
            inside = loss_of(model, 1, part, 0, 1)
        after = loss_of(run.model, 1, part, 0, 1)
    run.ema.swap()
    return [before, inside, after, rows.head, rows.image[1], torch.tensor(train(run, 2, 1)["losses"])]


def on_two() -> dict[str, Any]:
    """Everything below that needs two processes, which are started once."""
    return {
        "looks": [looks({}), looks({"tp": 2})],
        "refusals": refusals(),
        "adapter": adapter(),
        "vae": vae_steps(),
        "bfloat16": bfloat16({"tp": 2}),
    }


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(2, on_two)


def test_previews_see_whole_averaged_weights(two: list[dict[str, Any]]) -> None:
    expected = looks({})
    for found in (look for each in two for look in each["looks"]):
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_impossible_plans_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"sp 1 x tp 2, and 3 processes were started; start a multiple of 2"):
        ParallelConfig(tp=2).sizes(3)
    with pytest.raises(ConfigError, match=r"dp_shard 4 x sp 1 x tp 2, and 4 processes were started; start 8"):
        ParallelConfig(dp_shard=4, tp=2).sizes(4)
    with pytest.raises(ConfigError, match=r"tp 4, and 1 process was started"):
        World.start(ParallelConfig(tp=4), "cpu")
    with pytest.raises(ConfigError, match="Linear has no plan"):
        World.start(ParallelConfig(compile=True), "cpu").apply(torch.nn.Linear(2, 2), torch.float32)
    assert ParallelConfig(tp=2, dp_replicate=2).sizes(16) == (2, 4, 1, 2)


def refusals() -> list[str]:
    found = []
    model = MMDiT(CONFIG.model_copy(update={"num_attention_heads": 3}))
    adapted = MMDiT(CONFIG)
    inject_lora(adapted, LoRAConfig(rank=2), 0)
    for config, refused in (({"sp": 2}, model), ({"tp": 2}, adapted)):
        try:
            World.start(ParallelConfig(**config), "cpu").apply(refused, torch.float32)
        except ConfigError as error:
            found.append(str(error))
    return found


def test_models_that_a_plan_does_not_fit_are_refused(two: list[dict[str, Any]]) -> None:
    heads, lora = two[1]["refusals"]
    assert "3 attention heads, which sp 2 x tp 1 = 2 processes cannot share" in heads
    assert "train.lora with tp 2" in lora


def adapter() -> dict[str, Any]:
    """A few steps of an adapter over a frozen bfloat16 network, which is sharded, too."""
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    model.to(torch.bfloat16)
    inject_lora(model, LoRAConfig(rank=2), 0)
    world = World.start(ParallelConfig(), "cpu")
    world.apply(model, torch.bfloat16)
    trained = TrainedLoRA(model)
    run = Run(world, model, torch.optim.AdamW(trained.parameters(), lr=1e-2, eps=1e-3), EMA(trained, 0.9))
    losses = train(run, 0, 3)["losses"]
    return {"losses": losses, "state": pieces(trained)}


def test_adapters_are_trained_over_sharded_weights(two: list[dict[str, Any]]) -> None:
    expected = adapter()
    assert two[0]["adapter"]["losses"] == pytest.approx(expected["losses"], rel=1e-2)
    found = assembled([each["adapter"]["state"] for each in two])
    for key, value in assembled([expected["state"]]).items():
        torch.testing.assert_close(found[key], value, atol=5e-3, rtol=0.1)


def vae_steps() -> tuple[list[float], torch.Tensor]:
    """A network that is asked by other names than forward."""
    vae = VAE(VAEConfig(base_dim=8, dim_mult=(1, 2), num_res_blocks=1, temperal_downsample=(False,)))
    seeded_weights(vae, 0)
    world = World.start(ParallelConfig(), "cpu")
    world.apply(vae, torch.float32)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, eps=1e-3)
    part, losses = world.part, []
    for step in range(3):
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        mine = pixels[part.rank * 2 // part.world : (part.rank + 1) * 2 // part.world]
        loss = (vae.decode(vae.encode(mine).mode()) - mine).square().mean()
        loss.backward()
        losses.append(world.sum({"loss": float(loss.detach()) / part.world})["loss"])
        world.clip(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad(), world.whole(vae):
        return losses, vae.encode(torch.ones(1, 3, 16, 16)).mode()


def test_a_vae_is_sharded_as_a_whole(two: list[dict[str, Any]]) -> None:
    losses, latents = vae_steps()
    for found in (each["vae"] for each in two):
        assert found[0] == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(found[1], latents, atol=1e-4, rtol=1e-4)


def bfloat16(config: dict[str, Any]) -> list[float]:
    return train(begin(config, torch.bfloat16), 0, STEPS)["losses"]


def test_bfloat16_stays_near(two: list[dict[str, Any]]) -> None:
    assert two[0]["bfloat16"] == pytest.approx(bfloat16({}), rel=2e-2)


def compiled(configs: list[dict[str, Any]]) -> list[list[float]]:
    """Losses of two steps of one shape, and the norms of their gradients, with blocks that are traced and run by parts.

    What the compiler makes of a trace is its own affair; whether one can be made, and computes the same, is ours.
    """
    whole = torch.compile
    torch.compile = functools.partial(whole, backend="aot_eager")  # type: ignore[assignment]
    parallel_runs.CONFIG = CONFIG.model_copy(update={"num_layers": 2})
    try:
        found = []
        for config in configs:
            run = begin(config)
            steps = [train(run, number, 1) for number in (0, 2)]
            found.append([step[key][0] for step in steps for key in ("losses", "norms")])
        return found
    finally:
        torch.compile, parallel_runs.CONFIG = whole, CONFIG


@pytest.mark.slow
def test_compiled_blocks_speak_to_other_processes() -> None:
    """Also where they are computed again."""
    [expected] = compiled([{}])
    configs = [{"compile": True, "tp": 2, "checkpointing": 2}, {"compile": True, "sp": 2}]
    for found in [*compiled([{"compile": True}]), *run_ranks(2, compiled, configs)[0]]:
        assert found == pytest.approx(expected, rel=1e-4)
