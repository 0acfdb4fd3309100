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
