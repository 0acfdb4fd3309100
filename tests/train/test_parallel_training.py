"""Training on any layout against the same training in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parallel_runs import STEPS, assembled, begin, state_pieces, train

from ranks import run_ranks

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


def steps(config: dict[str, Any], micro: int) -> dict[str, Any]:
    run = begin(config)
    found = train(run, 0, STEPS, micro)
    return found | {"state": state_pieces(run)}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return steps({}, 1)


@pytest.mark.parametrize("name", CASES)
def test_as_in_one_process(name: str, alone: dict[str, Any]) -> None:
    count, config, micro = CASES[name]
    ranks = run_ranks(count, steps, config, micro)
    for found in ranks:
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert found["norms"] == pytest.approx(alone["norms"], rel=1e-4)
    gradient, expected = assembled([found["gradient"] for found in ranks]), assembled([alone["gradient"]])
    for key, value in expected.items():
        torch.testing.assert_close(gradient[key], value, atol=1e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    state, expected = assembled([found["state"] for found in ranks]), assembled([alone["state"]])
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, atol=2e-3, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}")
