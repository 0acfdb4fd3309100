"""The runner on Ray: actors that are given names of shards and read the corpus themselves, so no pixel passes through Ray."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glyphflow.core import cluster
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus.runner.pools import MAX_DEATHS
from glyphflow.corpus.store import Corpus

if TYPE_CHECKING:
    from glyphflow.corpus.runner.stage import Stage

POLL = 0.5  # seconds between two looks at shards that other processes are at
_STORE = 80 << 20  # bytes: the least that an embedded Ray takes; only names and counts are kept in it


class Measurer:
    """What an actor is: a stage of the corpus, opened on the actor's machine."""

    def __init__(self, made: tuple[str, str, dict[str, Any]], view: str | None, mark: str) -> None:
        from glyphflow.corpus.runner.stage import Stage

        directory, name, options = made
        self._stack = contextlib.ExitStack()  # held until the actor ends, and by the system no longer than it lives
        corpus = Corpus.open(directory)
        self._stack.enter_context(corpus.measuring())
        self._stage = self._stack.enter_context(Stage(corpus, name, options, view, 1))
        if self._stage.mark != mark:
            raise ConfigError(
                f"The stage {name!r} has the fingerprint {mark} where it was started and {self._stage.mark} on a machine of "
                "the cluster; install the same version and models on both."
            )

    def attempt(self, shard: str) -> int | None:
        """As :meth:`glyphflow.corpus.runner.stage.Stage.attempt`."""
        return self._stage.attempt(shard, lambda count: None)

    def end(self) -> None:
        """Let go of the corpus."""
        self._stack.close()


def drain(stage: Stage, address: str, actors: int | None, advance: Callable[[int], None]) -> int:
    """Measure what ``stage`` lacks with ``actors`` (default: one for each CPU of the cluster); gives the rows measured.

    ``address`` is "ray" for one that is started on this machine (or was by the caller) and "ray://HOST:PORT" for a cluster,
    whose machines see the corpus directory under the same path.
    """
    with connected(address) as ray:
        count = actors or max(1, int(ray.cluster_resources().get("CPU", 1)))
        team = _Team(ray, stage, min(count, max(1, len(stage.missing()))))
        try:
            return team.work(advance)
        finally:
            team.close()


def connected(address: str) -> contextlib.AbstractContextManager[Any]:
    """Hold a Ray at ``address`` for several stages."""
    return cluster.connected(address, store=_STORE, option="--on")


class _Team:
    """Actors that take shards one after another; one that dies is replaced and its shard is done again."""

    def __init__(self, ray: Any, stage: Stage, count: int) -> None:
        self._ray = ray
        self._stage = stage
        self._remote = ray.remote(num_cpus=1, max_restarts=0)(Measurer)
        self._actors = [self._hire() for _ in range(count)]
        self._deaths: Counter[str] = Counter()

    def _hire(self) -> Any:
        return self._remote.remote(self._stage.made, self._stage.view, self._stage.mark)

    def work(self, advance: Callable[[int], None]) -> int:
        """Until nothing is missing, here or anywhere else."""
        done = 0
        while missing := deque(self._stage.missing()):
            rows = self._pass(missing, advance)
            done += sum(rows)
            if not rows:
                time.sleep(POLL)
        return done

    def _pass(self, missing: deque[str], advance: Callable[[int], None]) -> list[int]:
        """Give every missing shard to somebody once; what others are at is left for the next pass."""
        idle, rows = list(self._actors), []
        running: dict[Any, tuple[Any, str]] = {}  # the promise of a result -> who does which shard
        while missing or running:
            while missing and idle:
                actor, shard = idle.pop(), missing.popleft()
                running[actor.attempt.remote(shard)] = actor, shard
            (ready, *_), _ = self._ray.wait(list(running))
            actor, shard = running.pop(ready)
            try:
                found = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it was raised there, not with Ray's report around it
            except self._ray.exceptions.RayActorError as error:
                self._mourn(actor, shard, error)
                idle.append(self._actors[-1])
                missing.append(shard)
                continue
            idle.append(actor)
            if found is not None:
                rows.append(found)
                advance(found)
        return rows

    def _mourn(self, actor: Any, shard: str, error: Exception) -> None:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception):
            raise cause
        self._deaths[shard] += 1
        if self._deaths[shard] == MAX_DEATHS:
            raise InputError(
                f"An actor died {MAX_DEATHS} times at the shard {shard!r} (out of memory, or a codec that crashes); give Ray "
                "fewer actors with --workers, or forget the picture that does it."
            ) from error
        self._actors.remove(actor)
        self._actors.append(self._hire())

    def close(self) -> None:
        """Release the corpus on every machine before this returns."""
        endings = [actor.end.remote() for actor in self._actors]
        self._ray.wait(endings, num_returns=len(endings), timeout=10)
        for actor in self._actors:
            self._ray.kill(actor)
