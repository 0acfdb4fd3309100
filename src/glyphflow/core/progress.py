"""One way to show that long work moves: what, how far, how fast, how long still."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class _Lines:
    """Standard error for logs: every state of the bar is a line of its own instead of a redrawn one."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """tqdm's bar; one whose making Ctrl-C cut short goes silently, where tqdm's prints a traceback for want of its place."""

    pos = 0


class Progress:
    """A progress line on standard error: live on a terminal, one line every ten seconds elsewhere.

    >>> with Progress("encode", total=2000, unit="img") as progress:
    ...     progress.advance(16, loss=0.41)
    """

    def __init__(self, label: str, total: int | None, unit: str = "it", initial: int = 0) -> None:
        live = sys.stderr.isatty()
        self._bar = _Bar(
            total=total,
            initial=initial,
            desc=label,
            unit=unit,
            file=sys.stderr if live else _Lines(),
            dynamic_ncols=live,
            mininterval=0.2 if live else 10.0,
            maxinterval=1.0 if live else 30.0,
            ascii=not live,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count ``n`` more done; ``fields`` are shown behind the rate (``loss=0.41``)."""
        if fields:
            self._bar.set_postfix({k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in fields.items()}, refresh=False)
        self._bar.update(n)
