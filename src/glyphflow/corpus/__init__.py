"""Image-text pairs: store, ingest, measure, curate, annotate, look at. Needs ``pip install -c constraints.txt ".[corpus]"``.

The modules here are what the rest stands on: the store, its tables, decoding and specs; reading it and taking rows out; the
recipe; what an operator is. Then ``ingest`` brings pictures in, ``operators`` measure them, ``runner`` lets them do so on one
machine or many, ``annotate`` writes captions, ``decide`` keeps or refuses, and ``report`` shows what came of it.
"""

from glyphflow.corpus.selection import Record, Selection
from glyphflow.corpus.specs import add_specs
from glyphflow.corpus.store import Corpus

__all__ = ["Corpus", "Record", "Selection", "add_specs"]
