"""One place that checks numbers which people give: not finite or out of range is an error in a sentence."""

from __future__ import annotations

import math

from glyphflow.core.errors import InputError


def checked(value: float, name: str, low: float = -math.inf, high: float = math.inf, why: str = "") -> float:
    """``value``, finite and from ``low`` to ``high``; else :class:`InputError` with ``name``, the value and the limits.

    ``why`` ends the sentence: what the number is good for, or what to give instead.
    """
    if math.isfinite(value) and low <= value <= high:
        return value
    if math.isinf(low) and math.isinf(high):
        limits = "a finite number"
    elif math.isinf(high):
        limits = f"at least {low:g}"
    elif math.isinf(low):
        limits = f"at most {high:g}"
    else:
        limits = f"from {low:g} to {high:g}"
    raise InputError(f"{name} is {value:g}, and must be {limits}{f'; {why}' if why else ''}.")
