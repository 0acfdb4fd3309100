"""Ray, where one machine is not enough: a cluster's, one that is started here, or the one that is there already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require

_FREEING_MS = 100
"""How often the store drops what nobody refers to. Ray's second is long enough for batches to fill it, and then all wait."""


@contextlib.contextmanager
def connected(address: str, *, store: int, option: str) -> Iterator[Any]:
    """The module ``ray``, connected to ``address``, and let go of at the end.

    ``address`` is "ray" for one that is started on this machine, with ``store`` bytes of object store (it spills to disk beyond
    them), or "ray://HOST:PORT" for a cluster. Inside another call, or under a caller's own Ray, that one is used. Raises
    InputError, which names the command line's ``option``, when no cluster answers.
    """
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "ray":
        ray.init(
            object_store_memory=store,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _system_config={"free_objects_period_milliseconds": _FREEING_MS},
        )
    else:
        try:
            ray.init(address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"No Ray cluster answers at {address} ({reason}); check {option}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()
