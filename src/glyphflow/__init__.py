"""GlyphFlow: image models that write. docs/architecture.md shows the rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glyphflow.generate import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """``glyphflow.Pipeline`` loads PyTorch when it is first asked for, so that the command line stays quick."""
    if name == "Pipeline":
        from glyphflow.generate import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
