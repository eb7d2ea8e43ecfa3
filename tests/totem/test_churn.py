"""Nodes that start and leave in good order cost no other node a timeout, however close together they do so."""

import random

import pytest

from totem import State
from totem.testing.cluster import Cluster


@pytest.mark.parametrize("seed", range(4))
def test_starting_and_leaving_costs_nobody_a_timeout(seed):
    dice = random.Random(seed)
    cluster = Cluster(3, seed=seed)
    due = {node_id: dice.uniform(0, 0.5) for node_id in cluster.nodes}
    unsettled_since = {}
    while cluster.now < 30:
        cluster.run_for(0.005)
        for node_id, node in cluster.nodes.items():
            if node.running and node.machine.state is not State.OPERATIONAL:
                since = unsettled_since.setdefault(node_id, cluster.now)
                assert cluster.now - since < 1, f"node {node_id} has been without a ring since {since:.3f}"
            else:
                unsettled_since.pop(node_id, None)
            if cluster.now >= due[node_id] and node_id not in unsettled_since:
                (node.leave if node.running else node.start)()
                due[node_id] = cluster.now + dice.uniform(0.02, 0.5)
