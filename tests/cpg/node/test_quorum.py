"""The count of the votes by itself, against figures computed by hand from the rules of Corosync's votequorum(5)."""

import itertools
import math
import random

import pytest

from cpg.node.quorum import MOST_VOTES, Flag, NodeVotes, Param, Rules, State, Votequorum
from cpg.node.wire import Nodeinfo, Reconfigure, decode
from totem.config import Config, Quorum
from totem.errors import ConfigError

NO, YES = False, True


def config_of(*votes, **section):
    nodes = Config.for_nodes(len(votes)).nodes
    nodes = [node._replace(votes=its) for node, its in zip(nodes, votes, strict=True)]
    return Config(nodes=tuple(nodes), quorum=Quorum(provider="corosync_votequorum", **section))


class Cluster:
    """The counts of all nodes, which exchange the messages that they would send in rings."""

    def __init__(self, *votes, **section):
        self.config = config_of(*votes, **section)
        self.barriers = {}
        self.nodes = {}

    def __getitem__(self, node_id):
        """Return a node, which is started if it is down."""
        if node_id not in self.nodes:
            rules, _ = Rules.of(self.config, node_id)
            self.nodes[node_id] = Votequorum(
                node_id,
                rules,
                barrier=self.barriers.get(node_id, 0),
                remember=lambda votes: self.barriers.update({node_id: votes}),
            )
        return self.nodes[node_id]

    def ring(self, *members):
        for node_id in members:
            self[node_id].new_ring(members)
        said = [(node_id, decode(message)) for node_id in members for message in self[node_id].messages()]
        self.tell(members, said)
        for node_id in members:
            self[node_id].activate()

    def tell(self, members, said):
        for node_id in members:
            for sender, info in said:
                self[node_id].on_nodeinfo(sender, info)

    def kill(self, *node_ids):
        for node_id in node_ids:
            self.nodes.pop(node_id, None)

    def farewell(self, node_id, *members):
        self.tell(members, [(node_id, decode(message)) for message in self[node_id].farewell()])

    def change(self, param, value, *members, node_id=1):
        for member in members:
            self[member].on_reconfigure(Reconfigure(node_id, value, param))

    def wait(self, *members, now=100.0, seconds=10.0):
        """Begin and end the window of last_man_standing."""
        for node_id in members:
            self[node_id].advance(now)
            self[node_id].advance(now + seconds)

    def shows(self, quorate, expected, total, quorum, *members):
        """Compare the figures of all nodes: the first four of corosync-quorumtool."""
        for node_id in members:
            status = self[node_id].status()
            shown = (status.quorate, status.highest_expected, status.total_votes, status.quorum)
            assert (node_id, *shown) == (node_id, quorate, expected, total, quorum)


