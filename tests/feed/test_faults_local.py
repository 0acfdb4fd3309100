"""Producers that die are named in the log of the feed, which is read in spite of lines that a kill cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from feed_plans import arithmetic_plan

from glyphflow.core.errors import InputError
from glyphflow.feed.transport import open_transport
from glyphflow.plan.producers import read_rates


def test_the_log_names_producers_that_died_and_where(tmp_path: Path) -> None:
    log = tmp_path / "feed.jsonl"
    log.write_text('{"side": 64, "pictures": 4, "seconds": 2.0}\n{"side": 64, "pict\n')
    with open_transport("local", arithmetic_plan(tmp_path, die_at=1), producers=1, log=log) as transport:
        assert transport.next()[0].step == 0
        with pytest.raises(InputError, match="died 3 times at step 1"):
            transport.next()
    found = [json.loads(line) for line in log.read_text().splitlines()[2:]]
    assert found == [{"step": 1, "lost": f"producer-{number}, exit code 7"} for number in range(3)]
    assert read_rates(log) == {64: 2.0}
