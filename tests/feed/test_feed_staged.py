"""The batch of a step: shares, passes without repetition, segments, amendments, parts."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from feed_corpus import segments
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from glyphflow.core.errors import ConfigError
from glyphflow.feed.amendments import Amendment, AmendmentLog, amended, parse_changes
from glyphflow.feed.cache import Unreadable
from glyphflow.feed.content import Sample, Wish
from glyphflow.feed.order import Part
from glyphflow.feed.producing import feed_blocks
from glyphflow.feed.records import Records, selection_records
from glyphflow.feed.settings import FeedSettings, Source
from glyphflow.feed.staged import StagedFeed
from glyphflow.feed.texts import choose


@dataclass
class Library:
    """A selection and an opener: ``count`` labelled records; a sample's latents are its record's number."""

    count: int = 60
    broken: tuple[int, ...] = ()
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [f"r{n:03d}" for n in range(self.count)]

    def __len__(self) -> int:
        return self.count

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(64, 64) if n % 3 else (128, 64) for n in range(self.count)]

    @property
    def rows(self) -> list[Any]:
        return [self._row(n, one) for n, one in enumerate(self.ids)]

    def _row(self, number: int, record: str) -> Any:
        captions = {"raw": f"{record} raw", "fused_en": "x" * number, "fused_zh": record}
        references = ("r000",) if number % 7 == 6 else ()
        return SimpleNamespace(id=record, kind="photo", captions=captions, references=references, width=64, height=64)

    @property
    def corpus(self) -> Any:
        return SimpleNamespace(records=lambda: self)

    @property
    def weights(self) -> list[float]:
        return [1.0 if n % 5 else 0.5 for n in range(self.count)]

    def labels(self, kind: str) -> list[str]:
        names = {
            "domain": ["nature", "design", "people"],
            "split": ["english", "chinese"],
            "text": ["none", "word", "line", "paragraph"],
        }
        return [names[kind][n % len(names[kind])] for n in range(self.count)]

    # -- an opener ----------------------------------------------------------------------------------------------------

    fingerprint = "f"

    def records(self, source: Source, view: str | None, area: int) -> Records:
        chosen = Library(self.count if view in (None, "backwards") else int(view))  # type: ignore[arg-type]
        chosen.ids = chosen.ids[::-1] if view == "backwards" else chosen.ids
        return selection_records(source.title, chosen)  # type: ignore[arg-type]

    def content(self, source: Source, records: Records, area: int) -> Library:
        return self

    def stop(self) -> None: ...

    def samples(self, wishes: Sequence[Wish]) -> list[Sample | Unreadable]:
        return [Unreadable(f"record {w.place}") if w.place in self.broken else self._sample(w) for w in wishes]

    def _sample(self, wish: Wish) -> Sample:
        names = ["raw", "fused_en", "fused_zh"]
        shown = None if wish.dropped else choose(names, wish.captions, wish.draw)
        latent = torch.full((16, 8, 8), float(wish.place))
        text = torch.full((1, 4), float(-1 if shown is None else names.index(shown)))
        return Sample((latent,) * (1 if wish.task == "t2i" else 2), text)


def config(**changes: Any) -> FeedSettings:
    values: dict[str, Any] = {
        "sources": [{"name": "a", "corpus": "a"}],
        "resolutions": [{"area": 4096, "batch_size": 4}],
        "heldout_share": 0.0,
        "drop_condition": 0.25,
    }
    return FeedSettings.model_validate(values | changes)


def feed(
    *stages: tuple[int, FeedSettings], amendments: tuple[Amendment, ...] = (), seed: int = 1, **library: Any
) -> StagedFeed:
    return StagedFeed(segments(*stages), seed, amendments, Library(**library))


def served(source: StagedFeed, steps: int) -> list[list[str]]:
    return [source.record_ids(step) for step in range(steps)]


STAGES = st.lists(
    st.tuples(
        st.integers(1, 25),
        st.fixed_dictionaries(
            {},
            optional={
                "view": st.sampled_from(["60", "40", "30"]),
                "mixture": st.sampled_from([{"nature": 1.0, "design": 3.0}, {"people": 1.0, "nature": 1.0}]),
                "splits": st.sampled_from([{"english": 1.0}, {"english": 0.2, "chinese": 0.8}]),
                "text": st.sampled_from(["none", "line"]),
                "tasks": st.sampled_from([{"t2i": 0.5, "i2i": 0.5}, {"t2i": 0.5, "ti2i": 0.5}]),
                "captions": st.sampled_from([{"raw": 1.0}, {"fused": 0.5, "raw": 0.5}]),
                "resolutions": st.just([{"area": 4096, "batch_size": 6}, {"area": 16384, "batch_size": 2}]),
            },
        ),
    ),
    min_size=1,
    max_size=3,
)
AMENDMENTS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from([{"mixture.people": 2.0}, {"captions.raw": 3.0}, {"tasks.i2i": 1.0}, {"view": "30"}, {"producers": 3}]),
    ),
    max_size=3,
)


@examples(max_examples=30, deadline=None)
@given(stages=STAGES, log=AMENDMENTS, seed=st.integers(0, 3))
def test_a_batch_is_a_function_of_its_step_and_no_record_comes_twice_in_a_pass(
    stages: list[tuple[int, dict[str, Any]]], log: list[tuple[int, dict[str, Any]]], seed: int
) -> None:
    amendments = tuple(Amendment(at, changes) for at, changes in log)
    built = [(steps, config(**changes)) for steps, changes in stages]
    one = feed(*built, amendments=amendments, seed=seed)
    total = sum(steps for steps, _ in built)
    passes: collections.Counter[tuple[str, int, str]] = collections.Counter()
    seen = []
    for step in range(total):
        stream, picks = one.picks(step)
        ids = one.record_ids(step)
        seen.append(ids)
        assert len(ids) == stream.resolution.batch_size
        passes.update((stream.name, pick.epoch, record) for pick, record in zip(picks, ids, strict=True))
    # Under one name records of one task and area are kept, whatever their labels: none comes twice in the same pass.
    assert max(passes.values()) == 1
    for step in {0, total // 2, total - 1}:
        assert feed(*built, amendments=amendments, seed=seed).record_ids(step) == seen[step]


def test_a_batch_does_not_depend_on_the_parts_it_is_dealt_in() -> None:
    source = feed((20, config(captions={"raw": 1.0, "fused": 1.0})), broken=(7, 11))
    for step in range(20):
        whole = source.batch(step)
        assert (whole.first, whole.total) == (0, 4)
        for world in (2, 4):
            parts = [source.batch(step, Part(rank, world)) for rank in range(world)]
            assert [part.first for part in parts] == [rank * 4 // world for rank in range(world)]
            assert tuple(one for part in parts for one in part.ids) == whole.ids
            assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
            assert torch.equal(torch.cat([part.embeds for part in parts]), whole.embeds)
        micro = whole.split(2)
        assert [m.first for m in micro] == [0, 2] and {m.total for m in micro} == {4}
        assert torch.equal(micro[1].latents, whole.latents[2:]) and micro[1].shapes == whole.shapes[2:]
    with pytest.raises(ConfigError, match="4 samples cannot be dealt to 3"):
        source.batch(0, Part(0, 3))


BROKEN = (6, 11, 12, 25, 41)


def test_a_record_that_cannot_be_read_is_replaced_by_its_neighbour() -> None:
    source, whole = feed((30, config()), broken=BROKEN), feed((30, config()))
    for step in range(30):
        wanted, got = whole.record_ids(step), source.batch(step).ids
        broken = [int(one[1:]) in BROKEN for one in wanted]
        assert len(got) == 4 and set(got) <= {one for one, bad in zip(wanted, broken, strict=True) if not bad}
        assert all(g == w for g, w, bad in zip(got, wanted, broken, strict=True) if not bad)


def test_steps_are_shared_as_the_settings_say() -> None:
    source = feed(
        (
            1000,
            config(
                tasks={"t2i": 0.7, "ti2i": 0.1, "i2i": 0.2},
                mixture={"nature": 3.0, "design": 1.0},
                splits={"english": 1.0, "chinese": 3.0},
                resolutions=[{"area": 4096, "batch_size": 4, "share": 1}, {"area": 16384, "batch_size": 2, "share": 3}],
            ),
        )
    )
    count: collections.Counter[Any] = collections.Counter()
    for step in range(1000):
        stream, _ = source.picks(step)
        count.update([stream.task, stream.domain, stream.split, stream.resolution.area])
    assert [count[task] for task in ("t2i", "ti2i", "i2i")] == pytest.approx([700, 100, 200], abs=12)
    assert count["nature"] / count["design"] == pytest.approx(3, rel=0.05) and not count["people"]
    assert count["chinese"] / count["english"] == pytest.approx(3, rel=0.06)
    assert count[4096] == pytest.approx(250, abs=12)


def test_what_the_first_steps_need_is_encoded_first_whatever_the_caches_are_called() -> None:
    sources = [{"name": "late", "corpus": "l", "cache": "a"}, {"name": "early", "corpus": "e", "cache": "b"}]

    def caches(heldout_share: float, heldout: int) -> list[str]:
        shared = {"sources": sources, "heldout_share": heldout_share}
        stages = [(300, config(mixture={name: 1.0}, **shared)) for name in ("early", "late")]
        blocks = feed_blocks(feed(*stages, count=100), heldout)
        for name in ("a", "b"):
            members = [index for block in blocks if block.cache.name == name for index in block.members]
            assert sorted(members) == [n for n in range(100) if n % 7 != 6]  # no task asks for the edits
        return [block.cache.name for block in blocks]

    found = caches(0.0, 0)
    assert found == sorted(found, reverse=True)
    assert "a" in caches(0.2, 8)[:8]  # held-out ones of a late stage are needed from the start


def test_reconstructions_are_encoded_for_the_records_that_such_a_step_shows_and_for_no_others() -> None:
    cached = {"sources": [{"name": "a", "corpus": "a", "cache": "a"}]}
    copying = config(tasks={"t2i": 0.5, "i2i": 0.5}, heldout_share=0.2, view="backwards", **cached)
    source = feed((10, config(**cached)), (6, copying))  # the same record has another place in another view
    shown = {one for step in range(16) if source.picks(step)[0].task == "i2i" for one in source.record_ids(step)}
    shown |= {one for batch in source.heldout(8) if batch.tasks[0] == "i2i" for one in batch.ids}
    wanted = {block.records.ids[index]: block.copies for block in feed_blocks(source, 8) for index in block.members}
    assert 12 <= len(shown) < len(wanted) / 2 and {one for one, copied in wanted.items() if copied} == shown
    assert not any(copied for *_, copied in feed((10, config())).needs(8))


def test_a_source_of_one_size_serves_that_resolution_alone() -> None:
    """And its share of the others goes to its neighbours."""
    sizes = [{"area": 4096, "batch_size": 4}, {"area": 16384, "batch_size": 2}]
    sources = [
        {"name": "a", "corpus": "a", "side": 64},
        {"name": "b", "corpus": "b", "side": 128},
        {"name": "c", "corpus": "c"},
    ]
    source = feed((400, config(sources=sources, resolutions=sizes, mixture={"a": 1.0, "b": 1.0, "c": 3.0})))
    picked = [source.picks(step)[0] for step in range(400)]
    count = collections.Counter((stream.source, stream.resolution.area) for stream in picked)
    assert {pair: round(number / 50) for pair, number in count.items()} == {
        (0, 4096): 1, (2, 4096): 3, (1, 16384): 1, (2, 16384): 3,
    }  # fmt: skip


def test_only_pictures_with_as_much_text_as_the_stage_allows_are_drawn() -> None:
    source = feed((40, config(text="word")))
    assert {int(one[1:]) % 4 for ids in served(source, 40) for one in ids} == {0, 1}


def test_captions_are_chosen_for_each_sample_and_conditions_dropped_one_by_one() -> None:
    source = feed((400, config(captions={"raw": 1.0, "fused": 3.0}, drop_condition=0.25)))
    shown = torch.cat([source.batch(step).embeds[:, 0, 0] for step in range(400)]).tolist()
    count = {name: shown.count(value) / len(shown) for name, value in (("dropped", -1), ("raw", 0), ("en", 1), ("zh", 2))}
    assert count["dropped"] == pytest.approx(0.25, abs=0.04) and count["raw"] == pytest.approx(0.19, abs=0.04)
    assert count["en"] == pytest.approx(0.28, abs=0.04) and count["zh"] == pytest.approx(0.28, abs=0.04)
    rows = [set(source.batch(step).embeds[:, 0, 0].tolist()) for step in range(20)]
    assert any(-1 in row and len(row) > 1 for row in rows)
    first = {one: embed for step in range(12) for one, embed in zip(*_rows(source, step), strict=True)}
    later = {one: embed for step in range(40, 80) for one, embed in zip(*_rows(source, step), strict=True)}
    assert any(first[one] != later[one] for one in first.keys() & later.keys())  # another pass, another caption


def _rows(source: StagedFeed, step: int) -> tuple[tuple[str, ...], list[float]]:
    batch = source.batch(step)
    return batch.ids, batch.embeds[:, 0, 0].tolist()


def test_settings_that_ask_for_what_is_not_there_are_refused_by_name() -> None:
    for changes, sentence in (
        ({"mixture": {"animals": 1.0}}, r"mixture names 'animals'.*design, nature, people"),
        ({"splits": {"french": 1.0}}, r"splits names 'french'.*chinese, english"),
        ({"captions": {"recaption": 1.0}}, r"captions names 'recaption'.*fused_en, fused_zh, raw"),
        ({"tasks": {"ti2i": 1.0}, "view": "5"}, r"asks for ti2i.*no edits"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            feed((5, config(**changes))).picks(0)
    with pytest.raises(ValueError, match="tasks names 'video'"):
        config(tasks={"video": 1.0})


def test_an_amendment_changes_nothing_before_its_step_and_ends_with_its_segment() -> None:
    stages = ((30, config(mixture={"nature": 1.0, "people": 1.0})), (30, config(mixture={"nature": 1.0, "people": 1.0})))
    plain, changed = feed(*stages), feed(*stages, amendments=(Amendment(12, {"mixture.people": 0.0}),))
    assert served(plain, 12) == served(changed, 12)
    domains = [changed.picks(step)[0].domain for step in range(60)]
    assert set(domains[12:30]) == {"nature"} and "people" in domains[30:]
    live = feed(*stages)
    before = served(live, 12)
    live.amend((Amendment(12, {"mixture.people": 0.0}),))  # while the run goes on
    assert [live.record_ids(step) for step in range(12, 60)] == [changed.record_ids(step) for step in range(12, 60)]
    assert served(live, 12) == before
    speed = feed(*stages, amendments=(Amendment(7, {"producers": 5}),))
    assert served(speed, 60) == served(plain, 60)  # decides speed, never content
    assert [speed.settings_at(step).producers for step in (6, 7, 30)] == ["auto", 5, "auto"]


def test_held_out_records_are_never_trained_on_and_always_the_same() -> None:
    source = feed(
        (60, config(heldout_share=0.3)), (60, config(heldout_share=0.3, resolutions=[{"area": 16384, "batch_size": 2}]))
    )
    held = {one for batch in source.heldout(100) for one in batch.ids}
    assert held and not held & {one for ids in served(source, 120) for one in ids}
    assert [b.ids for b in source.heldout(10)] == [b.ids for b in source.heldout(10)]
    assert {batch.total for batch in source.heldout(10)} <= {1, 2, 3, 4}
    assert not any(-1 in batch.embeds[:, 0, 0].tolist() for batch in source.heldout(100))


def test_the_log_of_changes_refuses_what_was_ordered_and_says_from_where_it_may(tmp_path: Path) -> None:
    log, other = AmendmentLog(tmp_path / "run" / "amendments.jsonl"), AmendmentLog(tmp_path / "run" / "amendments.jsonl")
    assert log.read() == () and log.settle(0) == ()
    with pytest.raises(ConfigError, match=r"before step 16, so a change from step 3 .*--from 16"):
        other.append(3, {"mixture.people": 0.5})
    entry = other.append(None, {"mixture.people": 0.5, "producers": 2})
    assert entry.from_step == 16 and log.settle(15) == ()  # settled before it was made, and not concerned
    assert log.settle(16) == (entry,) and log.read() == (entry,)
    with pytest.raises(ConfigError, match="'heldout_share' cannot be changed"):
        parse_changes(["heldout_share=0.5"])
    with pytest.raises(ConfigError, match="holds 'auto' and no keys"):
        amended(config(), [Amendment(0, {"producers.x": 1})])
    assert amended(config(), [entry]).mixture == {"people": 0.5}
    assert parse_changes(["producers=auto", "captions.raw=1e-1"]) == {"producers": "auto", "captions.raw": 0.1}
