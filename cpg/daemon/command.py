"""The command `cpgd`: one node of the ring, for all programs of its machine.

It runs in the foreground, as service managers expect. SIGTERM and SIGINT end it in order (clients are informed, the
leave is announced). SIGHUP reloads what can be reloaded: who may connect, and how much is logged.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Final

import trio

from cpg import libqb
from cpg.daemon.hub import MOST_CLIENTS, Hub
from cpg.daemon.server import ServedRing, serve
from cpg.daemon.status import LibqbState, replies
from cpg.embedded import prepare_ring
from cpg.formatting import nodes, transport, transport_figures
from cpg.local.access import Access
from cpg.local.client_socket import default_socket, usual_socket
from cpg.local.command_line import CommandParser, path
from cpg.local.lifecycle import (
    EXIT_CODES,
    Life,
    descriptors_for_clients,
    live,
    notify,
    prepare_process,
    reload_settings,
    run_daemon,
)
from cpg.local.program import DEFAULT_CONFIG, DONE, own_version, write_now
from cpg.local.scheduling import Scheduler
from cpg.local.server_socket import listening
from cpg.local.start import ring_in_time
from totem.addresses import is_local, resolve
from totem.config import Logging
from totem.corosync_conf import Resolve, load, load_section, own_node
from totem.errors import AddressUnavailable
from totem.store import check_folder, default_directory

_log = logging.getLogger(__name__)

NAMES_PAUSE: Final = 5.0
"""Seconds between two tries to get libqb's names."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    return run_daemon(parser(), _run, arguments)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = CommandParser(
        prog="cpgd",
        description="Run a node of a ring for the programs of this machine, until SIGTERM.",
        epilog=f"examples:\n  cpgd\n  cpgd -c ring.conf --node 2 --socket /tmp/node2\n\n{EXIT_CODES}",
    )
    whole.add_argument(
        "-c",
        "--config",
        type=path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"the ring's configuration, in corosync.conf's format (default {DEFAULT_CONFIG})",
    )
    whole.add_argument("--node", metavar="ID", help="the node to be (default: the one whose address is this machine's)")
    whole.add_argument(
        "--socket",
        type=path,
        metavar="PATH",
        help=f"where programs connect (default: as configured, else $CPGD_SOCKET, else {usual_socket('cpgd')})",
    )
    whole.add_argument("--check", action="store_true", help="print whether the configuration can be used, and exit")
    whole.add_argument("--version", action="version", version=f"cpgd {own_version()}")
    return whole


async def _run(options: argparse.Namespace) -> int:
    if options.check:
        return _check(options)
    section = load_section(options.config, "cpgd", {"socket": str})  # this resolves no name
    prepare_process("cpgd", section.logging)
    path = Path(options.socket or section.values.get("socket") or default_socket("cpgd"))
    access = Access(section.user_rules)
    known = cache(resolve)  # a reload resolves no name again

    async def body(life: Life) -> None:
        with life.starting:
            await _live(options, path, access, known, life)

    await live(Scheduler(section.scheduling), partial(_reload, options.config, access, known), body)
    return DONE


async def _live(options: argparse.Namespace, path: Path, access: Access, known: Resolve, life: Life) -> None:
    """Be a node, from the first try to find the network on."""
    with suppress(AddressUnavailable):  # errors are reported before there is a socket
        await trio.to_thread.run_sync(partial(load, options.config, resolve=known), abandon_on_cancel=True)
    with listening(path) as listener:
        prepare = partial(prepare_ring, ServedRing, node=options.node, daemon=True)
        ring = await ring_in_time(prepare, options.config, resolve=known)
        access.reserved = ring.config.daemon.reserved
        await _serve(ring, listener, access, life)
    _log.info("node %d has left", ring.node_id)


def _check(options: argparse.Namespace) -> int:
    """Print whether the configuration can be used now, and log its warnings."""
    config, warnings = load(options.config)
    node = config.node(own_node(config, options.node))
    for warning in warnings:
        _log.warning("%s", warning)
    for _, address in config.addresses_of(node):
        if not is_local(address):
            raise AddressUnavailable(f"node {node.node_id}: this machine has no address {address}", setting="node")
    check_folder(config.state_dir or default_directory())
    listed = nodes(tuple(entry.node_id for entry in config.nodes))
    write_now(
        f"{options.config} can be used: this is node {node.node_id} ({node.name}) of {listed};"
        f" {transport(transport_figures(config))}\n"
    )
    return DONE


async def _serve(ring: ServedRing, listener: socket.socket, access: Access, life: Life) -> None:
    most = min(MOST_CLIENTS, descriptors_for_clients() // 2)  # the other half is for clients of libqb
    hub = Hub(ring, access=access, most_clients=most, client_limit=ring.config.daemon.client_queue)
    libqb_state = LibqbState()
    hub.replies = replies(ring, hub, access, libqb_state)
    async with serve(listener, ring, hub), trio.open_nursery() as nursery:
        await _serve_libqb(ring, access, libqb_state, nursery)
        path = listener.getsockname()
        _log.info("node %d serves programs at %s; the ring has %s", ring.node_id, path, nodes(ring.node_ids))
        notify("READY=1", f"STATUS=node {ring.node_id} serves {path}")
        await life.lived()
        notify("STOPPING=1")
        nursery.cancel_scope.cancel()


async def _serve_libqb(ring: ServedRing, access: Access, libqb_state: LibqbState, nursery: trio.Nursery) -> None:
    """Serve programs that use libcpg, if that is configured, or if nothing is configured and nobody else serves them.

    A foreign owner of their names, and any owner where libqb is configured, may give them up: then they are taken.
    """
    wanted = ring.config.daemon.libqb
    if wanted is False:
        return
    error = await _begin_libqb(ring, access, libqb_state, nursery)
    if error is None:
        return
    is_foreign = error.owner is None or error.owner.uid not in access.trusted
    level = logging.ERROR if wanted or is_foreign else logging.WARNING
    hint = "" if wanted else " (`libqb: no` in section cpgd says so)"
    _log.log(level, "programs that use libcpg are not served: %s%s", error.strerror, hint)
    if wanted or is_foreign:  # else it is the machine's Corosync, which must find its names when it starts again
        nursery.start_soon(_wait_for_names, ring, access, libqb_state, nursery)


async def _wait_for_names(ring: ServedRing, access: Access, libqb_state: LibqbState, nursery: trio.Nursery) -> None:
    while await _begin_libqb(ring, access, libqb_state, nursery) is not None:
        await trio.sleep(NAMES_PAUSE)
    _log.info("programs that use libcpg are served now")


async def _begin_libqb(
    ring: ServedRing, access: Access, libqb_state: LibqbState, nursery: trio.Nursery
) -> libqb.NameTaken | None:
    """Serve programs that use libcpg from now on; return why that is not possible."""
    try:
        await nursery.start(partial(libqb.serve, ring, access=access))
    except libqb.NameTaken as error:
        libqb_state.lacks = str(error.strerror)
        return error
    libqb_state.serves, libqb_state.lacks = True, None
    return None


async def _reload(path: str, access: Access, known: Resolve) -> None:
    async def read() -> Logging:
        load_again = partial(load, path, resolve=known)
        config, _ = await trio.to_thread.run_sync(load_again, abandon_on_cancel=True)
        access.rules, access.reserved = config.user_rules, config.daemon.reserved
        return config.logging

    await reload_settings(read, "who may connect and join which groups, and what is logged")
