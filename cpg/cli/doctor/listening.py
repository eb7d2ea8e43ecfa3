"""What comes from the other nodes while no node runs here: over knet from its links, else from listening alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import trio

from cpg.cli.doctor.findings import Finding, ok, problem, untried, warning
from cpg.cli.doctor.inside import LinkPlace, places
from totem.config import Config
from totem.errors import MalformedDatagram
from totem.knet import KnetEndpoint
from totem.links.crypto import seal_of
from totem.links.machine import Links
from totem.links.path import SMALLEST_MTU
from totem.udp import UdpEndpoint
from totem.wire.codec import decode, decode_hint
from totem.wire.messages import Join, Mcast, MergeDetect

PING_INTERVAL: Final = 0.1
PING_TIMEOUT: Final = 0.4
"""Seconds: pings more often than a node sends them, so that a link is up in less than a second."""
LONGEST_SEARCH: Final = 25.0
"""Seconds for the search for the MTU."""
HEARD_INTERVALS: Final = 4
"""Pings of another node that must have come, if any come at all, until its silence means something."""
LONGEST_WAIT: Final = 12.0
LISTEN: Final = 2.0
"""Seconds to listen where there are no pings: Corosync's ring calls others several times a second."""


class Heard(NamedTuple):
    """What has come from one node over one link of knet."""

    node_id: int
    there: LinkPlace
    is_up: bool = False
    pongs: int = 0
    """Answers to pings of this machine."""
    latency: float = 0.0
    mtu: int = 0
    is_searching: bool = False
    """Whether the search for the MTU has not ended."""
    packets: int = 0
    """All that has come."""
    unopened: int = 0
    """Of these, those that do not open with what is configured here."""
    other_versions: int = 0
    """Of these, those that are no packets of knet as this node reads them."""
    is_refused: bool = False
    """Whether the machine there has said that nobody listens."""


class _WatchedLinks(Links):
    """The links of the doctor, which counts what comes from where."""

    def __init__(self, config: Config, node_id: int) -> None:
        assert config.knet is not None
        super().__init__(config, node_id, seal_of(config.knet, os.urandom))
        self.came: Counter[tuple[int, str]] = Counter()
        self.unopened: Counter[tuple[int, str]] = Counter()
        self.other_versions: Counter[tuple[int, str]] = Counter()
        self.refusals: set[tuple[int, int]] = set()

    def receive(self, link: int, source: str, datagrams: Sequence[bytes], now: float) -> list[bytes]:
        """Count, and go on."""
        before = self.drops.copy()
        packets = super().receive(link, source, datagrams, now)
        self.came[link, source] += len(datagrams)
        for cause, counts in (
            ("sealed otherwise", self.unopened),
            ("knet packet of another version", self.other_versions),
        ):
            counts[link, source] += self.drops[cause] - before[cause]
        return packets

    def unreachable(self, link: int, node_id: int, now: float) -> None:
        """Count, and go on."""
        self.refusals.add((link, node_id))
        super().unreachable(link, node_id, now)


async def hear_knet(config: Config, node_id: int, stay: float) -> list[Heard]:
    """Ping the other nodes from the ports of a node that does not run, and look for the MTU; return what has come.

    Others are answered for `stay` seconds. What has answered once counts, even if it has ended meanwhile, as another
    doctor has. Raises `OSError` where an address or a port cannot be had.
    """
    quick = _quick(config)
    endpoint = KnetEndpoint(quick, node_id)
    endpoint.links = links = _WatchedLinks(quick, node_id)
    others = [node for node in config.nodes if node.node_id != node_id]
    ways = [(node.node_id, there) for node in others for there in places(config, node)]
    answered: dict[tuple[int, LinkPlace], Heard] = {}
    began = trio.current_time()
    try:
        endpoint.start(began)
        while trio.current_time() - began < max(stay, _limit(config, links, node_id)):
            with trio.move_on_at(min(endpoint.deadline, trio.current_time() + PING_INTERVAL)):
                await endpoint.wait_readable()
            endpoint.drain(100)
            now = trio.current_time()
            if endpoint.deadline <= now:
                endpoint.advance(now)
            for way in ways:
                path = links.paths(way[0])[way[1].link]
                if path.is_usable and not path.is_searching:
                    answered[way] = _heard(links, *way)
    finally:
        endpoint.close()
    return [answered.get(way) or _heard(links, *way) for way in ways]