TABLE = {
    "one vote each": (
        ((1, 1, 1), {}),
        [((1,), NO, 3, 1, 2), ((1, 2), YES, 3, 2, 2), ((1, 2, 3), YES, 3, 3, 2), ((3,), NO, 3, 1, 2)],
    ),
    "four nodes": (
        ((1, 1, 1, 1), {}),
        [((1, 2, 3, 4), YES, 4, 4, 3), ((1, 2), NO, 4, 2, 3), ((3, 4), NO, 4, 2, 3), ((1, 3, 4), YES, 4, 3, 3)],
    ),
    "more votes than others": (
        ((1, 2, 1), {}),
        [((1, 2), YES, 4, 3, 3), ((1, 3), NO, 4, 2, 3), ((2,), NO, 4, 2, 3), ((1, 2, 3), YES, 4, 4, 3)],
    ),
    "no vote": (((1, 1, 1, 0), {}), [((1, 4), NO, 3, 1, 2), ((1, 2), YES, 3, 2, 2), ((1, 2, 3, 4), YES, 3, 3, 2)]),
    "more expected than listed": (
        ((1, 1, 1), {"expected_votes": 5}),
        [((1, 2), NO, 5, 2, 3), ((1, 2, 3), YES, 5, 3, 3)],
    ),
    "less expected than there": (
        ((1, 1, 1), {"expected_votes": 2}),
        [((1,), NO, 2, 1, 2), ((1, 2, 3), YES, 3, 3, 2), ((1, 2), YES, 3, 2, 2), ((1,), NO, 3, 1, 2)],
    ),
    "two nodes": (((1, 1), {"two_node": True}), [((1,), NO, 2, 1, 1), ((1, 2), YES, 2, 2, 1), ((2,), YES, 2, 1, 1)]),
    "two nodes that wait for nobody": (
        ((1, 1), {"two_node": True, "wait_for_all": False}),
        [((1,), YES, 2, 1, 1), ((2,), YES, 2, 1, 1)],
    ),
    "two_node with a third node": (
        ((1, 1, 1), {"two_node": True}),
        [((1, 2, 3), YES, 3, 3, 2), ((1, 2), YES, 3, 2, 1)],
    ),
    "all are waited for": (
        ((1, 1, 1), {"wait_for_all": True}),
        [
            ((1, 2), NO, 3, 2, 2),
            ((1, 2, 3), YES, 3, 3, 2),
            ((1, 2), YES, 3, 2, 2),
            ((1,), NO, 3, 1, 2),
            ((1, 2, 3), YES, 3, 3, 2),
        ],
    ),
    "who has lost quorum waits for all again": (
        ((1, 1, 1), {"wait_for_all": True}),
        [((1, 2, 3), YES, 3, 3, 2), ((1,), NO, 3, 1, 2), ((2,), NO, 3, 1, 2), ((1, 2), NO, 3, 2, 2)],
    ),
    "a tie goes to the lowest": (
        ((1, 1, 1, 1), {"auto_tie_breaker": True}),
        [((1, 2, 3, 4), YES, 4, 4, 3), ((1, 2), YES, 4, 2, 3), ((3, 4), NO, 4, 2, 3)],
    ),
    "a tie goes to the highest": (
        ((1, 1, 1, 1), {"auto_tie_breaker": True, "auto_tie_breaker_node": "highest"}),
        [((1, 2, 3, 4), YES, 4, 4, 3), ((1, 2), NO, 4, 2, 3), ((3, 4), YES, 4, 2, 3)],
    ),
    "a tie goes to the first of a list that can be told": (
        ((1, 1, 1, 1), {"auto_tie_breaker": True, "auto_tie_breaker_node": "2 3"}),
        [((1, 2, 3, 4), YES, 4, 4, 3), ((1, 2), YES, 4, 2, 3), ((3, 4), NO, 4, 2, 3)],
    ),
    "halves that start apart have no lowest": (
        ((1, 1, 1, 1), {"auto_tie_breaker": True}),
        [((1, 2), NO, 4, 2, 3), ((3, 4), NO, 4, 2, 3), ((1, 2, 3, 4), YES, 4, 4, 3)],
    ),
    "nor has one of two": (
        ((1, 1), {"auto_tie_breaker": True}),
        [((1,), NO, 2, 1, 2), ((2,), NO, 2, 1, 2), ((1, 2), YES, 2, 2, 2), ((2,), NO, 2, 1, 2), ((1,), YES, 2, 1, 2)],
    ),
    "no tie where the others may be quorate": (
        ((1,) * 5, {"auto_tie_breaker": True, "wait_for_all": True}),
        [((1, 2, 3, 4, 5), YES, 5, 5, 3), ((1, 2), NO, 5, 2, 3)],
    ),
    "an odd number of votes does break its tie in steps": (
        ((1,) * 5, {"auto_tie_breaker": True, "wait_for_all": True}),
        [((1, 2, 3, 4, 5), YES, 5, 5, 3), ((1, 2, 3, 4), YES, 5, 4, 3), ((1, 2), YES, 5, 2, 3)],
    ),
}


@pytest.mark.parametrize(("setting", "rings"), TABLE.values(), ids=TABLE.keys())
def test_figures(setting, rings):
    votes, section = setting
    cluster = Cluster(*votes, **section)
    for members, *figures in rings:
        cluster.ring(*members)
        cluster.shows(*figures, *members)


def test_figures_and_states_of_the_nodes():
    cluster = Cluster(1, 2, 1)
    cluster.ring(1, 2, 3)
    cluster.ring(1, 2)
    status = cluster[1].status()
    assert status.nodes == (
        NodeVotes(1, 1, 4, State.MEMBER),
        NodeVotes(2, 2, 4, State.MEMBER),
        NodeVotes(3, 1, 4, State.DEAD),
    )
    assert (status.expected_votes, status.options) == (4, ())


