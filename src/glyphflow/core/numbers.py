"""One place that checks numbers which people give: not finite or out of range is an error in a sentence."""

from __future__ import annotations

import math
import numbers

from glyphflow.core.errors import InputError


def checked(value: float, name: str, low: float = -math.inf, high: float = math.inf, why: str = "") -> float:
    """``value``, finite and from ``low`` to ``high``; else :class:`InputError` with ``name``, the value and the limits.

    ``why`` ends the sentence: what the number is good for, or what to give instead.
    """
    try:
        if math.isfinite(value) and low <= value <= high:
            return value
    except (TypeError, OverflowError):  # no number, or a whole one with hundreds of digits
        pass
    if math.isinf(low) and math.isinf(high):
        limits = "a finite number"
    elif math.isinf(high):
        limits = f"at least {low:g}"
    elif math.isinf(low):
        limits = f"at most {high:g}"
    else:
        limits = f"from {low:g} to {high:g}"
    raise InputError(f"{name} is {_shown(value)}, and must be {limits}{f'; {why}' if why else ''}.")


def whole(value: object, name: str, low: int, high: int, why: str = "") -> int:
    """As :func:`checked`, for a number without a fraction."""
    if not isinstance(value, bool) and isinstance(value, numbers.Integral) and low <= int(value) <= high:
        return int(value)
    raise InputError(f"{name} is {_shown(value)}, and must be a whole number from {low} to {high}{f'; {why}' if why else ''}.")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
