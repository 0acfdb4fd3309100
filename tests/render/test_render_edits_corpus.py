"""Edit pairs as rows of a corpus: the source, then the target that names it and has the instruction as its caption."""

from __future__ import annotations

from pathlib import Path

import pytest

from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.recipe import RenderSet
from glyphflow.corpus.selection import select
from glyphflow.corpus.specs import add_specs
from glyphflow.render import FontLibrary, render_edit


def test_a_target_names_its_source(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    specs = RenderSet(name="pairs", template="edit", count=3, width=64, height=64).specs()
    assert len(specs) == 6 and add_specs(corpus, "pairs", specs, per_shard=4) == 6
    rows = select(corpus, None)
    fonts = FontLibrary.from_manifest()
    for number in range(0, 6, 2):
        pair = render_edit(specs[number], fonts)
        (source,) = rows.load_references(number + 1)
        target = rows.load(number + 1)
        assert source.id == rows.ids[number] and target.references == (source.id,)
        assert source.image.tobytes() == pair.source.image.tobytes()
        assert target.image.tobytes() == pair.target.image.tobytes()
        assert target.captions == pair.instruction and rows.load_references(number) == []


def test_a_target_without_its_source_is_refused(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    specs = RenderSet(name="pairs", template="edit_remove", count=1, width=64, height=64).specs()
    with pytest.raises(InputError, match="the row before it must be its source"):
        add_specs(corpus, "pairs", specs[1:])
