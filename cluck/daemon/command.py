"""The command `cluckd`: the lock server of its machine.

It runs in the foreground, as service managers expect. SIGTERM and SIGINT end it in order (clients are informed, the
group is left). SIGHUP reloads what can be reloaded: who may connect, and how much is logged.

If the ring belongs to another daemon and that ends, the lock server has lost its place in the order. All that it knew
is void then. It starts anew as soon as there is a ring again, and gets the state from the others. It sends its clients
goodbye; they reconnect by themselves. Until there is a ring they get the reason why there is none.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import trio

from cluck.clock import boot_time
from cluck.daemon import settings as reading
from cluck.daemon.backends import electorate_of, is_reserved, ring_of
from cluck.daemon.server import Server
from cluck.daemon.settings import DEFAULT_FILE, Backend, Settings
from cluck.server.host import Host
from cluck.server.store import Disk, this_boot
from cpg.embedded import EmbeddedRing
from cpg.errors import CorosyncUnavailable, DaemonUnavailable, SlowConsumer
from cpg.formatting import nodes
from cpg.local.access import Access
from cpg.local.client_socket import usual_socket
from cpg.local.command_line import CommandParser, path
from cpg.local.lifecycle import EXIT_CODES, Life, live, notify, prepare_process, reload_settings, run_daemon
from cpg.local.log import set_level
from cpg.local.program import DONE, own_version, sole
from cpg.local.scheduling import Scheduler
from cpg.local.server_socket import listening
from cpg.replication.replica import ReplicaSettings
from totem.errors import RingLost
from totem.log_fields import event_fields, extra
from totem.store import words

_log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two tries to find a ring again."""
_LOST: Final = (RingLost, SlowConsumer, DaemonUnavailable, CorosyncUnavailable, OSError)
"""Errors that may go away by themselves: there is no ring, or the disk cannot be read or written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    return run_daemon(parser(), _run, arguments)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    whole = CommandParser(
        prog="cluckd",
        description="""\
Run the lock server of this machine, until SIGTERM. Section cluckd of a file has
the settings, under the names of the options; options take precedence.""",
        epilog=f"""\
examples:
  cluckd                                        on the ring of this machine's cpgd
  cluckd --backend corosync --servers 1,2,3     on the ring of its Corosync
  cluckd -c ring.conf --node 2 --socket /tmp/locks2 --state-dir /tmp/state2