def _quick(config: Config) -> Config:
    """Return the configuration with faster pings: no other node knows how often this one pings."""
    assert config.knet is not None
    links = tuple(
        link._replace(ping_interval=PING_INTERVAL, ping_timeout=min(PING_TIMEOUT, link.ping_timeout))
        for link in config.knet.links
    )
    return replace(config, knet=replace(config.knet, links=links))


def _limit(config: Config, links: Links, node_id: int) -> float:
    """Return the seconds from the start after which more time would tell nothing more."""
    assert config.knet is not None
    limits = [0.0]
    for node in config.nodes:
        for link in config.knet.links if node.node_id != node_id else ():
            path = links.paths(node.node_id)[link.number]
            if not path.is_up:
                limits.append(min(HEARD_INTERVALS * link.ping_interval, LONGEST_WAIT))
            elif path.is_searching:
                limits.append(LONGEST_SEARCH)
    return max(limits)


def _heard(links: _WatchedLinks, node_id: int, there: LinkPlace) -> Heard:
    path = links.paths(node_id)[there.link]
    where = (there.link, there.address)
    return Heard(
        node_id,
        there,
        path.is_up,
        path.pongs,
        path.latency,
        path.mtu,
        path.is_searching,
        links.came[where],
        links.unopened[where],
        links.other_versions[where],
        (there.link, node_id) in links.refusals,
    )


def explain_knet(heard: Heard, config: Config, *, mtu: int) -> Finding:
    """Return what that means.

    Args:
        heard: What has come.
        config: The ring's.
        mtu: Bytes of the largest packet that leaves this machine for there; 0: not known.
    """
    assert config.knet is not None
    there, node_id = heard.there, heard.node_id
    subject = f"node {node_id} on link {there.link}"
    port = f"UDP port {there.port}"
    if heard.is_up:
        return _explain_mtu(subject, heard, mtu)
    if heard.unopened:
        mine = f"crypto_cipher {config.knet.cipher}, crypto_hash {config.knet.hash}, key {config.knet.fingerprint}"
        text = f"what it sends does not open with what is configured here ({mine})"
        return problem(subject, text, "copy the key file of a node that works; compare cpg doctor --fingerprint")
    if heard.other_versions:
        text = "it sends what are no packets of knet in clear: most likely it encrypts, or uses another transport"
        return problem(subject, text, "set the same transport, crypto_cipher and crypto_hash at all nodes")
    if heard.is_refused:
        text = f"its machine refuses {port}: no node runs there, or a firewall rejects it"
        return problem(subject, text, "start the node there, or meanwhile cpg doctor --stay 60")
    if heard.pongs:
        text = f"it answers only some pings ({heard.pongs})"
        return problem(subject, text, "look for lost packets on the way (cables, duplex, another machine's address)")
    if heard.packets:
        text = f"its packets come, but it does not answer: what is sent to {there.address} {port} does not get there"
        remedy = "look at its firewall, and whether its nodelist has this node at this address: cpg doctor there"
        return problem(subject, text, remedy)
    text = f"nothing comes back from {there.address} {port}: a firewall there or here, or no node runs there"
    return problem(subject, text, "look at that machine: cpg doctor there")


def _explain_mtu(subject: str, heard: Heard, mtu: int) -> Finding:
    text = f"it answers, in {1000 * heard.latency:.2f} ms"
    remedy = "find what carries less on the way (a switch, a tunnel)"
    if not heard.mtu:
        return problem(subject, f"{text}, but packets of {SMALLEST_MTU} bytes do not get there", remedy)
    if heard.is_searching:
        return warning(subject, f"{text}; the search for its MTU has not ended", "run cpg doctor again")
    if heard.mtu < mtu:
        smaller = f"{text}, but only packets of {heard.mtu} bytes get there, though {mtu} leave this machine"
        return warning(subject, smaller, f"{remedy}; until then knet cuts packets")
    return ok(subject, f"{text}; packets of {heard.mtu} bytes get there")