def test_who_comes_back_to_a_quorate_ring_need_not_wait_for_all():
    cluster = Cluster(1, 1, 1, wait_for_all=True)
    cluster.ring(1, 2, 3)
    cluster.kill(1)
    cluster.ring(2, 3)
    cluster.ring(1)
    cluster.shows(NO, 3, 1, 2, 1)
    cluster.kill(3)
    cluster.ring(1, 2)
    cluster.shows(YES, 3, 2, 2, 1, 2)


def test_a_node_that_loses_quorum_waits_at_once():
    cluster = Cluster(1, 1, 1, wait_for_all=True)
    cluster.ring(1, 2, 3)
    cluster[1].new_ring((1,))
    said = decode(cluster[1].messages()[0])
    assert said.flags == Flag.QUORATE
    cluster[1].on_nodeinfo(1, said)
    assert decode(cluster[1].messages()[0]).flags == Flag.WAITING


def test_an_administrator_ends_the_wait_for_all():
    cluster = Cluster(1, 1, 1, wait_for_all=True)
    cluster.ring(1, 2)
    cluster.change(Param.CANCEL_WAIT_FOR_ALL, 0, 1, 2)
    cluster.shows(YES, 3, 2, 2, 1, 2)


def test_an_administrator_expects_other_votes():
    cluster = Cluster(1, 1, 1)
    cluster.ring(1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 7, 1, 2, 3)
    cluster.shows(NO, 7, 3, 4, 1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 3, 1, 2, 3)
    cluster.shows(YES, 3, 3, 2, 1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 0, 1, 2, 3)
    cluster.shows(YES, 3, 3, 2, 1, 2, 3)


def test_who_comes_to_a_quorate_ring_expects_what_that_expects():
    cluster = Cluster(1, 1, 1)
    cluster.ring(1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 5, 1, 2, 3)
    cluster.kill(3)
    cluster.ring(3)
    cluster.shows(NO, 3, 1, 2, 3)
    cluster.ring(1, 2)
    cluster.shows(NO, 5, 2, 3, 1, 2)
    cluster.change(Param.NODE_VOTES, 2, 1, 2, node_id=2)
    cluster.shows(YES, 5, 3, 3, 1, 2)
    cluster.ring(1, 2, 3)
    cluster.shows(YES, 5, 4, 3, 1, 2, 3)


def test_an_administrator_changes_the_votes_of_one_node():
    cluster = Cluster(1, 1, 1)
    cluster.ring(1, 2, 3)
    cluster.change(Param.NODE_VOTES, 4, 1, 2, 3, node_id=3)
    cluster.shows(YES, 6, 6, 4, 1, 2, 3)
    cluster.ring(1, 2)
    cluster.shows(NO, 6, 2, 4, 1, 2)


def test_an_unknown_node_and_an_unknown_change_change_nothing():
    cluster = Cluster(1, 1)
    cluster.ring(1, 2)
    cluster.change(Param.NODE_VOTES, 9, 1, node_id=7)
    cluster.change(9, 9, 1)
    cluster.shows(YES, 2, 2, 2, 1)


def test_two_rings_are_quorate_where_an_odd_cluster_parts_twice():
    """As in Corosync: the two that break the tie know nothing of node 1, which makes the others the majority."""
    cluster = Cluster(1, 1, 1, 1, 1, wait_for_all=True, auto_tie_breaker=True, auto_tie_breaker_node="highest")
    for members in ((1, 2, 3, 4, 5), (1,), (2, 3, 4, 5), (4, 5), (1, 2, 3)):
        cluster.ring(*members)
    cluster.shows(YES, 5, 2, 3, 4, 5)
    cluster.shows(YES, 5, 3, 3, 1, 2, 3)


