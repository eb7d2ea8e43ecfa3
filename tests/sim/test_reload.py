"""Nodes that come and go while the ring runs: configurations that are reloaded at different moments."""

import random
from dataclasses import replace

import pytest

from totem.config import Config, Knet, LinkSettings
from totem.configuration import RegularConfiguration
from totem.testing.checkers import check
from totem.testing.cluster import Cluster

KINDS = {
    "udpu": {},
    "udp": {"transport": "udp"},
    "knet": {"transport": "knet", "knet": Knet(links=(LinkSettings(0), LinkSettings(1)))},
}


def without(config, *node_ids):
    """Return the configuration of a file that lacks these nodes."""
    return replace(
        config,
        nodes=tuple(entry for entry in config.nodes if entry.node_id not in node_ids),
        **dict.fromkeys(("token", "token_retransmit", "hold", "consensus"), 0),
    )


def running(count, *absent, **kwargs):
    """Return a cluster of `count` nodes, without those that are in nobody's file yet, and the whole configuration."""
    kind = KINDS[kwargs.pop("kind", "udpu")]
    config = Config.for_nodes(count, **kind)
    cluster = Cluster(count, config=config, **kwargs)
    present = [node_id for node_id in cluster.nodes if node_id not in absent]
    for node_id in present:
        cluster[node_id].config = without(config, *absent)
    cluster.start(*present)
    cluster.form()
    cluster.run_for(1.0)
    return cluster, config


def rings(cluster, node_id):
    """Return the members of all rings of the present process of a node."""
    return [event.members for event in cluster.configurations(node_id) if isinstance(event, RegularConfiguration)]


def chatter(cluster, seconds, step=0.005):
    """Let all nodes send for a while."""
    end = cluster.now + seconds
    while cluster.now < end:
        for node in cluster.running:
            node.try_send([node.compose(200) for _ in range(3)])
        cluster.run_for(step)


def judge(cluster):
    assert cluster.settle(), str(cluster)
    problems = check(cluster.history(quiescent=True))
    assert not problems, "\n".join(map(str, problems))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [4, 9])
def test_a_node_is_added_and_removed_under_load(kind, count):
    """Files first, in any order; then the node starts. It stops; then files, in any order. No other change of ring."""
    dice = random.Random(count)
    cluster, config = running(count, count, kind=kind, seed=count)
    others, new = tuple(range(1, count)), count
    before = {node_id: len(rings(cluster, node_id)) for node_id in others}
    for node_id in dice.sample(others, len(others)):
        cluster[node_id].reload(config)
        chatter(cluster, 0.1)
    cluster.start(new)
    chatter(cluster, 1.0)
    assert cluster.one_ring(*others, new)
    cluster[new].leave()
    chatter(cluster, 1.0)
    for node_id in dice.sample(others, len(others)):
        cluster[node_id].reload(without(config, new))
        chatter(cluster, 0.1)
    chatter(cluster, 1.0)
    for node_id in others:
        assert rings(cluster, node_id)[before[node_id] :] == [(*others, new), others]
    judge(cluster)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_removed_stays_until_it_stops_and_is_not_let_in_again(kind):
    a_removed_member_stays(kind)


def a_removed_member_stays(kind="udpu"):
    cluster, config = running(4, kind=kind)
    before = len(rings(cluster, 1))
    for node_id in (1, 2, 3):
        cluster[node_id].reload(without(config, 4))
        chatter(cluster, 0.1)
    chatter(cluster, 6.0, step=0.02)
    assert len(rings(cluster, 1)) == before
    assert cluster.one_ring(1, 2, 3, 4)
    cluster[4].crash()
    cluster.form(1, 2, 3)
    chatter(cluster, 0.5)
    assert [entry.node_id for entry in cluster[1].machine.config.nodes] == [1, 2, 3]
    cluster.start(4)
    chatter(cluster, 20.0, step=0.05)
    assert rings(cluster, 1)[before:] == [(1, 2, 3)]
    cluster[4].leave()
    judge(cluster)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_a_node_that_starts_before_all_list_it_breaks_the_ring_at_most_once_a_reload(kind, order):
    a_node_starts_before_all_list_it(kind, order)


def a_node_starts_before_all_list_it(kind="udpu", order=(1, 2, 3)):
    cluster, config = running(4, 4, kind=kind)
    before = len(rings(cluster, 1))
    cluster.start(4)
    cluster.run_for(1.0)
    for number, node_id in enumerate(order, 1):
        assert cluster.one_ring(1, 2, 3)
        cluster[node_id].reload(config)
        chatter(cluster, 20.0, step=0.05)
        assert len(rings(cluster, 1)) - before <= number
        before = max(before, len(rings(cluster, 1)) - number)
    assert cluster.one_ring(1, 2, 3, 4)
    judge(cluster)


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_starts_again_while_some_list_it_no_more(kind):
    cluster, config = running(4, kind=kind)
    cluster[4].leave()
    cluster.form(1, 2, 3)
    before = len(rings(cluster, 1))
    cluster[2].reload(without(config, 4))
    cluster.start(4)
    chatter(cluster, 30.0, step=0.05)
    assert cluster.one_ring(1, 2, 3)
    assert len(rings(cluster, 1)) <= before + 1
    cluster[2].reload(config)
    cluster.form(1, 2, 3, 4)
    judge(cluster)


def test_a_node_with_an_old_file_is_kept_out_of_the_ring_that_is_good():
    cluster, config = running(4, 4)
    cluster[3].leave()
    cluster.form(1, 2)
    for node_id in (1, 2):
        cluster[node_id].reload(config)
    cluster.start(4)
    cluster.form(1, 2, 4)
    before = len(rings(cluster, 1))
    cluster.start(3)  # its file lacks node 4
    chatter(cluster, 30.0, step=0.05)
    assert cluster.one_ring(1, 2, 4)
    assert len(rings(cluster, 1)) == before
    cluster[3].reload(config)
    cluster.form(1, 2, 3, 4)
    judge(cluster)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_reloads_between_crashes_and_partitions(kind, seed):
    """A node is added and later removed as the documents say, while others crash, are parted, and start again."""
    dice = random.Random(f"{kind} {seed}")
    count = dice.randint(4, 9)
    cluster, config = running(count, count, kind=kind, seed=seed)
    others, new = list(range(1, count)), count

    def trouble():
        chatter(cluster, dice.uniform(0.1, 1.0), step=0.02)
        match dice.choice(("crash", "part", "nothing", "nothing")):
            case "crash":
                node = cluster[dice.choice(others)]
                node.crash(dice.choice((0, 3)))
                chatter(cluster, dice.uniform(0.1, 6.0), step=0.05)
                if node.running:
                    node.crash()
                node.start()
            case "part":
                part = set(dice.sample(list(cluster.nodes), dice.randint(1, count - 1)))
                cluster.network.partition(part, set(cluster.nodes) - part)
                chatter(cluster, dice.uniform(0.1, 6.0), step=0.05)
                cluster.network.heal()

    def reload_all(new_config):
        for node_id in dice.sample(others, len(others)):
            cluster[node_id].reload(new_config)
            trouble()

    reload_all(config)
    cluster.start(new)
    cluster.form(limit=200.0)
    trouble()
    cluster.form(limit=200.0)
    cluster[new].leave()
    cluster.form(limit=200.0)
    reload_all(without(config, new))
    cluster.form(*others, limit=200.0)
    judge(cluster)
