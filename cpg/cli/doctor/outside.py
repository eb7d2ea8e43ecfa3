"""Checks of the way to the other nodes. What is sent goes to a port that nobody uses, and is no packet of a ring."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from enum import Enum
from typing import Final

import trio

from cpg.cli.doctor.findings import Finding, ok, problem, untried, warning
from cpg.cli.doctor.inside import LinkPlace, Way
from cpg.cli.doctor.machine import Interface, ThisMachine
from totem.addresses import sockaddr
from totem.config import IP_UDP_HEADERS
from totem.sockets import forbid_cutting

UNUSED_PORT: Final = 33434
"""Traceroute's: machines refuse what comes there, which shows that it has come."""
_PATIENCE: Final = 1.1
"""Seconds for a refusal. Linux sends a machine one a second, after the first six."""
_ATTEMPTS: Final = 3
"""Small packets: the kernel asks a network for three seconds who has an address."""
_ROUNDS, _PROOF = 5, 3
"""Packets of full size, each before a small one, and how many small ones must be refused to prove something: refusals
get lost, and other traffic uses them up."""
_SMALLER: Final = (1492, 1450, 1400, 1280, 576)
"""Usual sizes of the largest packet."""


class Echo(Enum):
    """What came back from a port that nobody uses."""

    REFUSED = "refused"
    """The packet has come there."""
    NO_MACHINE = "no machine"
    """Nobody has this address."""
    NO_ROUTE = "no route"
    """This machine knows no way there."""
    TOO_LARGE = "too large"
    """The kernel, or a router, says so."""
    SILENCE = "silence"


async def echo(here: str, there: str, size: int = 0, attempts: int = 1) -> Echo:
    """Send a packet from one address to another; return what comes back.

    Args:
        here: The own address; empty for whatever fits.
        there: The other one.
        size: Bytes of the packet; 0 for a small one.
        attempts: Packets to send until one is answered.
    """
    family, place = sockaddr(there, UNUSED_PORT)
    payload = bytes(max(1, size - IP_UDP_HEADERS[6 if family == socket.AF_INET6 else 4]))
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        forbid_cutting(sock)
        try:
            if here:
                sock.bind(sockaddr(here, 0)[1])
            sock.connect(place)
            for _ in range(attempts):
                sock.send(payload)
                with trio.move_on_after(_PATIENCE):
                    await trio.lowlevel.wait_readable(sock)
                    sock.recv(1)
        except ConnectionRefusedError:
            return Echo.REFUSED
        except OSError as error:
            answers = {errno.EMSGSIZE: Echo.TOO_LARGE, errno.ENETUNREACH: Echo.NO_ROUTE}
            return answers.get(error.errno or 0, Echo.NO_MACHINE)
    return Echo.SILENCE


def check_route(way: Way, machine: ThisMachine, interface: Interface | None) -> Iterator[Finding]:
    """Check that the way to a node over a link begins at the interface of this node's address."""
    here, there, _ = way
    name = machine.route(there.address, here.address) if interface is not None else None
    if interface is not None and name not in (None, interface.name, "lo"):
        text = f"packets to {there.address} leave through {name}, though {here.address} is on {interface.name}"
        yield warning(_subject(way), text, "correct the routes (ip route get), or the addresses of the link")


async def check_way(way: Way, mtu: int, source: str) -> tuple[Echo, Finding]:
    """Check that packets get to the machine of a node; return what came back, and what that means.

    Args:
        way: To that node, over a link.
        mtu: Bytes of packets that must get there too; 0: any size will do.
        source: The own address, or empty where this machine does not have it.
    """
    subject, there = _subject(way), way.there
    small = await echo(source, there.address, attempts=_ATTEMPTS)
    if small is Echo.REFUSED:
        return small, await _check_size(subject, there, mtu, source)
    if small is Echo.SILENCE:
        text = f"nothing comes back from {there.address}, UDP port {UNUSED_PORT}, which machines refuse if not filtered"
        return small, untried(subject, text, "if the node does not join, see whether it is on, and its firewall")
    if small is Echo.NO_ROUTE:
        text = f"this machine has no route to {there.address}"
        return small, problem(subject, text, "correct its address or the prefix of it, or add a route (ip route)")
    text = f"no machine says that it has {there.address}"
    remedy = "see whether it is on, plugged in, in this network (VLAN), and has that address"
    return small, problem(subject, text, remedy)


async def _check_size(subject: str, there: LinkPlace, mtu: int, source: str) -> Finding:
    if not mtu:
        return ok(subject, f"packets get to {there.address}")
    answered = 0
    for _ in range(_ROUNDS):
        answer = await echo(source, there.address, mtu)
        if answer is Echo.REFUSED:
            text = f"packets of {mtu} bytes get to {there.address}"
            return ok(subject, f"{text}; cpg doctor there tests the other direction")
        answered += await echo(source, there.address) is Echo.REFUSED
        if answer is Echo.TOO_LARGE or answered >= _PROOF:
            return await _too_large(subject, there, mtu, source)
    text = f"packets get to {there.address}, but too few are answered to tell whether those of {mtu} bytes do"
    return untried(subject, text, "if the ring makes no progress, run cpg doctor again")


async def _too_large(subject: str, there: LinkPlace, mtu: int, source: str) -> Finding:
    for smaller in (size for size in _SMALLER if size < mtu):
        if await echo(source, there.address, smaller, attempts=2) is Echo.REFUSED:
            text = f"packets of {mtu} bytes do not get to {there.address}, those of {smaller} bytes do"
            remedy = f"find what carries less on the way (a switch, a tunnel), or set netmtu {smaller} at all nodes"
            return problem(subject, text, remedy)
    text = f"only small packets get to {there.address}"
    return problem(subject, text, "find what loses the others on the way (a switch, a tunnel, a firewall)")


def _subject(way: Way) -> str:
    return f"way to node {way.node_id} on link {way.there.link}"