{EXIT_CODES}""",
    )
    whole.add_argument(
        "-c",
        "--config",
        type=path,
        metavar="FILE",
        help=f"the file with section cluckd (default {DEFAULT_FILE}, if it exists). If that is a ring's configuration, "
        "the lock server is a node of the ring, unless --backend names another",
    )
    _add(whole, "backend", "WHICH", f"the ring to use: {', '.join(Backend)}, a node of its own (default: see -c)")
    whole.add_argument("--node", metavar="ID", help="the node of the ring to be, if it is a node itself")
    _add(whole, "cpg_socket", "PATH", "the socket of cpgd, if it is not the usual one")
    _add(
        whole,
        "servers",
        "IDS",
        "nodes with a lock server, the same everywhere: 1,2,3 (default: all of the nodelist); later `cluck voters`",
    )
    _add(
        whole,
        "priority",
        "1..14|off",
        "rank as leader of the lock service, the lowest first (default 14); off: never",
    )
    _add(
        whole,
        "socket",
        "PATH",
        f"where programs connect (default: as configured, else $CLUCKD_SOCKET, else {usual_socket('cluckd')})",
    )
    _add(whole, "state_dir", "FOLDER", "for what must outlive restarts: epochs of tokens")
    _add(whole, "tie_breaker", "ID", "the node with which an exact half of the lock servers is enough")
    _add(whole, "unsafe_half", "yes|no", "let any exact half grant locks: both halves may do so, and tokens may repeat")
    _add(whole, "group", "NAME", "the lock servers' group, the same everywhere (default cluck)")
    whole.add_argument(
        "--force-birth",
        action="store_true",
        help="begin without locks as soon as a majority is present, without waiting for the end of former leases: use "
        "it if you know that nobody holds a lock",
    )
    whole.add_argument("--version", action="version", version=f"cluckd {own_version()}")
    return whole


def _add(whole: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    """Add an option for a key of the section."""
    reader = reading.READERS[name]

    def read(value: str) -> Any:
        try:
            return reader(value)
        except ValueError as right:
            raise argparse.ArgumentTypeError(f"'{value}' is wrong, it must be {right}") from None

    whole.add_argument(f"--{name.replace('_', '-')}", type=read, metavar=metavar, help=text)


async def _run(options: argparse.Namespace) -> int:
    settings = reading.read(options)
    prepare_process("cluckd", settings.logging)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    access = Access(settings.user_rules)
    server = Server(access)

    async def body(life: Life) -> None:
        with listening(settings.socket) as listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.accept, listener)
                with life.starting:
                    await _serve(settings, options, server, life)
                nursery.cancel_scope.cancel()

    await live(Scheduler(settings.scheduling, below=1), partial(_reload, options, access, server), body)
    _log.info("the lock server has ended")
    return DONE


async def _serve(settings: Settings, options: argparse.Namespace, server: Server, life: Life) -> None:
    """Serve until the end of the daemon's life, anew each time that there is a ring again."""
    while True:
        try:
            await _serve_ring(settings, options, server, life)
            return
        except Exception as error:
            lost = sole(error)
            if settings.backend is Backend.RING or not isinstance(lost, _LOST):
                raise
            if life.is_over:  # both were to end, and the ring was faster
                return
            if isinstance(lost, OSError):
                text, why = "no lock server until its disk can be used: %s", words(lost)
            else:
                text, why = "no lock server until there is a ring: %s", str(lost)
            if server.why != why:
                _log.warning(text, why, extra=extra(event_fields("waiting", why=text % why)))
            server.set_unavailable(why)
        await trio.sleep(PAUSE)


async def _serve_ring(settings: Settings, options: argparse.Namespace, server: Server, life: Life) -> None:
    """Serve as long as there is a ring."""
    async with ring_of(settings, options.node) as ring:
        server.node = ring if isinstance(ring, EmbeddedRing) else None
        disk = Disk(settings.state_dir, ring.node_id, settings.group)
        known = ReplicaSettings(
            electorate=await electorate_of(ring, settings),
            safe=ring.gives_safe,
            priority=settings.priority,
            in_process=False,
            boot=this_boot(),
            survivors=disk.is_of_this_boot,
            force_birth=options.force_birth,
        )
        if not await is_reserved(ring, settings.group):
            _log.warning(
                "all users whom the ring's daemons let in may join the lock servers' group %s: reserve it at all nodes "
                "with `reserved { group: %s }` in section cpgd, each word on its line",
                settings.group,
                settings.group,
            )
        async with ring.join(settings.group) as group, trio.open_nursery() as nursery:
            host = Host(group, known, disk, clock=boot_time, key=disk.key())
            nursery.start_soon(host.run)
            options.force_birth = False  # the option is for this start, not for later ones
            async with server.serving(host):
                voters = host.service.replica.voters
                servers = nodes(tuple(voters.electorate.votes if voters is not None else known.electorate.votes))
                _log.info("node %d serves programs at %s; lock servers: %s", ring.node_id, settings.socket, servers)
                notify("READY=1", f"STATUS=node {ring.node_id} serves {settings.socket}")
                await life.lived()
                notify("STOPPING=1")
            nursery.cancel_scope.cancel()


async def _reload(options: argparse.Namespace, access: Access, server: Server) -> None:
    async def read() -> str:
        settings = reading.read(options)
        changed = await server.node.reload() if server.node is not None else ()
        access.rules = settings.user_rules
        set_level(settings.logging)
        what = "who may connect, and what is logged"
        return f"{what}; {len(changed)} changes of the ring" if changed else f"{what}; all else needs a restart"

    await reload_settings(read)