@pytest.mark.parametrize(("breaker", "stale", "other"), [("lowest", 1, 3), ("highest", 4, 2)])
def test_who_was_alone_breaks_ties_by_what_it_remembers(breaker, stale, other):
    """As in Corosync: the node takes itself for the former tie breaker, and is quorate in a ring whose other node is
    not.
    """
    cluster = Cluster(1, 1, 1, 1, auto_tie_breaker=True, auto_tie_breaker_node=breaker)
    cluster.ring(1, 2, 3, 4)
    rest = sorted({1, 2, 3, 4} - {stale})
    cluster.ring(stale)
    cluster.ring(*rest)
    cluster.ring(*sorted((stale, other)))
    winners = sorted(set(rest) - {other})
    cluster.ring(*winners)
    assert {k: cluster[k].quorate for k in (1, 2, 3, 4)} == {stale: True, other: False} | dict.fromkeys(winners, True)


def test_the_last_man_stands_when_each_had_its_time():
    cluster = Cluster(1, 1, 1, 1, last_man_standing=True, wait_for_all=True)
    cluster.ring(1, 2, 3, 4)
    assert cluster[1].deadline == math.inf
    cluster.ring(1, 2, 3)
    cluster.shows(YES, 4, 3, 3, 1, 2, 3)
    for node_id in (1, 2, 3):
        cluster[node_id].advance(50.0)
        assert cluster[node_id].deadline == 60.0
        cluster[node_id].advance(59.9)
    cluster.shows(YES, 4, 3, 3, 1, 2, 3)
    for node_id in (1, 2, 3):
        cluster[node_id].advance(60.0)
    cluster.shows(YES, 3, 3, 2, 1, 2, 3)
    cluster.ring(1, 2)
    cluster.wait(1, 2)
    cluster.shows(YES, 2, 2, 2, 1, 2)
    cluster.ring(1)
    cluster.wait(1)
    cluster.shows(NO, 2, 1, 2, 1)


def test_two_of_four_at_once_are_too_many_for_the_last_man():
    cluster = Cluster(1, 1, 1, 1, last_man_standing=True, wait_for_all=True)
    cluster.ring(1, 2, 3, 4)
    cluster.ring(1, 2)
    assert cluster[1].deadline == math.inf
    cluster.shows(NO, 4, 2, 3, 1, 2)


def test_the_last_man_of_all_stands_where_ties_are_broken():
    cluster = Cluster(1, 1, 1, 1, last_man_standing=True, auto_tie_breaker=True)
    cluster.ring(1, 2, 3, 4)
    cluster.ring(1, 2)
    cluster.shows(YES, 4, 2, 3, 1, 2)
    cluster.wait(1, 2)
    cluster.shows(YES, 2, 2, 2, 1, 2)
    cluster.ring(1)
    cluster.shows(YES, 2, 1, 2, 1)
    cluster.wait(1)
    cluster.shows(YES, 1, 1, 1, 1)


def test_nobody_is_the_last_man_where_somebody_has_two_votes():
    cluster = Cluster(1, 1, 2, last_man_standing=True, wait_for_all=True)
    cluster.ring(1, 2, 3)
    assert "last_man_standing" not in cluster[1].status().options
    cluster.ring(2, 3)
    assert cluster[2].deadline == math.inf


def test_who_leaves_in_order_is_counted_out_but_not_below_what_was_expected_at_the_start():
    cluster = Cluster(1, 1, 1, 1, allow_downscale=True)
    cluster.ring(1, 2, 3, 4)
    cluster.farewell(4, 1, 2, 3, 4)
    assert cluster[4].has_left
    cluster.shows(YES, 3, 3, 3, 1, 2, 3)
    assert cluster[1].status().nodes[3].state is State.LEAVING
    cluster.ring(1, 2, 3)
    cluster.kill(4)
    cluster.change(Param.EXPECTED_VOTES, 2, 1, 2, 3)  # now it may go down to 2
    cluster.farewell(3, 1, 2, 3)
    cluster.shows(YES, 2, 2, 2, 1, 2)


def test_without_allow_downscale_nothing_is_said_at_the_end():
    cluster = Cluster(1, 1)
    cluster.ring(1, 2)
    assert cluster[1].farewell() == []


def test_the_highest_number_ever_expected_outlives_a_restart():
    cluster = Cluster(1, 1, 1, expected_votes_tracking=True)
    cluster.ring(1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 5, 1, 2, 3)
    cluster.change(Param.EXPECTED_VOTES, 3, 1, 2, 3)
    cluster.shows(YES, 5, 3, 3, 1, 2, 3)
    cluster.kill(1, 2, 3)
    assert cluster.barriers == {1: 5, 2: 5, 3: 5}
    cluster.ring(1, 2, 3)
    cluster.shows(YES, 5, 3, 3, 1, 2, 3)


