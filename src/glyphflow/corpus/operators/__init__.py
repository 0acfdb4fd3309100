"""The operators by name. A process builds one from its name and JSON options; nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from glyphflow.core.errors import ConfigError
from glyphflow.corpus.operator import Operator


def _header() -> Operator:
    from glyphflow.corpus.measure import header

    return header()


def _pixels() -> Operator:
    from glyphflow.corpus.measure import pixels

    return pixels()


def _annotate(**options: Any) -> Operator:
    from glyphflow.corpus.annotate import annotator

    return annotator(**options)


OPERATORS: Mapping[str, Callable[..., Operator]] = {"header": _header, "pixels": _pixels, "annotate": _annotate}


def make_operator(name: str, **options: Any) -> Operator:
    """The operator ``name`` with these options; an unknown name is a :class:`ConfigError` that lists the known ones."""
    if name not in OPERATORS:
        raise ConfigError(f"There is no operator {name!r}; there are {', '.join(OPERATORS)}.")
    return OPERATORS[name](**options)
