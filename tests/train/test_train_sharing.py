"""Processes that share samples get the batches of one feed, to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from glyphflow.feed.batches import tensor_fields
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_selection
from glyphflow.feed.settings import FeedSettings, Resolution, Source
from glyphflow.feed.staged import Segment
from glyphflow.feed.transport import encoded_plan, open_transport
from glyphflow.train.parallel import ParallelConfig, World
from glyphflow.train.sharing import shared
from ranks import run_ranks
from tiny import tiny_pipeline
from tiny_pictures import TinySelection


def taken(cache: Path, config: dict[str, Any]) -> list[Any]:
    """Held-out samples and three batches of this process, and how many feeds it opened."""
    settings = FeedSettings(
        sources=(Source(cache=cache),), resolutions=(Resolution(area=4096, batch_size=4),), heldout_share=0.2
    )
    plan = encoded_plan([Segment(name="all", start=0, steps=9, settings=settings)], seed=1)
    world, opened = World.start(ParallelConfig(**config), "cpu"), []

    def open_feed(device: torch.device | None) -> Any:
        opened.append(device)
        return open_transport("files", plan, part=world.part, device=device)

    with shared(world, open_feed) as feed:
        return [feed.heldout(4), *(own(feed.next()[0]) for _ in range(3)), len(opened)]


def own(batch: Any) -> Any:
    """A batch that shares no memory, as it can be saved."""
    return dataclasses.replace(batch, **{name: tensor.clone() for name, tensor in tensor_fields(batch).items()})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sharing")
    tiny_pipeline(place / "model")
    encoders = Encoders(place / "model", torch.device("cpu"), torch.float32)
    encode_selection(TinySelection(30), encoders, place / "cache", 4096)
    return place / "cache"


def test_both_processes_see_what_one_would(cache: Path) -> None:
    heldout, *batches, _ = taken(cache, {})
    ranks = run_ranks(2, taken, cache, {"tp": 2})
    assert [found.pop() for found in ranks] == [1, 0]
    for found in ranks:
        assert [batch.ids for batch in found[0]] == [batch.ids for batch in heldout]
        for ours, alone in zip(found[1:], batches, strict=True):
            assert ours.ids == alone.ids and ours.shapes == alone.shapes
            assert torch.equal(ours.latents, alone.latents) and torch.equal(ours.embeds, alone.embeds)
            assert (ours.mask is None) == (alone.mask is None)


def test_processes_with_samples_of_their_own_open_their_own(cache: Path) -> None:
    _, *batches, _ = taken(cache, {})
    first, second = run_ranks(2, taken, cache, {"dp_shard": 2})
    assert first[-1] == second[-1] == 1
    for alone, one, other in zip(batches, first[1:-1], second[1:-1], strict=True):
        assert one.ids + other.ids == alone.ids and (one.first, other.first) == (0, 2)