def test_the_device_of_another_node_raises_what_is_expected():
    cluster = Cluster(1, 1, 1)
    cluster.ring(1, 2, 3)
    cluster[1].on_nodeinfo(2, Nodeinfo(0, 2, 0, 0))
    cluster.shows(YES, 5, 3, 3, 1)
    cluster[1].on_nodeinfo(2, Nodeinfo(0, 1, 0, 0))  # fewer count only from a quorate node at others
    assert decode(cluster[1].messages()[1]) == Nodeinfo(0, 2, 0, 0)


def test_hostile_figures_harm_no_more_than_a_vote_can():
    cluster = Cluster(1, 1, 1, expected_votes_tracking=True)
    cluster.ring(1, 2, 3)
    cluster.tell((1,), [(2, Nodeinfo(2, MOST_VOTES, MOST_VOTES, 0xFFFF_FF00))])
    cluster.tell((1,), [(3, Nodeinfo(3, MOST_VOTES, MOST_VOTES, 0xFFFF_FF00)), (3, Nodeinfo(0, MOST_VOTES, 9, 9))])
    assert cluster.barriers[1] == MOST_VOTES
    assert cluster[1].status().total_votes == 2 * MOST_VOTES + 1
    assert decode(cluster[1].messages()[0]).expected_votes == MOST_VOTES
    cluster.change(Param.NODE_VOTES, MOST_VOTES, 1)
    cluster.change(Param.EXPECTED_VOTES, MOST_VOTES, 1)
    cluster.ring(1, 2, 3)


def test_a_member_speaks_for_itself_and_nobody_else_at_all():
    cluster = Cluster(1, 1, 1)
    cluster.ring(1, 2)
    before = cluster[1].status()
    cluster[1].on_nodeinfo(2, Nodeinfo(1, 9, 9, Flag.QUORATE))
    cluster[1].on_nodeinfo(2, Nodeinfo(3, 9, 9, Flag.QUORATE))
    cluster[1].on_nodeinfo(3, Nodeinfo(3, 9, 9, Flag.QUORATE))
    cluster[1].on_nodeinfo(3, Nodeinfo(0, 9, 9, Flag.QUORATE))
    assert cluster[1].status() == before


def test_nodes_that_come_and_go_for_ever_take_no_more_room_than_a_ring_does():
    cluster = Cluster(1, 1, 1)
    for node_id in range(4, 1000):
        cluster[1].new_ring((1, node_id))
        cluster[1].on_nodeinfo(node_id, Nodeinfo(node_id, 1, 3, 0))
    assert len(cluster[1].status().nodes) <= 3


@pytest.mark.parametrize(
    ("votes", "section", "rules", "warning"),
    [
        ((1, 1), {"two_node": True}, {"wait_for_all": True}, ""),
        ((1, 1), {"two_node": True, "wait_for_all": False}, {"wait_for_all": False}, ""),
        ((1, 1), {"two_node": True, "auto_tie_breaker": True}, {"two_node": False, "wait_for_all": True}, "two_node"),
        ((1, 1, 1), {"auto_tie_breaker": True}, {"tie_breaker": ""}, "auto_tie_breaker needs wait_for_all"),
        ((1, 1, 2), {"auto_tie_breaker": True}, {"tie_breaker": "lowest"}, ""),
        ((1, 1, 1), {"auto_tie_breaker": True, "wait_for_all": True}, {"tie_breaker": "lowest"}, ""),
        ((1, 2), {}, {"votes": 1, "expected_votes": 3}, ""),
        ((1, 2), {"expected_votes": 9}, {"expected_votes": 9}, ""),
        ((1, 2), {"expected_votes": 9, "expected_votes_tracking": True}, {"expected_votes": 3}, ""),
        ((1, 2), {"allow_downscale": True}, {"tracking": True}, ""),
    ],
)
def test_options_that_imply_and_exclude_each_other(votes, section, rules, warning):
    read, warnings = Rules.of(config_of(*votes, **section), 1)
    assert {name: getattr(read, name) for name in rules} == rules
    assert [warning in told for told in warnings] == ([True] if warning else [])


