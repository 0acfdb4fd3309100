"""What every picture is of: a domain, a branch and a node of a taxonomy, from columns alone.

Evidence is collected for each node: keywords in captions, ImageNet classes that the embedding network saw, the image type that
an annotator told, the largest face, and how much text was read. Stages that have not run give no evidence, so the columns can
be had early and grow surer.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic

from glyphflow.core.config import Config, load_config
from glyphflow.core.hashing import fingerprint
from glyphflow.core.progress import Progress
from glyphflow.corpus.store import RENDER, Corpus
from glyphflow.corpus.tables import write_table
from glyphflow.corpus.variants import TOKEN

VERSION = 1
TYPES = {
    "domain": "string",  # first level: nature, design, people, synthetic
    "branch": "string",  # first two levels: nature/food
    "node": "string",  # as deep as the evidence goes: nature/food/drinks
    "score": "float32",  # of all evidence, the part that speaks for the branch, times min(1, that evidence)
    "mentions": "string",  # every branch that captions speak of, " nature/food design/posters "; "" without captions
}
FIRST_TOKENS = 40  # of a caption that say what a picture is of, the earlier the surer; further words name what else is in it
CLEAR = 0.75  # evidence from which a picture is of people or design; what is not clearly so is nature
# Weights of evidence: what somebody said of the picture, against a network that knows a thousand things only.
WORD, TYPE, FACE, TEXT, CLASS = 1.0, 2.0, 1.5, 0.75, 1.0

_INPUTS = {
    "annotate": ("recaption_en", "recaption_zh", "image_type"),
    "embedding": ("classes", "scores"),
    "faces": ("largest",),
    "text": ("characters",),
}  # stage -> its columns that are read


class Node(Config):
    """A category; the fields are explained in ``corpus/data/taxonomy.yaml``."""

    en: str
    zh: str
    share: float = pydantic.Field(default=0.0, ge=0)
    words: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()
    types: tuple[str, ...] = ()
    faces: float | None = None
    chars: int | None = None
    templates: tuple[str, ...] = ()
    rest: bool = False

    @property
    def classes(self) -> frozenset[int]:
        """The ImageNet classes of ``labels``, ranges spelt out."""
        found: set[int] = set()
        for label in self.labels:
            first, _, last = str(label).partition("-")
            if not first.isdigit() or not (last or first).isdigit() or int(last or first) > 999:
                raise ValueError(f"{label!r} is no ImageNet class; give a number from 0 to 999 or a range such as 151-268")
            found.update(range(int(first), int(last or first) + 1))
        return frozenset(found)


class Taxonomy(Config):
    """The tree: path -> node."""

    nodes: dict[str, Node]

    @pydantic.model_validator(mode="after")
    def _is_a_tree(self) -> Taxonomy:
        for path, node in self.nodes.items():
            parent = path.rpartition("/")[0]
            if parent and parent not in self.nodes:
                raise ValueError(f"the node {path!r} has no parent {parent!r}")
            node.classes  # noqa: B018 - a wrong label is an error of the file, not of the first row that has it
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Branch -> its share of all pictures, of those that state one."""
        return {path: node.share for path, node in self.nodes.items() if path.count("/") == 1 and node.share}

    @property
    def domain_shares(self) -> dict[str, float]:
        """Domain -> its share of all pictures."""
        return {path: node.share for path, node in self.nodes.items() if "/" not in path}


def load_taxonomy(path: Path | str | None = None) -> Taxonomy:
    """Read a taxonomy file; None is the packaged one."""
    if path is not None:
        return load_config(Taxonomy, Path(path))
    with importlib.resources.as_file(importlib.resources.files("glyphflow") / "corpus/data/taxonomy.yaml") as file:
        return load_config(Taxonomy, file)


@dataclass(frozen=True)
class Category:
    """Where a row belongs (see TYPES)."""

    domain: str
    branch: str
    node: str
    score: float
    mentions: str = ""


@dataclass(frozen=True)
class Seen:
    """What is known of a picture. ``captions``: all of them; ``classes``: ImageNet class -> probability."""

    captions: Sequence[str] = ()
    classes: Mapping[int, float] = field(default_factory=dict)
    image_type: str | None = None
    face: float | None = None
    chars: int | None = None


