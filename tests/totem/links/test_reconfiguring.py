"""Links machines that take other nodes, links and settings while they run."""

from dataclasses import replace

import pytest

from tests.totem.links.nets import Net, config
from tests.totem.links.test_probing import Ring
from totem.config import LinkSettings
from totem.links.trials import INTERVAL, SECONDS

AT_MOST = 2 * round(SECONDS / INTERVAL)
"""Pings of a trial."""


def without(whole, node_id):
    return replace(whole, nodes=tuple(entry for entry in whole.nodes if entry.node_id != node_id))


def reconfigure(net, chosen, *node_ids):
    for node_id in node_ids:
        net[node_id].reconfigure(chosen, net.now)
        net.flush(node_id)


def up(net, node_id):
    return [(state.node_id, state.link) for state in net[node_id].states() if state.is_up]


def test_nodes_over_knet():
    whole = config(3)
    net = Net(whole, configs={1: without(whole, 3), 2: without(whole, 3)}).start(1, 2)
    net.run(2.0)
    reconfigure(net, whole, 1, 2)
    assert up(net, 1) == [(2, 0)]
    net.start(3)
    net.run(2.0)
    assert up(net, 1) == [(2, 0), (3, 0)]
    net.send(1, 3, b"." * 100)
    net.run(0.1)
    assert len(net.received[3]) == 1
    reconfigure(net, without(whole, 3), 1, 2)
    net.run(2.0)
    assert up(net, 1) == [(2, 0)]
    assert not [
        change for _, node, change in net.changes if node == 1 and change.node_id == 2 and "down" in str(change)
    ]


def test_a_link_over_knet_is_added_and_removed():
    one, two = config(2), config(2, 2)
    net = Net(two, configs={1: one, 2: one}).start()
    net.run(2.0)
    reconfigure(net, two, 1, 2)
    net.run(2.0)
    assert up(net, 1) == [(2, 0), (2, 1)]
    slower = replace(two, knet=replace(two.knet, links=(LinkSettings(0, priority=1), LinkSettings(1, priority=9))))
    reconfigure(net, slower, 1)
    assert net[1]._peers[2].chosen == (1,)
    reconfigure(net, one, 1, 2)
    assert up(net, 1) == [(2, 0)]
    net.send(1, 2, b"." * 100)
    net.run(0.1)
    assert len(net.received[2]) == 1


def test_another_address_is_another_path():
    net = Net(config(2)).start()
    net.run(2.0)
    moved = replace(net.config, nodes=(net.config.nodes[0], net.config.nodes[1]._replace(address="10.0.0.77")))
    net[1].reconfigure(moved, net.now)
    assert up(net, 1) == []


def test_what_is_under_way_to_a_node_that_is_removed_is_forgotten():
    net = Net(config(3)).start()
    net.run(2.0)
    links = net[1]
    ended = []
    links.trials.on_end = lambda *end: ended.append(end)
    links.try_nodes([3], net.now)
    links.unreachable(0, 3, net.now)
    links.reconfigure(without(net.config, 3), net.now)
    links.unreachable(0, 3, net.now)
    links.too_large(0, 3, 1200, net.now)
    for count in range(AT_MOST):
        links.advance(net.now + INTERVAL * count)
    assert {departure.node_id for departure in links.take()} <= {2}
    assert {change.node_id for change in links.take_changes()} <= {2}
    assert ended == []


def test_the_same_on_udpu_and_udp():
    ring = Ring().form(1, 2, 3)
    probing = ring.members[1]
    ended = []
    probing.trials.on_end = lambda *end: ended.append(end)
    probing.try_nodes([3], ring.now)
    probing.reconfigure(without(ring.config, 3), ring.now)
    probing.unreachable(3, ring.now)
    for count in range(AT_MOST):
        probing.advance(ring.now + INTERVAL * count)
    assert {node_id for node_id, _ in probing.take()} <= {2}
    assert ended == []


@pytest.mark.parametrize("fixed", [1200, 0])
def test_the_mtu_that_is_configured(fixed):
    found = config(2)
    set_by_hand = replace(found, knet=replace(found.knet, mtu=1200))
    before, after = (found, set_by_hand) if fixed else (set_by_hand, found)
    net = Net(before).start()
    net.run(3.0)
    reconfigure(net, after, 1, 2)
    net.run(3.0)
    assert net[1].state(2, 0).mtu == (fixed or net.mtu)
    assert net[1].is_reachable(2)
