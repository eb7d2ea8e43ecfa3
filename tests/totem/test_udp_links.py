"""The links machine on the sockets of udpu and udp, in virtual time: what people and programs see of the links."""

import logging

import pytest

from tests.totem.places import at_addresses
from totem.udp import UdpEndpoint

STEP = 0.01


class Ring:
    """Endpoints of nodes 1 to 3, which see a clock that the test moves."""

    def __init__(self, transport):
        self.now = 100.0
        self.config = at_addresses(3, transport=transport)
        self.endpoints = {node.node_id: UdpEndpoint(self.config, node.node_id) for node in self.config.nodes}
        self.states = []
        """What node 1 was told of its links."""
        self.mute = set()
        """Nodes whose datagrams nobody reads."""
        self.endpoints[1].on_link = self.states.append
        for endpoint in self.endpoints.values():
            endpoint.ping((1, 2, 3), self.now)

    def run(self, seconds):
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for _ in range(3):  # asked, answered, and what follows from the answer
                for endpoint in self.endpoints.values():
                    for datagram in endpoint.drain(100):
                        if int.from_bytes(datagram[6:10], "little") not in self.mute:
                            endpoint.hear(datagram, self.now)
            for endpoint in self.endpoints.values():
                if endpoint.deadline <= self.now:
                    endpoint.advance(self.now)


@pytest.fixture(params=["udpu", "udp"])
def ring(request):
    ring = Ring(request.param)
    yield ring
    for endpoint in ring.endpoints.values():
        endpoint.close()


@pytest.fixture
def lines(caplog):
    """The lines about links so far, of node 1 alone."""
    caplog.set_level(logging.INFO, "totem.link_log")
    return lambda: [
        (record.levelname, record.getMessage()) for record in caplog.records if record.getMessage().startswith("node 1")
    ]


def test_links_come_up_carry_packets_and_go_down(ring, lines):
    ring.run(2)
    assert [(state.node_id, state.link, state.is_up, state.mtu) for state in ring.endpoints[1].link_states()] == [
        (2, 0, True, 1500),
        (3, 0, True, 1500),
    ]
    assert ring.states[-1].mtu == 1500
    for node_id in (2, 3):
        assert ("INFO", f"node 1: link 0 to node {node_id} is up, after 0.0 s down") in lines()
        assert ("INFO", f"node 1: link 0 to node {node_id} carries packets of 1500 bytes") in lines()
    ring.mute = {2}
    ring.run(2)
    (level, text) = lines()[-1]
    assert level == "WARNING"
    assert text.startswith("node 1: link 0 to node 2 is down, after ")
    assert text.endswith(" s up: node 2 cannot be reached")
    assert not ring.states[-1].is_up
    ring.mute = set()
    ring.run(2)
    assert ring.endpoints[1].link_states()[0].is_up


def test_a_node_that_is_heard_but_does_not_answer_is_named_so(ring, lines):
    ring.run(2)
    heard = ring.endpoints[2].hear
    ring.endpoints[2].hear = lambda datagram, now: datagram[6] == 1 or heard(datagram, now)
    ring.run(2)
    assert lines()[-1][1].endswith(": node 2 is heard, but answers nothing, as if it did not hear this node")
    assert ring.states[-1].hears


def test_a_node_whose_machine_refuses_is_named_so(ring, lines):
    ring.run(2)
    ring.mute = {2}
    ring.endpoints[1].probing.unreachable(2, ring.now)
    ring.run(0.5)
    refused = "does not answer, and its machine refuses packets, as if nobody listened there"
    assert lines()[-1][1].endswith(f": node 2 {refused}")


def test_a_node_that_has_left_is_named_so_and_pinged_no_more(ring, lines):
    ring.run(2)
    ring.endpoints[1].ping({3}, ring.now)
    assert lines()[-1][0] == "INFO"
    assert lines()[-1][1].endswith(": node 2 has left, or is of another make")
    assert [state.is_up for state in ring.endpoints[1].link_states()] == [False, True]
    ring.endpoints[2].drain(1000)
    ring.run(2)
    ring.endpoints[1].ping({2, 3}, ring.now)
    ring.run(1)
    assert [state.ups for state in ring.endpoints[1].link_states()] == [2, 1]


def test_frames_go_in_pieces_where_the_path_is_narrow(ring):
    ring.run(2)
    got = {node_id: [] for node_id in ring.endpoints}
    for node_id, endpoint in ring.endpoints.items():
        endpoint.probing.on_whole = lambda datagram, now, node_id=node_id: got[node_id].append(datagram)
    ring.endpoints[1].probing.narrow[3] = 600
    train = [bytes([k]) * 1400 for k in range(5)] + [b"small" * 10]
    ring.endpoints[1].send(0, train)
    ring.endpoints[1].send(3, train[:1])
    ring.endpoints[1].send(2, train[:1])
    whole = {node_id: [] for node_id in (2, 3)}
    for node_id, frames in whole.items():
        for datagram in ring.endpoints[node_id].drain(1000):
            if not ring.endpoints[node_id].hear(datagram, ring.now):
                frames.append(datagram)
    assert sorted(whole[2]) == sorted([*train, train[0]])
    assert got[2] == []
    assert got[3] == [*train[:5], train[0]]
    assert b"small" * 10 in whole[3]
