"""The page's pieces: round ticks, curves inside the frame, sections that may have nothing to show."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glyphflow.cli import page
from glyphflow.cli.steps import StepRecord
from glyphflow.core.errors import InputError
from glyphflow.corpus.report.charts import round_values


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_ascending_and_inside(low: float, span: float) -> None:
    ticks = round_values(low, low + span, 4)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_the_curve_stays_in_the_frame() -> None:
    metrics = [{"step": step, "loss": 1.5 / step} for step in range(1, 60)] + [{"step": 30, "heldout_loss": 0.4}]
    svg = page.loss_chart(metrics)
    (curve,) = re.findall(r'points="([^"]+)" fill="none" stroke="#2f5bea"', svg)
    places = [tuple(map(float, pair.split(","))) for pair in curve.split()]
    assert len(places) == 59
    assert all(0 <= x <= page.CHART[0] and 0 <= y <= page.CHART[1] for x, y in places)
    assert places[0][1] < places[-1][1], "the loss falls, so the curve goes down the page"
    assert "heldout loss" in svg


def test_no_metrics_is_a_sentence() -> None:
    assert page.loss_chart([]) == "<p>No step was logged.</p>"


def test_first_and_last_preview_are_shown(tmp_path: Path) -> None:
    for step in range(10, 130, 10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"step_{step:06d}.png")
    strip = page.preview_strip(tmp_path, most=4)
    assert re.findall(r"after (\d+) steps", strip) == ["10", "50", "80", "120"]


def test_a_section_that_fails_does_not_take_the_page_with_it() -> None:
    def missing() -> str:
        raise InputError("There are no <scores> yet.")

    record = StepRecord(name="a", title="A & B", command="glyphflow a", key="k", state="failed", wall_s=2.0, peak_bytes=2**20)
    text = page.render_page(
        [page.Section("One", "", missing), page.Section("Two", "", lambda: "<p>here</p>")], {"n": "1"}, [record]
    )
    assert "There are no &lt;scores&gt; yet." in text
    assert "<p>here</p>" in text
    assert "A &amp; B (failed)" in text


@pytest.mark.parametrize("shape", [(8, 8, 3), (600, 300, 3)])
def test_pictures_travel_inside_the_page(shape: tuple[int, int, int]) -> None:
    html = page.annotated_samples([(np.zeros(shape, np.uint8), {"Caption": "a <b>", "Watermark List": []})])
    assert "data:image/jpeg;base64," in html
    assert "a &lt;b&gt;" in html
    assert "<dd>none</dd>" in html
