"""The command `cpgd`: one node of the ring, for all programs of its machine.

It runs in the foreground, as service managers expect. SIGTERM and SIGINT end it in order (clients are informed, the
leave is announced). SIGHUP reloads the configuration.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cpg import libqb
from cpg.client.asynchronous import connect
from cpg.client.ipc import COMPARE
from cpg.daemon.hub import MOST_CLIENTS, Hub, Order
from cpg.daemon.orders import Orders, is_order
from cpg.daemon.server import ServedRing, serve
from cpg.daemon.status import LibqbState, replies
from cpg.embedded import prepare_ring
from cpg.formatting import comparison, nodes, transport, transport_figures
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
from cpg.local.program import DEFAULT_CONFIG, DONE, FAILED, own_version, write_now
from cpg.local.scheduling import Scheduler
from cpg.local.server_socket import listening
from cpg.local.start import ring_in_time
from totem.addresses import is_local
from totem.config import Config
from totem.corosync_conf import ConfigFile, load, load_section, own_node
from totem.errors import AddressUnavailable, TotemError
from totem.store import check_folder, default_directory

_log = logging.getLogger(__name__)

_PATIENCE: Final = 3.0
"""Seconds for the answer of a daemon that runs."""
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
    whole.add_argument(
        "--check",
        action="store_true",
        help="print whether the configuration can be used, and what its reload would change at the daemon that runs, "
        "and exit: with 1 if that would refuse it",
    )
    whole.add_argument("--version", action="version", version=f"cpgd {own_version()}")
    return whole


async def _run(options: argparse.Namespace) -> int:
    if options.check:
        return await _check(options)
    section = load_section(options.config, "cpgd", {"socket": str})  # this resolves no name
    prepare_process("cpgd", section.logging)
    path = Path(options.socket or section.values.get("socket") or default_socket("cpgd"))
    access = Access(section.user_rules)
    orders = Orders(options.config, access)

    async def body(life: Life) -> None:
        with life.starting:
            await _live(options, path, access, orders, life)

    await live(Scheduler(section.scheduling), partial(reload_settings, orders.reload), body)
    return DONE


async def _live(options: argparse.Namespace, path: Path, access: Access, orders: Orders, life: Life) -> None:
    """Be a node, from the first try to find the network on."""
    file = ConfigFile(options.config)
    with suppress(AddressUnavailable):  # errors are reported before there is a socket
        await trio.to_thread.run_sync(file.load, abandon_on_cancel=True)
    with listening(path) as listener:
        prepare = partial(prepare_ring, ServedRing, node=options.node, daemon=True)
        ring = await ring_in_time(prepare, file)
        orders.serve(ring)
        await _serve(ring, listener, access, orders, life)
    _log.info("node %d has left", ring.node_id)


async def _check(options: argparse.Namespace) -> int:
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
    return await _compare(options, config, node.node_id)


async def _compare(options: argparse.Namespace, config: Config, node_id: int) -> int:
    """Print what a reload of the configuration would change at the daemon that runs as this node, if there is one."""
    path = options.socket or config.daemon.socket or None
    with suppress(TotemError, OSError), trio.move_on_after(_PATIENCE):
        async with connect(path, reconnect=False) as ring:
            if ring.node_id == node_id:
                answer = await ring.query(f"{COMPARE} {Path(options.config).resolve()}")
                write_now("".join(f"{line}\n" for line in comparison(answer)))
                return FAILED if answer["refused"] else DONE
    return DONE


async def _serve(ring: ServedRing, listener: socket.socket, access: Access, orders: Orders, life: Life) -> None:
    most = min(MOST_CLIENTS, descriptors_for_clients() // 2)  # the other half is for clients of libqb
    hub = Hub(ring, access=access, most_clients=most, client_limit=ring.config.daemon.client_queue)
    libqb_state = LibqbState()
    hub.replies = replies(ring, hub, access, libqb_state)
    async with serve(listener, ring, hub), trio.open_nursery() as nursery:
        hub.order = partial(_order, orders, ring, nursery)
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


def _order(orders: Orders, ring: ServedRing, nursery: trio.Nursery, text: str) -> Order | None:
    async def carry_out(answer: Callable[[object], None]) -> None:
        answer(await orders.carry_out(text))
        ring.write()

    return (lambda answer: nursery.start_soon(carry_out, answer)) if is_order(text) else None