class Classifier:
    """Puts rows into a taxonomy."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        nodes = taxonomy.nodes
        self._children: dict[str, list[str]] = defaultdict(list)
        for path in nodes:
            self._children[path.rpartition("/")[0]].append(path)
        self._rest = {path.rpartition("/")[0]: path for path, node in nodes.items() if node.rest}
        self._of_class: dict[int, str] = {}
        for path in sorted(nodes, key=lambda path: -len(nodes[path].classes)):
            self._of_class.update(dict.fromkeys(nodes[path].classes, path))
        self._of_type = {kind: path for path, node in nodes.items() for kind in node.types}
        self._of_template = {name: path for path, node in nodes.items() for name in node.templates}
        self._faces = [(node.faces, path) for path, node in nodes.items() if node.faces is not None]
        self._chars = [(node.chars, path) for path, node in nodes.items() if node.chars is not None]
        words = [(word.lower(), path) for path, node in nodes.items() for word in node.words]
        self._english: dict[str, str] = {}
        lengths: dict[str, set[int]] = defaultdict(set)
        for word, path in words:
            tokens = TOKEN.findall(word) if word.isascii() else []
            for ending in ("", "s", "es") if tokens else ():
                phrase = " ".join(tokens) + ending
                self._english[phrase] = path
                lengths[phrase.split()[0]].add(len(tokens))
        self._lengths = {first: sorted(counts, reverse=True) for first, counts in lengths.items()}
        self._chinese = {word: path for word, path in words if not word.isascii()}
        longest = sorted(self._chinese, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest))) if longest else None

    def render(self, template: str) -> Category:
        """The category of a render, by its template."""
        node = self._of_template.get(template) or self._rest.get("synthetic", "synthetic")
        return Category("synthetic", "/".join(node.split("/")[:2]), node, 1.0)

    def photo(self, seen: Seen) -> Category:
        """The category of a picture."""
        evidence: dict[str, float] = defaultdict(float)
        mentions: set[str] = set()
        for path, place, words in self._spoken(seen.captions):
            mentions.add("/".join(path.split("/")[:2]))
            if place < FIRST_TOKENS:
                evidence[path] = max(evidence[path], words * WORD * (1 - place / (2 * FIRST_TOKENS)))
        for number, probability in seen.classes.items():
            if number in self._of_class:
                evidence[self._of_class[number]] += CLASS * probability
        if seen.image_type in self._of_type:
            evidence[self._of_type[seen.image_type]] += TYPE
        if seen.face is not None:
            self._largest(evidence, self._faces, seen.face, FACE)
        if seen.chars is not None:
            self._largest(evidence, self._chars, seen.chars, TEXT)
        return self._decide(evidence, " ".join(["", *sorted(mentions), ""]) if mentions else "")

    @staticmethod
    def _largest(evidence: dict[str, float], least: Sequence[tuple[float, str]], value: float, weight: float) -> None:
        """Of the nodes whose least value is reached, the one that asks for most."""
        reached = [pair for pair in least if value >= pair[0]]
        if reached:
            evidence[max(reached)[1]] += weight

    def _decide(self, evidence: Mapping[str, float], mentions: str) -> Category:
        sums: dict[str, float] = defaultdict(float)
        for path, value in evidence.items():
            parts = path.split("/")
            for depth in range(1, len(parts) + 1):
                sums["/".join(parts[:depth])] += value
        clear = [domain for domain in ("people", "design") if sums[domain] >= CLEAR and sums[domain] >= sums["nature"]]
        node = max(clear, key=lambda domain: sums[domain]) if clear else "nature"
        while children := self._children.get(node):
            best = max(children, key=lambda child: sums[child])
            if sums[best] <= 0 and node not in self._rest:
                break
            node = best if sums[best] > 0 else self._rest[node]
        parts = node.split("/")
        branch = "/".join(parts[:2])
        total = sum(evidence.values())
        score = min(1.0, sums[branch]) * sums[branch] / total if total else 0.0
        return Category(parts[0], branch, node, score, mentions)

    def _spoken(self, captions: Iterable[str]) -> Iterator[tuple[str, int, int]]:
        """Nodes that captions speak of, each with the place of the token (or Chinese character) and the number of words."""
        for caption in captions:
            tokens = TOKEN.findall(caption.lower())
            for number, token in enumerate(tokens):
                for length in self._lengths.get(token, ()):
                    path = self._english.get(" ".join(tokens[number : number + length]))
                    if path is not None:
                        yield path, number, length
                        break
            for match in self._pattern.finditer(caption) if self._pattern else ():
                yield self._chinese[match.group()], match.start(), 1


# -- the stage ------------------------------------------------------------------------------------------------------------


def categories(corpus: Corpus, taxonomy: str | None = None) -> int:
    """Classify every row (the caller is the one writer of the corpus); gives the number of rows classified now.

    ``taxonomy`` is a file, None the packaged one. Rows are classified anew when one of the stages that give evidence changed or
    saw further rows.
    """
    tree = load_taxonomy(taxonomy)
    inputs = {stage: corpus.stage_fingerprint(stage) for stage in _INPUTS}
    mark = corpus.begin_stage(
        "categories",
        {
            "stage": "categories",
            "version": VERSION,
            "taxonomy": fingerprint(tree.model_dump(mode="json")),
            "inputs": inputs,
            "shares": tree.shares,
        },
    )
    classifier, done = Classifier(tree), 0
    shards = [shard for shard in corpus.shards() if _is_stale(corpus, mark, shard, inputs)]
    with Progress("measure categories", len(shards), "shard") as progress:
        for shard in shards:
            rows = list(_classify(corpus, shard, classifier))
            columns = {name: [getattr(row, name) if row else None for row in rows] for name in TYPES}
            ids = corpus.index(shard, ("id",))["id"]
            write_table(corpus.column_path("categories", mark, shard), {"id": ids, **columns}, {"id": "string", **TYPES})
            done += len(rows)
            progress.advance()
    return done


def _is_stale(corpus: Corpus, mark: str, shard: str, inputs: Mapping[str, str | None]) -> bool:
    """Whether the shard's columns lack, or one of the columns they were made of is younger."""
    path = corpus.column_path("categories", mark, shard)
    if not path.exists():
        return True
    sources = [corpus.column_path(stage, each, shard) for stage, each in inputs.items() if each is not None]
    return any(source.exists() and source.stat().st_mtime_ns > path.stat().st_mtime_ns for source in sources)


