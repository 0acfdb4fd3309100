"""Loading networks with ``transformers`` from several threads.

While ``from_pretrained`` works, transformers replaces methods of its base class (a model's weights are tied, and filled, only
afterwards) and puts them back at the end. Two threads that overlap put back each other's replacements: from then on no model of
the process ties its weights, silently. The corpus runner opens its operators on threads, so every load takes its turn here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TURN = threading.RLock()


@contextmanager
def loading() -> Iterator[None]:
    """Around every ``from_pretrained`` that makes a network: one thread at a time, without transformers' progress bars."""
    from transformers import logging  # here because it takes seconds

    with _TURN:
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()