@dataclass
class HeardRing:
    """What has come over udpu or udp."""

    seconds: float = LISTEN
    """For so long was listened."""
    origins: Counter[int] = field(default_factory=Counter)
    """Packets of the ring, by the node that made them."""
    joins: dict[int, Join] = field(default_factory=dict)
    """The last Join of each node."""
    foreign: int = 0
    """Datagrams that are not of this transport."""
    unlisted: int = 0
    """Datagrams from addresses that are not in the nodelist."""

    def add(self, datagram: bytes) -> None:
        """Count a datagram."""
        try:
            message = decode(datagram)
        except MalformedDatagram:
            self.foreign += 1
            return
        self.origins[message.origin if isinstance(message, Mcast | Join | MergeDetect) else message.sender] += 1
        if isinstance(message, Join):
            self.joins[message.origin] = message


async def hear_ring(config: Config, node_id: int, stay: float) -> HeardRing:
    """Listen at the port of a node that does not run, for `stay` seconds or more.

    Raises `OSError` where it cannot be had.
    """
    heard = HeardRing(max(stay, LISTEN))
    endpoint = UdpEndpoint(config, node_id)
    try:
        with trio.move_on_after(heard.seconds):
            while True:
                await endpoint.wait_readable()
                for datagram in endpoint.drain(100):
                    heard.add(datagram)
    finally:
        endpoint.close()
    heard.unlisted = endpoint.drops["unlisted address"]
    return heard


def explain_ring(heard: HeardRing, config: Config, node_id: int) -> Iterator[Finding]:
    """Yield what that means."""
    listed = {node.node_id for node in config.nodes}
    for other in config.nodes:
        if other.node_id == node_id:
            continue
        subject = f"node {other.node_id}"
        join = heard.joins.get(other.node_id)
        cluster = _cluster(join) if join is not None else ""
        strangers = sorted(set(join.candidates) - listed) if join is not None else []
        if cluster and cluster != config.cluster_name:
            text = f"it belongs to cluster {cluster!r}, this node to {config.cluster_name!r}"
            yield problem(subject, text, "set the same cluster_name, or another port")
        elif strangers:
            text = f"it names node {', '.join(map(str, strangers))} for the ring, which the nodelist here does not have"
            yield problem(subject, text, "use the same nodelist at all nodes")
        elif heard.origins[other.node_id]:
            yield ok(subject, f"it is heard: {heard.origins[other.node_id]} packets in {heard.seconds:.0f} s")
        else:
            text = f"it was not heard in {heard.seconds:.0f} s: over {config.transport} nothing can be asked of it"
            yield untried(subject, text, "start the node here, then cpg doctor reads what that hears")
    strange = sorted(heard.origins.keys() - listed)
    if strange:
        text = f"node {', '.join(map(str, strange))} is heard, but not in the nodelist"
        yield problem("nodelist", text, "use the same nodelist at all nodes, or give the other ring another port")
    if heard.origins[node_id]:
        text = f"another machine sends as node {node_id}, which this node is to be"
        yield problem("nodelist", text, "give each node an id of its own at all nodes")
    if heard.foreign:
        text = f"{heard.foreign} datagrams came that no node of transport {config.transport} sends"
        yield problem("transport", text, "set the same transport at all nodes")
    if heard.unlisted:
        text = f"{heard.unlisted} datagrams came from addresses that are not in the nodelist"
        yield problem("nodelist", text, "add the node there to the nodelist of all nodes, or use another port")


def _cluster(join: Join) -> str:
    hint = decode_hint(join.hint) if join.hint else None
    return hint.cluster_name if hint is not None else ""
