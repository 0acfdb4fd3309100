"""What goes wrong in one of several processes is said by all of them, and nobody waits for what will not come."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.feed.encode import Encoders
from glyphflow.feed.order import Part
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.producing import encode_selection
from glyphflow.feed.settings import FeedSettings, Resolution, Source
from glyphflow.feed.staged import Segment, StagedFeed
from glyphflow.models import MMDiT
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.loop import Loop
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements
from glyphflow.train.parallel import ParallelConfig, World
from glyphflow.train.recipe import FlowObjective, TrainConfig
from glyphflow.train.sharing import shared
from ranks import run_ranks
from tiny import tiny_pipeline
from tiny_pictures import TinySelection


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    tiny_pipeline(place / "model")
    encode_selection(TinySelection(30), Encoders(place / "model", torch.device("cpu"), torch.float32), place / "cache", 64 * 64)
    return place


class Failing:
    """A feed that cannot give its second batch, or cannot be opened at all."""

    def __init__(self, opens: bool) -> None:
        self._opens, self._given = opens, 0

    def __enter__(self) -> Failing:
        if not self._opens:
            raise InputError("No producer can be started.")
        return self

    def __exit__(self, *_: object) -> None: ...

    def next(self) -> tuple[Any, float]:
        self._given += 1
        if self._given == 2:
            raise InputError("The batch of step 1 cannot be made.")
        return None, 0.0

    def heldout(self, count: int) -> list[Any]:
        return []


def told(opens: bool) -> list[str]:
    """The sentences that a process of a tensor-parallel pair sees."""
    world = World.start(ParallelConfig(tp=2), "cpu")
    try:
        with shared(world, lambda device: Failing(opens)) as feed:
            feed.heldout(0)
            for _ in range(2):
                feed.tell(feed._source.next, lambda taken: taken) if feed._source else feed.told()  # type: ignore[attr-defined]
    except GlyphFlowError as error:
        return [str(error), type(error).__name__]
    return []


@pytest.mark.parametrize("opens", [True, False])
def test_an_error_of_the_shared_feed_reaches_every_process(opens: bool) -> None:
    first, second = run_ranks(2, told, opens)
    assert first[0] == second[0] == ("The batch of step 1 cannot be made." if opens else "No producer can be started.")
    assert first[1] == "InputError"


def poisoned(place: Path, guilty: str) -> list[Any]:
    """Train in two processes until the loss of one record is not a number: the sentence, and the checkpoints that there are."""
    world = World.start(ParallelConfig(dp_shard=2), "cpu")
    network = MMDiT.from_pretrained(place / "model" / "transformer", torch.float32).requires_grad_(True)
    network = world.apply(network, torch.float32)  # type: ignore[assignment]

    def objective(net: torch.nn.Module, batch: Any, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, measured = flow_matching(net, batch, rng, times=FlowObjective())
        return (loss * float("nan") if guilty in batch.ids else loss), measured

    settings = TrainConfig(steps=4, checkpoint_every=1, compute_dtype="float32", heldout_samples=0, preview_every=99)
    loop = Loop(
        network,
        objective,
        lambda start: Prefetch(lambda step: feed(place).batch(step, world.part), start),
        settings,
        place / "poisoned",
        seed=0,
        world=world,
        weight=predicted_elements,
        size=image_tokens,
    )
    try:
        loop.run()
    except InputError as error:
        return [str(error), Checkpoints(place / "poisoned" / "checkpoints", 2).steps()]
    return []


def feed(place: Path) -> StagedFeed:
    resolutions = (Resolution(area=64 * 64, batch_size=4),)
    settings = FeedSettings(sources=(Source(cache=place / "cache"),), resolutions=resolutions)
    return StagedFeed([Segment(name="all", start=0, steps=9, settings=settings)], 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_not_a_number_in_one_process_is_named_by_both(rank: int, place: Path) -> None:
    guilty = feed(place).batch(1, Part(rank, 2)).ids[1]
    (first, kept), (second, _) = run_ranks(2, poisoned, place, guilty)
    assert first == second and f"step 2: the loss is nan and the gradient's norm nan, because of the records {guilty};" in first
    assert kept == [1]
    shutil.rmtree(place / "poisoned")
