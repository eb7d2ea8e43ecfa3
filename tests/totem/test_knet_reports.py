"""The sockets of knet over loopback, in virtual time: what people and programs see of the links."""

import logging

import pytest

from tests.totem.places import knet_at_addresses
from totem.knet import KnetEndpoint
from totem.link_log import MOST_LINES
from totem.links.path import SMALLEST_MTU
from totem.log_pacing import INTERVAL

STEP = 0.01


class Ring:
    """Endpoints of nodes 1 and 2, which see a clock that the test moves."""

    def __init__(self, links=1, **settings):
        self.now = 100.0
        self.config = knet_at_addresses(2, links, **settings)
        self.endpoints = {}
        self.deaf = set()
        """Nodes that read nothing."""
        self.states = []
        """What node 1 was told of its links."""
        self.start(1)
        self.endpoints[1].on_link = self.states.append

    def start(self, node_id):
        endpoint = self.endpoints[node_id] = KnetEndpoint(self.config, node_id, clock=lambda: self.now)
        endpoint.start(self.now)

    def stop(self, node_id):
        self.endpoints.pop(node_id).close()

    def run(self, seconds):
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            for _ in range(3):  # asked, answered, and what follows from the answer
                for node_id, endpoint in self.endpoints.items():
                    if node_id not in self.deaf:
                        endpoint.drain(100)
            for node_id, endpoint in self.endpoints.items():
                if endpoint.deadline <= self.now and node_id not in self.deaf:
                    endpoint.advance(self.now)

    def close(self):
        for node_id in list(self.endpoints):
            self.stop(node_id)


@pytest.fixture
def make_ring():
    rings = []

    def make(links=1, **settings):
        rings.append(Ring(links, **settings))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


@pytest.fixture
def lines(caplog):
    """The lines about links so far, of node 1 alone."""
    caplog.set_level(logging.INFO, "totem.link_log")
    return lambda: [
        (record.levelname, record.getMessage()) for record in caplog.records if record.getMessage().startswith("node 1")
    ]


def test_a_link_comes_up_carries_packets_and_goes_down(make_ring, lines):
    ring = make_ring()
    ring.run(1)
    assert lines() == ring.states == []
    ring.start(2)
    ring.run(11)
    up, *_, good = ring.states
    assert (up.node_id, up.link, up.is_up, up.mtu) == (2, 0, True, SMALLEST_MTU)
    assert good.is_up
    assert good.mtu > 1500
    assert good.since == up.since
    (now,) = ring.endpoints[1].link_states()
    assert now[:6] == good[:6]
    assert lines() == [
        ("INFO", f"node 1: link 0 to node 2 is up, after {up.since - 100:.1f} s down"),
        ("INFO", f"node 1: link 0 to node 2 carries packets of {good.mtu} bytes"),
    ]
    ring.deaf.add(2)
    ring.run(2)
    down = ring.states[-1]
    assert (down.is_up, down.mtu, down.downs) == (False, 0, 1)
    assert lines()[2:] == [
        (
            "WARNING",
            f"node 1: link 0 to node 2 is down, after {down.since - up.since:.1f} s up: node 2 cannot be reached",
        )
    ]


@pytest.mark.parametrize(("links", "left"), [(2, "link 1"), (3, "links 1 2")])
def test_what_is_left_when_a_link_is_down(make_ring, lines, monkeypatch, links, left):
    ring = make_ring(links)
    ring.start(2)
    ring.run(12)
    two = ring.endpoints[2]
    monkeypatch.setattr(
        two, "_depart", lambda departure, now: departure.link and KnetEndpoint._depart(two, departure, now)
    )
    ring.run(2)
    (level, text) = lines()[-1]
    assert level == "WARNING"
    assert text.startswith("node 1: link 0 to node 2 is down, after ")
    assert text.endswith(f" s up: node 2 is reached over {left}")


def test_a_link_that_comes_and_goes_does_not_fill_the_log(make_ring, lines):
    ring = make_ring(mtu=1500)
    times = 2 * MOST_LINES
    for _ in range(times):
        ring.start(2)
        ring.run(2)
        ring.stop(2)
        ring.run(1)
    assert [state.is_up for state in ring.states] == [True, False] * times
    assert len(lines()) == 2 * MOST_LINES
    ring.run(INTERVAL)
    counted = lines()[2 * MOST_LINES :]
    assert [text.partition("(")[2] for _, text in counted] == [f"{MOST_LINES} times more in a minute)"] * 2
    assert {level for level, _ in counted} == {"INFO", "WARNING"}


def test_a_link_that_carries_nothing_is_named(make_ring, lines, monkeypatch):
    ring = make_ring()
    ring.start(2)
    two = ring.endpoints[2]
    send_one = two._send_one
    monkeypatch.setattr(
        two,
        "_send_one",
        lambda sock, departure, datagram, *rest: (
            None if datagram[1] == 0x84 else send_one(sock, departure, datagram, *rest)
        ),
    )
    ring.run(30)
    assert ("WARNING", "node 1: link 0 to node 2 carries nothing: no probe of any size is answered") in (lines())
