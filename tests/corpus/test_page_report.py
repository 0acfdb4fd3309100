"""The page about a corpus: its counts are those of curation, counted here a second way; nothing hostile gets through."""

from __future__ import annotations

import base64
import html.parser
import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from column_corpus import column_corpus
from corpus_pictures import encoded, photo
from PIL import Image
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import InputError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.decide.curate import curate, curate_all, decisions, summarise
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.recipe import Best, Patch, RenderSet, Rule, Split, Stage
from glyphflow.corpus.report import LARGEST, fragment, page
from glyphflow.corpus.report.characters import count_characters
from glyphflow.corpus.report.charts import Axis, Mark, histogram
from glyphflow.corpus.report.flow import stations
from glyphflow.corpus.report.rows import Decided, Rows, longest_view, passages, view_of_recipe
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import percent, plain, short
from glyphflow.corpus.report.values import pictures, thresholds
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.tables import write_table
from glyphflow.render.schedule import standard_characters

LINES = {"han": "一二二三", "latin": "hello", "none": None}


def scored(place: Path, count: int = 90) -> Corpus:
    """Rows whose columns are drawn by lot, in two shards; a quarter are renders."""
    rng = random.Random(5)

    def row(number: int) -> dict[str, Any]:
        lines = LINES[rng.choice(list(LINES))]
        return {
            "index.id": f"{number:032x}",
            "index.kind": "render" if number % 4 == 0 else "photo",
            "pixels.clarity": float(rng.randrange(40)),
            "pixels.luma": rng.random(),
            "safety.nsfw": rng.random(),
            "aesthetics.hand": float(rng.randrange(10)),
            "text.lines": json.dumps([{"text": lines}]) if lines else "[]",
            "categories.branch": rng.choice(["nature/food", "people/portrait"]),
            "categories.node": rng.choice(["nature/food/drinks", "people/portrait"]),
            "categories.score": rng.random(),
            "categories.mentions": rng.choice([" nature/food ", ""]),
            "embedding.vector": np.eye(8, dtype="<f2")[number % 8].tobytes(),
        }

    rows = [row(number) for number in range(count)]
    return column_corpus(place, [rows[: count // 2], rows[count // 2 :]], {"nature/food": 30.0, "people/portrait": 70.0})


STAGES = [
    Stage(
        name="A",
        title="First",
        view="a",
        rules=(
            Rule(filter="Clarity", column="pixels.clarity", min=10, kinds=("photo",), reason="blurred: {value}"),
            Rule(filter="Luma", column="pixels.luma", min=0.1, reason="dark: {value}"),
            Rule(filter="Luma", column="pixels.luma", max=0.9, reason="bright: {value}"),
        ),
    ),
    Stage(
        name="B", title="Second", view="b", rules=(Rule(filter="Aesthetic", column="aesthetics.hand", min=5, reason="{value}"),)
    ),
    Stage(
        name="C",
        title="Third",
        view="c",
        splits=(Split(name="general"),),
        rules=(Rule(filter="NSFW", column="safety.nsfw", max=0.8, reason="perhaps offensive: {value}"),),
        patch=Patch(below=0.9, forgive=("B/Aesthetic",)),
        best=Best(share=0.5, least=1, scores={"aesthetics.hand": 1.0}),
    ),
]


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    corpus = scored(tmp_path_factory.mktemp("scored") / "c")
    curate_all(corpus, STAGES)
    return corpus


# -- counts ---------------------------------------------------------------------------------------------------------------


def test_the_flow_has_the_counts_of_curation(curated: Corpus) -> None:
    rows = Rows(curated)
    way = stations(rows, passages(curated, len(rows), "c"))
    shown = {(each.stage, each.name): sum(each.rows) for each in way if each.what == "filter"}
    for view, stage in (("a", "A"), ("b", "B"), ("c", "C")):
        own = {pair: count for pair, count in summarise(curated, view).refused.items() if pair[0] == stage}
        assert {pair: shown[pair] for pair in own} == own
    kept = {each.name: sum(each.rows) for each in way if each.what == "view"}
    assert kept == {view: summarise(curated, view).kept for view in "abc"}
    # And a second way, row by row.
    by_view = {view: {row["id"]: row for row in decisions(curated, view)} for view in "abc"}
    alone = Counter(
        (row["stage"], row["rule"])
        for view, stage in zip("abc", "ABC", strict=True)
        for row in by_view[view].values()
        if row["stage"] == stage
    )
    assert {pair: count for pair, count in shown.items() if count} == alone
    returned = [
        row for row in by_view["c"].values()
        if not by_view["b"][row["id"]]["kept"] and (row["kept"] or row["stage"] == "C")
    ]  # fmt: skip
    assert [sum(each.rows) for each in way if each.what == "back"] == [len(returned)] and returned
    # What is left after each filter is what was there less what it refused, down to what the view keeps.
    for before, after in itertools.pairwise(way):
        if after.what == "filter":
            assert sum(before.left) - sum(after.rows) == sum(after.left)
        if after.what == "view":
            assert sum(before.left) == sum(after.rows)


def test_the_table_of_the_page_says_the_same(curated: Corpus) -> None:
    text = page(curated, "c")
    for (stage, name), count in summarise(curated, "a").refused.items():
        assert f"<tr><td>{stage}</td><td>{name}</td><td class=n>{count:,}</td>" in text
    assert f"{summarise(curated, 'c').kept} of 90 rows kept" in text


def test_a_view_of_its_own_is_shown_alone(curated: Corpus) -> None:
    curate(curated, STAGES[:1], "alone")
    rows = Rows(curated)
    assert [each.view.name for each in passages(curated, len(rows), "alone")] == ["alone"]
    assert [each.view.name for each in passages(curated, len(rows), "b")] == ["a", "b"]
    assert longest_view(curated) == "c"
    assert view_of_recipe(curated, STAGES[:2]) == "b"
    with pytest.raises(InputError, match="none of the recipe's views"):
        view_of_recipe(curated, [Stage(name="X", title="", view="elsewhere")])


def test_a_view_decided_before_its_columns_were_measured_is_said(tmp_path: Path) -> None:
    corpus = scored(tmp_path / "c")
    curate_all(corpus, STAGES[:2])
    stricter = STAGES[0].model_copy(update={"rules": (Rule(filter="Luma", column="pixels.luma", min=0.5, reason="dark"),)})
    curate(corpus, [stricter, STAGES[1]], "b")  # the first view is now another recipe's
    rows = Rows(corpus)
    assert [each.view.name for each in passages(corpus, len(rows), "b")] == ["b"]


def test_rows_that_changed_sides_since_an_earlier_view_are_said(tmp_path: Path) -> None:
    corpus = scored(tmp_path / "c")
    curate_all(corpus, STAGES[:2])
    shard, mark = corpus.shards()[0], corpus.stage_fingerprint("pixels") or ""
    table = corpus.columns("pixels", shard) or {}
    lost = [row["id"] for row in decisions(corpus, "a") if row["kept"] and row["shard"] == shard]
    types = {"id": "string", "measured": "bool", "clarity": "float32", "luma": "float32"}
    write_table(corpus.column_path("pixels", mark, shard), table | {"luma": [0.0] * len(table["id"])}, types)
    curate(corpus, STAGES[:2], "b")
    [_, second] = passages(corpus, 90, "b")
    assert second.changed == len(lost) > 0
    assert f"{len(lost)} rows of an earlier view would be decided otherwise" in page(corpus, "b")


def test_rows_beyond_a_threshold_are_counted_whoever_refused_them(curated: Corpus) -> None:
    rows = Rows(curated)
    [clarity] = thresholds(rows, passages(curated, len(rows), "c"), "pixels.clarity")
    values, photos = rows.numbers("pixels.clarity"), rows.photo
    assert (clarity.asked, clarity.beyond) == (int(photos.sum()), int((photos & (values < 10)).sum()))
    assert [each.rule.min for each in thresholds(rows, passages(curated, len(rows), "c"), "pixels.luma")] == [0.1, None]


def test_splits_and_weights_are_those_of_the_view(curated: Corpus) -> None:
    decided = Decided(curated, "c")
    assert decided.splits == ["general"] and not decided.split.any()
    assert np.array_equal(decided.kept, [row["kept"] for row in decisions(curated, "c")])
    assert np.allclose(decided.weight, [row["weight"] for row in decisions(curated, "c")])


def test_characters_are_counted_as_they_are_and_as_they_are_drawn(curated: Corpus) -> None:
    rows = Rows(curated)
    kept = np.arange(len(rows)) % 3 == 0
    counts, drawn, texts = count_characters(rows, kept, np.full(len(rows), 2.0))
    told = [json.loads(text) for text in rows.read("text.lines").to_pylist()]
    expected = Counter(
        char
        for keep, lines in zip(kept, told, strict=True)
        if keep
        for line in lines
        for char in line["text"]
        if char in "一二三"
    )
    table = standard_characters()
    assert {table[place]: int(counts[place]) for place in np.flatnonzero(counts)} == expected
    assert np.array_equal(drawn, 2 * counts) and texts == sum(
        bool(lines) for keep, lines in zip(kept, told, strict=True) if keep
    )


# -- what is shown --------------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """What a browser would make of a page: its tags with attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> Iterator[str]:
        yield from (str(attrs["src"]) for tag, attrs in self.tags if tag == "img")


HOSTILE = (
    "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'><svg onload=alert(3)></title></style>{value}\x00"
    "12\x00\u202eevil &lt;b&gt; https://example.org/x.png {{7*7}} ]]>--><!--"
)


def test_hostile_captions_names_and_licences_are_only_text(folder: Callable[..., Path], tmp_path: Path) -> None:
    place = folder(6)
    for path in place.glob("*.txt"):
        path.write_text(HOSTILE.replace("\x00", ""), encoding="utf-8")
    odd = place / "<b onmouseover=alert(9)>&amp;'\"`.jpg"
    odd.write_bytes(encoded(photo(77, 200, 160)))
    odd.with_suffix(".json").write_text(json.dumps({"en": HOSTILE, "licence": HOSTILE}), encoding="utf-8")
    (place / "<i>broken.jpg").write_bytes(b"\xff\xd8\xff\xe0<script>")
    corpus = Corpus.create(tmp_path / "<u>c")
    ingest_folder(corpus, place, "hostile", HOSTILE)
    measure(corpus)
    rule = Rule(filter="<s>F", column="pixels.clarity", min=1e9, reason="<em>{value}</em>" + HOSTILE.replace("{value}", ""))
    curate(corpus, [Stage(name="<q>", title=HOSTILE, rules=(rule,))], "v")
    text = page(corpus, "v")
    seen = Tags(text)
    allowed = {tag for tag, _ in Tags(page(Corpus.create(tmp_path / "empty"))).tags}
    drawn = "img figure figcaption svg path rect title text tspan table tr td th b i em s span small code article dl dt dd br"
    allowed |= {*drawn.split(" "), "details", "summary", "h3", "h4"}
    assert {tag for tag, _ in seen.tags} <= allowed and "script" not in {tag for tag, _ in seen.tags}
    assert not [name for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert all(address.startswith("data:image/jpeg;base64,") for address in seen.images())
    assert not [attrs for _, attrs in seen.tags if any(name in attrs for name in ("href", "src")) and "http" in str(attrs)]
    assert "<script>alert(1)</script>" in seen.text and "\u202e" not in text and "\x00" not in text
    assert "default-src 'none'" in text


def test_flagged_pictures_are_a_blur_wherever_they_stand(folder: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    ingest_folder(corpus, folder(12), "pictures", "CC0-1.0")
    measure(corpus)
    run(corpus, "safety", workers=1)
    scores = Rows(corpus).numbers("safety.nsfw")
    threshold = float(np.median(scores))
    rule = Rule(filter="NSFW", column="safety.nsfw", max=threshold, reason="perhaps offensive: {value}")
    curate(corpus, [Stage(name="F1", title="", rules=(rule,))], "v")
    text = page(corpus, "v")
    images = re.findall(r'<span class="shot( flagged)?"><img alt="([^"]*)"[^>]*base64,([^"]*)"', text)
    flagged = [data for mark, _, data in images if mark]
    assert len(flagged) >= int((scores > threshold).sum()) > 0 and len(flagged) < len(images)
    assert all(("perhaps offensive" in alt) == bool(mark) for mark, alt, _ in images)
    # The test pictures have sharp structure; of a flagged one nothing finer than a sixth of the side is left.
    sharp = [_fine(data) for mark, _, data in images if not mark]
    assert max(map(_fine, flagged)) < 0.3 * min(sharp)


def _fine(data: str) -> float:
    """Mean step between neighbouring pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), np.float64)
    return float(np.abs(np.diff(pixels, axis=1)).mean())


def test_pictures_get_smaller_until_they_fit(folder: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    ingest_folder(corpus, folder(8), "pictures", "x")
    rows = Rows(corpus)
    none = np.zeros(len(rows), np.bool_)
    marks = "".join(Shots(rows, none).picture(row) for row in range(8)) * 3
    whole = Shots(rows, none).fill(marks)
    for budget in (len(whole) // 2, len(whole) // 4):
        page_text = Shots(rows, none, budget).fill(marks)
        assert page_text.count("<img") == 24 and sum(map(len, re.findall(r"base64,([^\"]*)", page_text))) <= budget
    assert Shots(rows, none).fill(marks) == whole


def test_a_page_without_columns_says_what_is_missing(folder: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    assert "0 rows" in page(corpus)
    ingest_folder(corpus, folder(3), "pictures", "x")
    text = page(corpus)
    for line in ("No view has been decided yet", "Nothing has been measured yet", "Nothing has been classified yet",
                 "Nothing has been read yet", "No copies have been looked for yet", "no picture is blurred"):  # fmt: skip
        assert line in text
    measure(corpus)
    assert "pixels.</code>clarity" in page(corpus) and "<script" not in page(corpus)


def test_photographs_and_renders_together(folder: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "c")
    ingest_folder(corpus, folder(8), "pictures", "CC0-1.0")
    add_specs(corpus, "words", RenderSet(name="words", template="word", count=4).specs())
    measure(corpus)
    middle = float(np.nanmedian(Rows(corpus).numbers("pixels.clarity")))
    rules = (
        Rule(filter="Clarity", column="pixels.clarity", min=middle, reason="{value}"),
        Rule(filter="Deduplication", column="duplicates.duplicate_of", empty=True, reason="the same as {value}"),
    )  # fmt: skip
    curate(corpus, [Stage(name="F1", title="", rules=rules)], "v")
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["corpus", "report", str(corpus.directory), "--view", "v", "-o", str(out)])
    assert done.exit_code == 0 and out.stat().st_size < LARGEST
    text = out.read_text(encoding="utf-8")
    assert text == page(corpus, "v"), "the same corpus has the same page"
    assert "CC0-1.0" in text and "generated" in text and "no picture</i>" not in text
    assert "Clarity" in fragment(corpus, "v") and "<nav" not in fragment(corpus, "v")
    both = CliRunner().invoke(app, ["corpus", "report", str(corpus.directory), "--view", "v", "--recipe", "demo-corpus"])
    assert both.exit_code != 0


# -- charts ---------------------------------------------------------------------------------------------------------------


def test_an_axis_puts_values_in_order_and_marks_inside() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(0, 1, 500),
        rng.lognormal(0, 3, 500),
        np.r_[np.zeros(300), rng.lognormal(0, 3, 200)],
        np.array([2.0, 3.0]),
    ):
        axis = Axis(values, [1.5])
        places = axis.share(np.sort(values))
        assert (np.diff(places) >= 0).all() and places.min() >= 0 and places.max() <= 1
        assert 0 <= axis.at(1.5) <= 1 and all(0 <= axis.at(tick) <= 1 for tick in axis.ticks()) and len(axis.ticks()) >= 2
    assert Axis(rng.lognormal(0, 3, 500)).log and not Axis(rng.normal(5, 1, 500)).log


def test_a_histogram_has_every_row_in_a_bar_and_shades_what_is_refused() -> None:
    values = {"photo": np.arange(100.0), "render": np.full(5, 50.0)}
    drawn = histogram(values, [Mark(20.0, "min", "at least 20")], "x")
    assert drawn.count('class="photo"') == 44 and drawn.count('class="render"') == 1
    shade = re.search(r'class="beyond" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)
    line = re.search(r'class="threshold" d="M([\d.]+)', drawn)
    assert shade and line and float(shade[1]) + float(shade[2]) == pytest.approx(float(line[1]), abs=0.11)
    assert histogram({"photo": np.array([1.0, 2.0])}, [], "two").count("<rect") == 2


def test_pictures_stand_at_deciles_or_for_each_value(curated: Corpus) -> None:
    rows = Rows(curated)
    values = np.arange(90.0) ** 2
    shown = pictures(rows, "x", values)
    assert [row for row, _ in shown] == [round(step * 89 / 10) for step in range(11)]
    assert [said.split("<i>")[1] for _, said in shown][:2] == ["least</i>", "10 %</i>"]
    few = np.where(np.arange(90) < 80, 0.0, 3.0)
    assert [said for _, said in pictures(rows, "x", few)] == ["0 <i>80 rows</i>", "3 <i>10 rows</i>"]
    zeros = np.where(np.arange(90) < 60, 0.0, np.arange(90.0))
    first, *rest = pictures(rows, "x", zeros)
    assert first[1] == "0 <i>67 % of rows</i>" and (rest[0][0], rest[-1][0]) == (60, 89)


def test_numbers_in_few_characters() -> None:
    assert [short(value) for value in (0.03123, 14, 1234, 29_100, 2_650_000, -0.158)] == [
        "0.0312",
        "14",
        "1234",
        "29.1k",
        "2.65M",
        "-0.158",
    ]
    assert [percent(1, 3), percent(1, 100), percent(1, 1_000_000), percent(0, 7), percent(1, 0)] == [
        "33 %",
        "1.0 %",
        "<0.1 %",
        "0.0 %",
        "–",
    ]
    assert plain("a" * 500).startswith("a" * 400 + " ") and plain("<\"&'>") == "&lt;&quot;&amp;&#x27;&gt;"
