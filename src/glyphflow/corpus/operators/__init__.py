"""What measures: the operators by name. A process builds one from its name and JSON options; nothing is pickled.

Building one loads its models and takes up to some seconds; a worker does it once and uses it from all its threads. Beside the
operators lie the two stages that look at the columns of all shards at once, duplicates and categories.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from glyphflow.core.errors import ConfigError
from glyphflow.corpus.operator import Operator

# Where each is built. Named, not imported: asking for the header stage must not load the networks of the others.
BUILDERS: Mapping[str, str] = {
    "header": "glyphflow.corpus.operators.measure.header",
    "pixels": "glyphflow.corpus.operators.measure.pixels",
    "safety": "glyphflow.corpus.operators.elements.safety",
    "faces": "glyphflow.corpus.operators.elements.faces",
    "codes": "glyphflow.corpus.operators.elements.codes",
    "mosaic": "glyphflow.corpus.operators.elements.mosaic",
    "watermark": "glyphflow.corpus.operators.elements.watermark",
    "detail": "glyphflow.corpus.operators.quality.detail",
    "quality": "glyphflow.corpus.operators.quality.quality",
    "aesthetics": "glyphflow.corpus.operators.quality.aesthetics",
    "embedding": "glyphflow.corpus.operators.meaning.embedding",
    "alignment": "glyphflow.corpus.operators.meaning.alignment",
    "text": "glyphflow.corpus.operators.text.text",
    "captions": "glyphflow.corpus.operators.captions.captions",
    "annotate": "glyphflow.corpus.annotate.annotator",
}


def make_operator(name: str, **options: Any) -> Operator:
    """The operator ``name`` with these options; an unknown name or option is a :class:`ConfigError` with the known ones."""
    if name not in BUILDERS:
        raise ConfigError(f"There is no operator {name!r}; there are {', '.join(BUILDERS)}.")
    module, _, function = BUILDERS[name].rpartition(".")
    build: Callable[..., Operator] = getattr(importlib.import_module(module), function)
    known = inspect.signature(build).parameters
    unknown = sorted(set(options) - set(known))
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        raise ConfigError(f"The operator {name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
    return build(**options)
