"""Complex rendering: slides, posters, forms, screens and web pages from designs in HTML and CSS with slots, filled by rules.

A design is one HTML file (:mod:`glyphflow.render.complex.design` says what its ``data-`` attributes mean,
:mod:`~glyphflow.render.complex.styles` which CSS it may use). The layout is our own, so that every line's exact box, font and
colour is known, a missing glyph is never drawn, and no browser is needed.
"""

from glyphflow.render.complex.compose import KINDS, draw
from glyphflow.render.complex.design import Design, open_design, packaged, read_design

__all__ = ["KINDS", "Design", "draw", "open_design", "packaged", "read_design"]
