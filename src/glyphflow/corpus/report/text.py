"""Text and numbers as they stand on the page. Whatever comes from a corpus is hostile until it went through :func:`plain`."""

from __future__ import annotations

import html
import re

# What HTML forbids or what turns the reading direction of all that follows; and the marks of pictures (see shots).
_BARRED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
LONGEST = 400  # characters of a text that are shown


def plain(text: object, longest: int = LONGEST) -> str:
    """``text`` as HTML text or attribute: escaped, without control characters, cut at ``longest`` characters."""
    said = str(text)
    cut = said[:longest].rstrip() + " …" if len(said) > longest else said
    return html.escape(_BARRED.sub("\ufffd", cut))


def short(value: float) -> str:
    """A number in few characters: 0.0312, 14, 3.2k, 1.5M."""
    if abs(value) >= 999_500:
        return f"{value / 1_000_000:.3g}M"
    if abs(value) >= 9_995:
        return f"{value / 1_000:.3g}k"
    if abs(value) >= 1_000:
        return f"{value:.0f}"
    return f"{value:.3g}"


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent with a decimal below ten, "–" of nothing."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "<0.1 %"
    return f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %"


def counted(number: int, one: str, many: str | None = None) -> str:
    """ "1 row", "3,204 rows"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