def _classify(corpus: Corpus, shard: str, classifier: Classifier) -> Iterator[Category | None]:
    """The category of every row of a shard; None for a picture about which nothing is known."""
    index = corpus.index(shard, ("kind", "offset", "size", "captions"))
    specs = corpus.specs_path(shard).read_bytes() if RENDER in index["kind"] else b""
    columns = _Columns(corpus, shard)
    for number, kind in enumerate(index["kind"]):
        if kind == RENDER:
            line = specs[index["offset"][number] :][: index["size"][number]]
            yield classifier.render(str(json.loads(line)["template"]))
            continue
        seen = columns.seen(number, json.loads(index["captions"][number] or "{}"))
        yield classifier.photo(seen) if seen != Seen() else None


class _Columns:
    """The columns of one shard that give evidence; those of stages that have not run give none."""

    def __init__(self, corpus: Corpus, shard: str) -> None:
        self._tables = {stage: corpus.columns(stage, shard, names) or {} for stage, names in _INPUTS.items()}

    def _value(self, stage: str, name: str, number: int) -> Any:
        column = self._tables[stage].get(name)
        return column[number] if column else None

    def seen(self, number: int, raw: Mapping[str, str]) -> Seen:
        told = [self._value("annotate", name, number) for name in ("recaption_en", "recaption_zh")]
        classes = self._value("embedding", "classes", number) or ()
        scores = self._value("embedding", "scores", number) or ()
        return Seen(
            captions=tuple(dict.fromkeys(caption for caption in (*raw.values(), *told) if caption)),
            classes=dict(zip(classes, scores, strict=True)),
            image_type=self._value("annotate", "image_type", number),
            face=self._value("faces", "largest", number),
            chars=self._value("text", "characters", number),
        )