@pytest.mark.parametrize(
    ("votes", "section", "words"),
    [
        ((1, 1), {"auto_tie_breaker_node": "first"}, ["auto_tie_breaker_node", "first", "lowest"]),
        ((1, 1), {"auto_tie_breaker_node": "1 3"}, ["auto_tie_breaker_node", "1 3", "nodelist"]),
        ((1, 1), {"auto_tie_breaker_node": ""}, ["auto_tie_breaker_node", "nodelist"]),
        ((1, 1), {"expected_votes": 2**32}, ["expected_votes", "4294967296"]),
        ((2**32 - 1, 1), {}, ["quorum_votes of all nodes", "4294967296"]),
        ((1, 1, 1), {"auto_tie_breaker": True, "last_man_standing": True}, ["last_man_standing", "wait_for_all"]),
        (
            (1, 1, 1),
            {"auto_tie_breaker": True, "last_man_standing": True, "two_node": True, "wait_for_all": False},
            ["last_man_standing", "wait_for_all"],
        ),
    ],
)
def test_sections_that_cannot_be(votes, section, words):
    with pytest.raises(ConfigError) as caught:
        config_of(*votes, **section)
    assert all(word in str(caught.value) for word in words), str(caught.value)


class Life:
    """A cluster that splits and merges at random; nodes crash, restart, and get other votes."""

    def __init__(self, seed):
        self.dice = dice = random.Random(seed)
        count = dice.randint(2, 7)
        votes = [dice.choice((1, 1, 1, 2, 3, 0)) for _ in range(count - 1)] + [1]
        section = {name: dice.random() < 0.3 for name in ("wait_for_all", "expected_votes_tracking", "allow_downscale")}
        section["expected_votes"] = dice.choice((0, 0, sum(votes), sum(votes) + 1))
        self.cluster = Cluster(*votes, **section)
        self.rings = []

    def step(self):
        """Form another partition of the running nodes."""
        nodes = list(range(1, len(self.cluster.config.nodes) + 1))
        crashed = {node_id for node_id in nodes if self.dice.random() < 0.1}
        self.cluster.kill(*crashed)
        up = [node_id for node_id in nodes if node_id not in crashed]
        self.dice.shuffle(up)
        cuts = sorted(self.dice.randint(0, len(up)) for _ in range(self.dice.choice((0, 1, 1, 2))))
        edges = itertools.pairwise([0, *cuts, len(up)])
        self.rings = [tuple(sorted(up[low:high])) for low, high in edges if low < high]
        for members in self.rings:
            self.cluster.ring(*members)

    def quorate(self, members):
        """Return each node's view of its ring."""
        return {self.cluster[node_id].quorate for node_id in members}


@pytest.mark.parametrize("seed", range(300))
def test_members_of_a_ring_agree_and_no_two_rings_are_quorate(seed):
    life = Life(seed)
    for _ in range(40):
        life.step()
        assert sum(True in life.quorate(members) for members in life.rings) <= 1, life.rings
        if not life.cluster.config.quorum.wait_for_all:  # see the next test
            assert all(len(life.quorate(members)) == 1 for members in life.rings), life.rings
    life.rings = [tuple(range(1, len(life.cluster.config.nodes) + 1))]
    life.cluster.ring(*life.rings[0])
    votes = sum(node.votes for node in life.cluster.config.nodes)
    if life.cluster[1].status().expected_votes == votes:
        assert life.quorate(life.rings[0]) == {True}


def test_who_loses_one_and_gets_another_at_once_waits_again_and_the_other_does_not():
    """As in Corosync: node 1 gets its own votes first, which are too few, and then waits for all."""
    cluster = Cluster(1, 1, 1, wait_for_all=True)
    cluster.ring(1, 2, 3)
    cluster.kill(3)
    cluster.ring(1, 2)
    cluster.kill(2)
    cluster.ring(1, 3)
    assert [cluster[1].quorate, cluster[3].quorate] == [False, True]
    cluster.ring(1, 3)
    cluster.shows(YES, 3, 2, 2, 1, 3)
