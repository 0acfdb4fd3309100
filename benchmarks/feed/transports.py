"""What it costs to bring a batch from the one who makes it to the one who trains.

    python -m benchmarks.feed.transports            all tables, two minutes
    python -m benchmarks.feed.transports --no-ray

A batch is 16 MiB: packed latents and text embeddings of 4 samples, bfloat16. For the first table producers have it ready, so
that only the way is measured: each side hands over 100 batches, in turns, medians. ``copy`` is the same bytes copied once
inside one process, which nothing that leaves a process can beat; ``mp.Queue`` is what a plain script does: new tensors for each
batch, sent through torch.multiprocessing. The second table has producers that take 40 ms a batch and a
consumer that takes 50 (does it wait?) or nothing (does it get all that producers make?).
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common import machine, table, take_turns
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.batches import EncodedBatch
from glyphflow.feed.order import Part
from glyphflow.feed.transport import FeedPlan, open_transport

ROWS, TOKENS, TEXT, WIDTH = 4, 4096, 512, 3584
BATCHES = 100
ROUNDS = 5
MAKING, TRAINING = 0.04, 0.05


class Ready:
    """Hands out the same 16 MiB after ``seconds`` of sleep."""

    def __init__(self, seconds: float) -> None:
        latents = torch.full((ROWS, TOKENS, 64), 0.5, dtype=torch.bfloat16)
        embeds = torch.full((ROWS, TEXT, WIDTH), 0.25, dtype=torch.bfloat16)
        self._batch = EncodedBatch(0, ("",) * ROWS, latents, embeds, None, [[(1, 64, 64)]] * ROWS, "", total=ROWS)
        self._seconds = seconds

    def batch(self, step: int, part: Part | None = None) -> EncodedBatch:
        time.sleep(self._seconds)
        return self._batch

    def heldout(self, count: int) -> list[EncodedBatch]:
        return []

    def amend(self, amendments: Sequence[Amendment]) -> None: ...
    def stop(self) -> None: ...


def open_ready(seconds: float, worker: int = 0) -> Ready:
    return Ready(seconds)


def plan(seconds: float = 0.0) -> FeedPlan:
    return FeedPlan("benchmarks.feed.transports:open_ready", {"seconds": seconds})


def size() -> int:
    batch = Ready(0.0).batch(0)
    return sum(tensor.numel() * tensor.element_size() for tensor in (batch.latents, batch.embeds))


def fill(queue: Any, taken: Any) -> None:
    """The plain script's producer: two new tensors for every batch."""
    made = Ready(0.0).batch(0)
    while True:
        queue.put((made.latents.clone(), made.embeds.clone()))
        if taken.is_set():
            return


@contextlib.contextmanager
def plain_queue() -> Any:
    """Batches through torch.multiprocessing.Queue, 4 in flight."""
    context = torch.multiprocessing.get_context("spawn")
    queue, done = context.Queue(maxsize=4), context.Event()
    process = context.Process(target=fill, args=(queue, done), daemon=True)
    process.start()
    yield lambda: [queue.get() for _ in range(BATCHES)]
    done.set()
    process.terminate()
    process.join()


def copy() -> Callable[[], None]:
    made = Ready(0.0).batch(0)
    place = [torch.empty_like(tensor) for tensor in (made.latents, made.embeds)]

    def work() -> None:
        for _ in range(BATCHES):
            place[0].copy_(made.latents)
            place[1].copy_(made.embeds)

    return work


def pull(transport: Any) -> Callable[[], None]:
    def work() -> None:
        for _ in range(BATCHES):
            transport.next()

    return work


def ways(ray: bool) -> None:
    """The first table."""
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(open_transport("local", plan(), producers=1, depth=3))
        works = {"copy": copy(), "local": pull(local), "mp.Queue": stack.enter_context(plain_queue())}
        if ray:
            works["ray"] = pull(stack.enter_context(open_transport("ray", plan(), producers=1, depth=3)))
        seconds = take_turns(works, ROUNDS)
    rows = []
    for name, each in seconds.items():
        one = each / BATCHES
        rows.append((name, f"{1e3 * one:.2f}", f"{size() / one / 1e9:.1f}"))
    print(f"\nA batch of {size() / 2**20:.1f} MiB, 4 in flight, one producer\n")
    print(table(("transport", "ms a batch", "GB/s"), rows))


def rates(kinds: Sequence[str]) -> None:
    """The second table."""
    began = time.perf_counter()
    feed = Ready(MAKING)
    for step in range(25):
        feed.batch(step)
    own = 25 / (time.perf_counter() - began)
    rows = []
    for kind in kinds:
        with open_transport(kind, plan(MAKING), producers=1, depth=2) as transport:  # type: ignore[arg-type]
            for _ in range(5):  # the first batches are taken as fast as they come, and what was made ahead is used up
                transport.next()
                time.sleep(2 * TRAINING)
            waited, began = 0.0, time.perf_counter()
            for _ in range(60):
                waited += transport.next()[1]
                time.sleep(TRAINING)
            share = waited / (time.perf_counter() - began)
        with open_transport(kind, plan(MAKING), producers=2, depth=2) as transport:  # type: ignore[arg-type]
            for _ in range(10):
                transport.next()
            began = time.perf_counter()
            for _ in range(100):
                transport.next()
            rate = 100 / (time.perf_counter() - began)
        rows.append((kind, f"{share:.2%}", f"{rate:.1f}", f"{2 * own:.1f}", f"{rate / (2 * own):.1%}"))
    print(f"\nProducers that take {1e3 * MAKING:.0f} ms, prefetch 2\n")
    waiting = f"waiting beside steps of {1e3 * TRAINING:.0f} ms"
    print(table(("transport", waiting, "batches a second from 2 producers", "2 producers alone", "share"), rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-ray", action="store_true")
    ray = not parser.parse_args().no_ray
    print(machine(*(["ray"] if ray else [])))
    ways(ray)
    rates(["local", "ray"] if ray else ["local"])


if __name__ == "__main__":
    main()
