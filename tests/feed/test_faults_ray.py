"""A node of a Ray cluster that is lost takes nothing with it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from feed_plans import Arithmetic, arithmetic_plan

from glyphflow.feed.transport import open_transport

FAST = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.mark.slow
def test_a_lost_node_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # nodes find the feed of the tests, too
    store = 80 << 20
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "object_store_memory": store, "_system_config": FAST})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
    whole = Arithmetic(4, 64, 0.0, -1, -1, str(tmp_path))
    try:
        ray.init(cluster.address, log_to_driver=False)
        plan = arithmetic_plan(tmp_path / "marks", side=64, seconds=0.02)
        with open_transport("ray", plan, producers=2, depth=4, log=tmp_path / "feed.jsonl") as transport:
            for step in range(120):
                if step == 60:
                    assert len(list((tmp_path / "marks").iterdir())) == 2  # one actor on each node
                    cluster.remove_node(nodes[0], allow_graceful=False)  # with an actor and the batches that lie there
                    while any(node["Alive"] and node["NodeID"] == nodes[0].node_id for node in ray.nodes()):
                        time.sleep(0.05)  # until the cluster knows, orders go on to a node that will be lost at any later step
                batch, _ = transport.next()
                assert batch.step == step and torch.equal(batch.pixels, whole.batch(step).pixels)
        lost = [line for line in map(json.loads, (tmp_path / "feed.jsonl").read_text().splitlines()) if "lost" in line]
        assert {line["step"] for line in lost} <= set(range(60, 70)) and "actor" in lost[0]["lost"]
    finally:
        ray.shutdown()
        cluster.shutdown()
