"""The ring of a command: the daemon's, one of which it is a node itself, or that of this machine's Corosync."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import trio

from cpg.client.asynchronous import DaemonRing, connect
from cpg.embedded import EmbeddedRing, open_ring
from cpg.events import Member
from cpg.formatting import nodes
from cpg.libcpg.corosync import CorosyncRing, open_corosync
from cpg.local.client_socket import CPGD
from cpg.local.program import DEFAULT_CONFIG
from cpg.node.quorum import QuorumStatus
from cpg.status import ring_status
from totem.streams import complain

HINT_DELAY: Final = 3.0
"""Seconds of waiting for a majority after which the user is told what the command waits for."""
_GLANCE: Final = 0.1
"""Seconds between two checks of a ring that is being formed."""

AnyRing = EmbeddedRing | CorosyncRing | DaemonRing


def check(options: argparse.Namespace) -> str | None:
    """Return what is wrong with options that exclude each other."""
    if options.node is None:
        return None
    if options.corosync:
        return "argument --node: not allowed with argument --corosync, where Corosync's configuration says it"
    if options.socket is not None:
        return "argument --node: not allowed with argument --socket, where the daemon is the node"
    return None


def ring_of(options: argparse.Namespace) -> AbstractAsyncContextManager[AnyRing]:
    """Open the ring that the options name."""
    if options.corosync:
        return open_corosync()
    return own_ring_of(options)


def own_ring_of(options: argparse.Namespace) -> AbstractAsyncContextManager[EmbeddedRing | DaemonRing]:
    """Open the ring that the options name, where that cannot be Corosync's."""
    if options.config is None and options.node is None:
        return connect(options.socket, reconnect=False)
    return open_ring(options.config or DEFAULT_CONFIG, options.node)


async def wait_for_majority(ring: AnyRing, options: argparse.Namespace) -> None:
    """Wait for a majority of the nodelist, or for quorum: a message that nobody receives is useless."""
    if options.alone:
        return
    listed = await _nodes_that_count(ring)
    if listed is None:
        wait, wanted = ring.wait_quorate, "quorum"
        there = nodes(ring.node_ids)
    else:
        majority = listed // 2 + 1
        wait, wanted = partial(ring.wait_members, majority), str(majority)
        there = f"{len(ring.node_ids)} of the nodelist's {listed} nodes"
    with trio.move_on_after(HINT_DELAY):
        await wait()
        return
    complain("cpg", f"{there} here, waiting for {wanted} (--alone does not wait)")
    await wait()


async def _nodes_that_count(ring: AnyRing) -> int | None:
    """Return the number of nodes in the nodelist; None where votes count."""
    if isinstance(ring, CorosyncRing):
        return None
    status = await status_source(ring)()
    return None if status["quorum"] is not None else len(status["nodes"])


async def is_quorate(ring: AnyRing) -> bool:
    """Wait a moment for quorum, in a ring that orders messages: one that is being formed does not."""
    with trio.move_on_after(HINT_DELAY):
        await ring.wait_quorate()
        if not isinstance(ring, CorosyncRing):
            ask = status_source(ring)
            while not (await ask())["quorate"]:
                await trio.sleep(_GLANCE)
        return True
    return False


async def groups_of(ring: AnyRing) -> dict[bytes, tuple[Member, ...]]:
    """Return the members of all groups."""
    if isinstance(ring, DaemonRing):
        return await CPGD.answered(ring.list_groups, partial(complain, "cpg"), ring.path)
    return await ring.list_groups()


async def _answer(ring: DaemonRing, question: str) -> Any:
    return await CPGD.answered(partial(ring.query, question), partial(complain, "cpg"), ring.path)


async def quorum_status(ring: AnyRing) -> QuorumStatus | None:
    """Return the figures of quorum; None without a quorum provider, and from Corosync."""
    if isinstance(ring, EmbeddedRing):
        return ring.quorum
    if isinstance(ring, CorosyncRing):
        return None
    values = await _answer(ring, "quorum")
    return QuorumStatus.of(values) if values is not None else None


def status_source(ring: EmbeddedRing | DaemonRing) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return a function that reads the node's status (`cpg.status`)."""
    if isinstance(ring, DaemonRing):
        return partial(_answer, ring, "status")
    started = trio.current_time()

    async def read() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return ring_status(ring, started, trio.current_time())

    return read
