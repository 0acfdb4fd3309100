"""Image-text pairs: store, ingest, measure, curate, annotate, look at. Needs ``pip install "glyphflow[corpus]"``."""

from glyphflow.corpus.selection import Record, Selection
from glyphflow.corpus.specs import add_specs
from glyphflow.corpus.store import Corpus

__all__ = ["Corpus", "Record", "Selection", "add_specs"]
