"""The rings that a lock server can use, and the nodes that decide there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from cluck.daemon.settings import Backend, Settings
from cpg.client.asynchronous import DaemonRing, connect
from cpg.client.session import WrongDaemon
from cpg.embedded import EmbeddedRing, prepare_ring
from cpg.libcpg.corosync import CorosyncRing, open_corosync
from cpg.local.access import Access
from cpg.local.start import ring_in_time
from cpg.replication.electorate import Electorate
from cpg.ring import live
from totem.corosync_conf import ConfigFile
from totem.errors import ConfigError

AnyRing = EmbeddedRing | CorosyncRing | DaemonRing


@asynccontextmanager
async def ring_of(settings: Settings, node: str | None) -> AsyncGenerator[AnyRing, None]:
    """Take part in the ring. `node`: the node to be, if the lock server is a node itself."""
    match settings.backend:
        case Backend.CPGD:
            async with _ring_of_cpgd(settings.cpg_socket) as ring:
                yield ring
        case Backend.COROSYNC:
            async with open_corosync() as ring_of_corosync:
                yield ring_of_corosync
        case Backend.RING:
            assert settings.config is not None
            own_ring = await ring_in_time(partial(prepare_ring, EmbeddedRing, node=node), ConfigFile(settings.config))
            async with live(own_ring):
                yield own_ring


@asynccontextmanager
async def _ring_of_cpgd(path: str) -> AsyncGenerator[DaemonRing, None]:
    """Take part in the ring of the daemon that listens there. Raises `ConfigError` if that is another program."""
    try:
        async with connect(path or None, reconnect=False) as ring:
            yield ring
    except WrongDaemon as error:
        raise ConfigError(f"cpg_socket: {error}") from None


async def electorate_of(ring: AnyRing, settings: Settings) -> Electorate:
    """Return the nodes that decide: those in the settings, with a vote each, or else the nodelist with its votes.

    Raises `ConfigError`.
    """
    votes = dict.fromkeys(settings.servers, 1) or await _nodelist(ring, settings)
    if settings.tie_breaker is not None and settings.tie_breaker not in votes:
        servers = ", ".join(map(str, votes))
        raise ConfigError(f"tie_breaker: node {settings.tie_breaker} is not one of the lock servers: {servers}")
    return Electorate(votes, settings.tie_breaker, settings.unsafe_half)


async def is_reserved(ring: AnyRing, group: str) -> bool:
    """Return whether the configuration keeps users from joining a group. Corosync has no such setting: then True.

    This node's file stands for those of all nodes, since they should be the same.
    """
    if isinstance(ring, EmbeddedRing):
        return group in Access(reserved=ring.config.daemon.reserved).reserved_groups
    if isinstance(ring, DaemonRing):
        return group in (await ring.query("status"))["reserved"]
    return True


async def _nodelist(ring: AnyRing, settings: Settings) -> Mapping[int, int]:
    if isinstance(ring, EmbeddedRing):
        return {node.node_id: node.votes for node in ring.config.nodes}
    if isinstance(ring, DaemonRing):
        return {node["node"]: node["votes"] for node in (await ring.query("status"))["nodes"]}
    if settings.votes:
        return settings.votes
    raise ConfigError(
        "which nodes are lock servers? Name them with --servers, or give Corosync's configuration: -c FILE"
    )
