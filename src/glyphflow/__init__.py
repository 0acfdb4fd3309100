"""GlyphFlow: image models that write. See DESIGN in docs/architecture.md for the rooms."""

__version__ = "0.1.0"
