"""Verdicts as judges give them, made by hand; and looking up a metric by its name and part."""

from collections.abc import Sequence
from typing import Any

from glyphflow.evaluate.benchmark import Metric
from glyphflow.evaluate.case import Verdict, failed

TIMEOUT = failed("hand", "timeout", "no answer within 60 s")


def said(value: Any) -> Verdict:
    """A judge's answer."""
    return Verdict("ok", value, {}, "hand")


def read(*lines: str) -> Verdict:
    """What an OCR judge read."""
    return said([{"text": text, "box": [], "confidence": 0.9, "whole": False} for text in lines])


def pick(metrics: Sequence[Metric], name: str, variant: str = "official", **part: str) -> Metric:
    """The only metric with this name, variant and dimensions."""
    found = [
        metric
        for metric in metrics
        if metric.identity.name == name
        and metric.identity.variant == variant
        and dict(metric.identity.dimensions).items() >= part.items()
    ]
    assert len(found) == 1, [str(metric.identity) for metric in metrics]
    return found[0]
