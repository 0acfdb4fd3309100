"""What the whole suite has in common: several workers side by side, the longest files first, nothing of this user's touched."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports PyTorch: workers share the cores, and a test that is about threads sets their number itself.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

LONGEST = (
    "cli/test_cli_demo.py",
    "train/test_parallel_training.py",
    "train/test_faults_runs.py",
    "feed/test_feed_transports.py",
    "corpus/test_runner_elsewhere.py",
    "plan/test_plan_card.py",
    "train/test_train_runs.py",
    "train/test_checkpoint_layouts.py",
    "train/test_train_curriculum.py",
    "generate/test_speed.py",
)
"""Files that take longest, as CI's log of durations says; the others follow in their order. A wrong entry costs seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker begins one when the others are at their end."""
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A memory of this worker's own for what is kept between runs, and where files lie: none finds the user's by its hash."""
    for name in ("XDG_CACHE_HOME", "GLYPHFLOW_CACHE"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
